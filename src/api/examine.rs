//! The examination of a server: what is wrong with it, before locks depend on it.

use std::time::{Duration, Instant};

use futures::future::try_join;

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
            try_locks(&url, &mut all).await;
        }
        let minimum_ttl = judge_ttl(settings.ttl, &examined.demands, examined.is_reachable, &mut all);
        examined.findings.extend(all.into_list());
        Ok(Report { findings: examined.findings, minimum_ttl })
    })
}

async fn try_locks(url: &str, findings: &mut Findings) {
    match lock(url).await {
        Ok(took) => findings.ok("locks", format!("acquired, waited for, shared, listed and revoked in {took:.1?}")),
        Err(error) => {
            let advice = "Correct what is wrong above, if anything; no program can use locks with this URL.";
            findings.wrong("locks", error.to_string(), advice);
        }
    }
}

/// Does with a lock of its own what programs do with theirs, by two managers that contend like two processes.
async fn lock(url: &str) -> Result<Duration> {
    let connect = || LockManagerBuilder::default().url(url).name("leasehold-doctor").build();
    let (one, other) = (connect().await?, connect().await?);
    let key = format!("leasehold-doctor-{:016x}", rand::random::<u64>());
    let begun = Instant::now();
    let guard = one.lock(&key).timeout(PATIENCE).await?;
    let handing_over = async {
        guard.wanted().await;
        guard.unlock().await
    };
    let waiting = async { other.lock(&key).timeout(PATIENCE).await };
    let (_, guard) = try_join(handing_over, waiting).await?;
    guard.unlock().await?;
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
