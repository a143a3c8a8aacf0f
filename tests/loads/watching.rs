//! How long a change of the holders takes to reach a watch.

use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager};
use support::PATIENCE;
use support::etcd::Etcd;
use support::redis::Redis;
use tokio::time::timeout;

const CHANGES: usize = 500;

/// The time for all changes, if a machine is slow.
const ENOUGH: Duration = Duration::from_secs(10);

/// Makes one change after another, each when the last one was seen by another manager. Returns how long they took, from the call.
async fn latencies(url: &str, patience: Duration) -> Vec<Duration> {
    let (changing, watching) = (LockManager::connect(url).await.unwrap(), LockManager::connect(url).await.unwrap());
    let mut watch = watching.watch("k");
    let mut seen = async |value: Option<&str>| loop {
        let state = timeout(PATIENCE, watch.next()).await.expect("the last state").unwrap().unwrap();
        let shown = state.as_ref().map(|info| info.values[0].as_deref().unwrap());
        if shown == value {
            return;
        }
    };
    seen(None).await;
    let (mut took, mut held, start) = (Vec::new(), None::<LockGuard>, Instant::now());
    while took.len() < CHANGES && start.elapsed() < ENOUGH {
        // The watch may be between two looks when a change comes right after another one.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..12))).await;
        let (value, begun) = (took.len().to_string(), Instant::now());
        held = match held {
            None => Some(changing.lock("k").value(&value).await.unwrap()),
            Some(guard) => {
                guard.unlock().await.unwrap();
                None
            }
        };
        seen(held.as_ref().map(|_| &*value)).await;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    let scheme = url.split(':').next().unwrap();
    println!(
        "{scheme}: {} changes, seen after {:?}, 99% within {:?}, all {:?}",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(at(0.5) < patience, "{:?}", at(0.5));
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_memory_is_seen_at_once() {
    let _alone = crate::ALONE.lock().await;
    assert!(latencies("memory://watching", Duration::from_millis(20)).await.len() > CHANGES / 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_redis_is_seen_within_milliseconds() {
    let _alone = crate::ALONE.lock().await;
    let redis = Redis::start();
    assert!(latencies(&redis.url(), Duration::from_millis(50)).await.len() > CHANGES / 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_on_etcd_is_seen_within_milliseconds() {
    let _alone = crate::ALONE.lock().await;
    let etcd = Etcd::start();
    assert!(latencies(&etcd.url(), Duration::from_millis(100)).await.len() > CHANGES / 5);
}
