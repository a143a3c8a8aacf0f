//! The first program of the README, and the same on a plain thread.

use std::time::Duration;

use leasehold::{LockManager, Loss};

#[tokio::test]
async fn a_task_locks_nests_and_releases() {
    let manager = LockManager::memory();
    let outer = manager.lock("k").await.unwrap();
    let inner = manager.lock("k").await.unwrap();
    assert_eq!(inner.depth(), 2);
    let other = tokio::spawn({
        let manager = manager.clone();
        async move { manager.try_lock("k").await.unwrap().is_none() }
    });
    assert!(other.await.unwrap());
    drop(outer);
    assert_eq!(inner.depth(), 1);
    inner.unlock().await.unwrap();
    assert!(manager.info("k").await.unwrap().is_none());
}

#[test]
fn a_thread_locks_nests_and_waits() {
    let manager = LockManager::memory();
    let outer = manager.lock("k").wait().unwrap();
    let inner = manager.try_lock("k").wait().unwrap().unwrap();
    assert_eq!(inner.depth(), 2);
    let waiter = std::thread::spawn({
        let manager = manager.clone();
        move || manager.lock("k").wait().unwrap().token()
    });
    while manager.stats().waiting == 0 {
        std::thread::yield_now();
    }
    let token = outer.token();
    drop((outer, inner));
    assert!(waiter.join().unwrap() > token);
}

#[tokio::test]
async fn a_loss_is_notified_and_the_manager_recovers() {
    let (holder, admin) =
        (LockManager::connect("memory://smoke").await.unwrap(), LockManager::connect("memory://smoke").await.unwrap());
    let guard = holder.lock("k").await.unwrap();
    let waiting = tokio::spawn(admin.lock("k").timeout(Duration::from_secs(10)).into_future());
    let eviction = admin.force_unlock("k").await.unwrap();
    assert_eq!(eviction.released, ["k"]);
    assert_eq!(guard.lost().await, Loss::Revoked);
    assert_eq!(guard.unlock().await.unwrap_err().code(), "LOCK_EXPIRED");
    drop(waiting.await.unwrap().unwrap());
    drop(holder.lock("k").await.unwrap());
}

#[tokio::test]
async fn a_timeout_names_the_holder() {
    let holder = LockManager::builder().url("memory://smoke2").name("holder").build().await.unwrap();
    let other = LockManager::connect("memory://smoke2").await.unwrap();
    let _guard = holder.lock("k").await.unwrap();
    let error = other.lock("k").timeout(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    assert!(error.to_string().contains("holder"), "{error}");
    assert_eq!(other.stats().waiting, 0);
}
