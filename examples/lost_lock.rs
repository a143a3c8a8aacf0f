//! Holds the lock "job" and says at once when it is lost, and why.
//!
//! `cargo run --example lost_lock` loses it to itself after a second. On a server, lose it by hand:
//!
//! ```text
//! cargo run --features etcd --example lost_lock -- etcd://127.0.0.1:2379
//! etcdctl get leasehold/job/ --prefix --keys-only     # the claim: leasehold/job/<lease>-<attempt>
//! etcdctl lease revoke <lease>                        # or: etcdctl del leasehold/job/ --prefix
//! ```

use std::time::Duration;

use leasehold::{FencingToken, LockGuard, LockManager};
use tokio::time::sleep;

const IN_MEMORY: &str = "memory://lost_lock";

#[tokio::main]
async fn main() -> leasehold::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| IN_MEMORY.into());
    let manager = LockManager::connect(&url).await?;
    let guard = manager.lock("job").await?;
    println!("holding job, lease good for {:.1?}, token {}", guard.remaining(), guard.token());
    if url == IN_MEMORY {
        take_away_soon(LockManager::connect(&url).await?);
    } else if url.starts_with("etcd") {
        println!("to see its lease:    etcdctl get leasehold/job/ --prefix --keys-only");
        println!("                     which prints leasehold/job/<lease>-<attempt>");
        println!("to take it away:     etcdctl lease revoke <lease>");
    }
    tokio::select! {
        biased;
        cause = guard.lost() => println!("lost job: {cause} ({cause:?})"),
        _ = tokio::signal::ctrl_c() => println!("interrupted, releasing"),
        () = work(&guard) => {}
    }
    match guard.unlock().await {
        Ok(()) => println!("released job"),
        Err(error) => println!("not released: {error}"),
    }
    Ok(())
}

async fn work(guard: &LockGuard) {
    loop {
        sleep(Duration::from_millis(500)).await;
        write_report(guard.token());
    }
}

/// Where the work is done, the token goes along: whoever keeps the result can refuse it from a holder of the past.
fn write_report(_token: FencingToken) {}

fn take_away_soon(admin: LockManager) {
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        match admin.force_unlock("job").await {
            Ok(eviction) => println!("force-unlocked {:?}", eviction.released),
            Err(error) => println!("not force-unlocked: {error}"),
        }
    });
}
