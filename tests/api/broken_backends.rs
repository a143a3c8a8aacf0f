//! Backends that break their contract do no harm to others, and no call waits for ever.

use std::time::Duration;

use leasehold::{LockError, LockManager};
use support::broken::{Broken, Defect};
use support::{PATIENCE, in_a_separate_process};

async fn manager(defect: Defect) -> LockManager {
    LockManager::builder().backend(Broken::new(defect)).build().await.unwrap()
}

#[tokio::test]
async fn leases_that_end_at_once_do_not_outlast_the_timeout() {
    let manager = manager(Defect::DeadLease).await;
    let limit = Duration::from_millis(300);
    let outcome =
        tokio::time::timeout(PATIENCE, manager.lock("k").timeout(limit).into_future()).await.expect("endless");
    assert!(matches!(outcome, Err(LockError::Timeout { .. })), "{outcome:?}");
    let all = manager.lock_all(["a", "b"]).timeout(limit);
    let outcome = tokio::time::timeout(PATIENCE, all.into_future()).await.expect("endless");
    assert!(matches!(outcome, Err(LockError::Timeout { .. })), "{outcome:?}");
    // A call that does not wait has the manager's limit.
    assert!(tokio::time::timeout(PATIENCE, manager.try_lock("k")).await.expect("endless").is_err());
}

#[test]
fn endless_events_keep_no_other_manager_from_its_renewals() {
    // Both have the same background thread.
    in_a_separate_process!();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let flooded = manager(Defect::EndlessEvents).await;
        let other = LockManager::memory();
        let ttl = Duration::from_secs(1);
        let held = [flooded.lock("k").ttl(ttl).await.unwrap(), other.lock("k").ttl(ttl).await.unwrap()];
        tokio::time::sleep(2 * ttl).await;
        assert!(held.iter().all(|guard| !guard.is_lost()), "{held:?}");
        tokio::time::timeout(PATIENCE, flooded.close()).await.expect("endless").unwrap();
    });
}
