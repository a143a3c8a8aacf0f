//! What `leasehold run` reports while it waits for the lock.

use std::convert::Infallible;
use std::time::Duration;

use leasehold::{Holder, LockManager, Printable};
use tokio::time::sleep;

use super::exit::say_aside;
use super::table::Row;

/// A wait that is not longer is not reported.
const SHORT: Duration = Duration::from_millis(300);
/// The time from one line to the next at least.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints who holds the lock, and again when that changes, until it is dropped.
pub(crate) async fn report(manager: &LockManager, key: &str) -> Infallible {
    sleep(SHORT).await;
    let mut states = manager.watch(key);
    let mut last = None;
    // The request for the lock reports a server that does not answer. A backend or an account that cannot watch ends the states.
    while let Some(state) = states.next().await {
        let Ok(Some(info)) = state else { continue };
        // This program is a holder when its grant is on the way.
        if info.holders.iter().any(is_this_process) {
            continue;
        }
        let row = Row::from(info);
        let shown = row.identity();
        if last.as_ref() == Some(&shown) {
            continue;
        }
        last = Some(shown);
        let line = say_aside(format!("{}: {}", Printable(key), row.held()));
        // The states in between are left out. Standard error may be a pipe that nobody reads now.
        sleep(PAUSE).await;
        while !line.is_printed() {
            sleep(PAUSE).await;
        }
    }
    std::future::pending().await
}

fn is_this_process(holder: &Holder) -> bool {
    holder.pid == std::process::id() && *holder.host == *rustix::system::uname().nodename().to_string_lossy()
}
