//! Corner cases on a real etcd.

use std::future::IntoFuture;
use std::time::Duration;

use leasehold::LockManager;
use support::etcd::Etcd;
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn the_longest_durations_are_no_overflow() {
    let longest =
        || LockManager::builder().url(Etcd::shared().url()).timeout(Duration::MAX).retry_interval(Duration::MAX);
    let (a, b) = (longest().build().await.unwrap(), longest().build().await.unwrap());
    let guard = a.lock("k").timeout(Duration::MAX).max_hold(Duration::MAX).await.unwrap();
    let waiting = tokio::spawn(b.lock("k").timeout(Duration::MAX).into_future());
    sleep(Duration::from_millis(300)).await;
    assert!(b.try_lock("k").await.unwrap().is_none());
    guard.unlock().await.unwrap();
    drop(timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap());
}
