//! The examination of a server: what is wrong with it, before locks depend on it.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{Either, select};

use super::builder::LockManagerBuilder;
use super::connect;
use super::manager::LockManager;
use super::pending::Pending;
use crate::backend::examination::{Examined, judge_ttl};
use crate::error::{LockError, Result};
use crate::finding::{Findings, Report};
use crate::keeper::Keeper;
use crate::settings::{BackendKind, Settings, validate};

/// The longest wait for a lock that nobody else uses.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest TTL of such a lock: what an interrupted examination leaves ends with it, and so does the wait for a server that has stopped.
const TTL: Duration = Duration::from_secs(10);

/// Beyond all waits, so that a URL with a short limit does not end the examination.
const MAX_HOLD: Duration = Duration::from_secs(60);

/// Examines the servers that a URL names, and tries locks there, which it removes.
///
/// # Errors
///
/// `InvalidConfig` and `Unsupported`, as of [`LockManager::connect`]. What is wrong with a server is no error, but a finding.
pub fn examine(url: impl AsRef<str>) -> Pending<Report> {
    let url = url.as_ref().to_owned();
    Pending::new(async move {
        let settings = Settings::parse(&url)?;
        validate(&settings, settings.backend)?;
        let keeper = Keeper::shared().map_err(|error| LockError::Unsupported {
            what: format!("the system cannot start the background thread: {error}"),
        })?;
        let mut examined = match connect::examine(&settings, &keeper).await? {
            Some(examined) => examined,
            // Memory, or a backend that is not compiled in.
            None => {
                LockManager::connect(&url).await?.close().await?;
                Examined { is_reachable: true, ..Examined::default() }
            }
        };
        let mut all = Findings::of(settings.backend.word());
        if settings.backend == BackendKind::Memory {
            all.ok("locks", "in this process only");
        } else if examined.is_reachable {
            try_locks(&url, settings.ttl, &mut all).await?;
        }
        let minimum_ttl = judge_ttl(settings.ttl, &examined.demands, examined.is_reachable, &mut all);
        examined.findings.extend(all.into_list());
        Ok(Report { findings: examined.findings, minimum_ttl })
    })
}

async fn try_locks(url: &str, ttl: Duration, findings: &mut Findings) -> Result<()> {
    match lock(url, ttl.min(TTL)).await {
        Ok(took) => findings.ok("locks", format!("acquired, waited for, shared, listed and revoked in {took:.1?}")),
        // A value that the backend refuses.
        Err(error @ LockError::InvalidConfig { .. }) => return Err(error),
        Err(error) => {
            let advice = "Correct what is wrong above, if anything; no program can use locks with this URL.";
            findings.wrong("locks", error.to_string(), advice);
        }
    }
    Ok(())
}

/// Does with a lock of its own what programs do with theirs, by two managers that contend like two processes.
async fn lock(url: &str, ttl: Duration) -> Result<Duration> {
    let connect =
        || LockManagerBuilder::default().url(url).name("leasehold-doctor").ttl(ttl).max_hold(MAX_HOLD).build();
    let (one, other) = (connect().await?, connect().await?);
    let key = format!("leasehold-doctor-{:016x}", rand::random::<u64>());
    let begun = Instant::now();
    let guard = one.lock(&key).timeout(PATIENCE).await?;
    let mut waiting = other.lock(&key).timeout(PATIENCE).into_future();
    let wanted = match select(pin!(guard.wanted()), &mut waiting).await {
        Either::Left(_) => None,
        Either::Right((granted, _)) => Some(granted),
    };
    // An error if the hold was lost, as it was if the other manager has been granted the lock.
    guard.unlock().await?;
    let granted = match wanted {
        None => waiting.await,
        Some(granted) => granted,
    };
    granted?.unlock().await?;
    let readers =
        (one.lock(&key).shared().timeout(PATIENCE).await?, other.lock(&key).shared().timeout(PATIENCE).await?);
    one.list(&key).await?;
    one.force_unlock(&key).await?;
    drop(readers);
    let took = begun.elapsed();
    one.close().await?;
    other.close().await?;
    Ok(took)
}
