//! Waiters are served in order: first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

use super::support::{
    HAND_OVER, SOON, done, has_waiters, is_free, key, queue_up, soon, stranger, try_as_stranger, within,
};
use crate::LockManager;

/// Within a process, the order is exact.
pub async fn waiters_of_a_process_are_served_in_order(a: LockManager, _: LockManager) {
    const WAITERS: usize = 30;
    let key = key("fifo");
    let guard = soon(a.lock(&key)).await;
    let waiting: FuturesUnordered<_> = (0..WAITERS)
        .map(|n| {
            let acquire = queue_up(stranger(a.lock(&key)));
            async move { acquire.await.map(|guard| (n, guard)) }
        })
        .collect();
    drop(guard);
    let served = waiting.map(|granted| granted.expect("granted").0).collect::<Vec<_>>();
    let served = within(4 * SOON, "all are served", served).await;
    assert_eq!(served, (0..WAITERS).collect::<Vec<_>>());
    is_free(&a, &key).await;
}

/// A process that waits at the server is served before later waiters of the process that holds the key.
pub async fn waiters_of_two_managers_are_served_in_order(a: LockManager, b: LockManager) {
    let key = key("fifo-two");
    let guard = soon(a.lock(&key)).await;
    let first = tokio::spawn(b.lock(&key).into_future());
    has_waiters(&a, &key, 1).await;
    let second = tokio::spawn(stranger(a.lock(&key)).into_future());
    sleep(HAND_OVER).await;
    drop(guard);
    let first = done(first).await.expect("granted");
    sleep(HAND_OVER).await;
    assert!(!second.is_finished());
    drop(first);
    drop(done(second).await.expect("granted"));
}

/// A try does not overtake a waiter, not even between two holds.
pub async fn try_lock_does_not_overtake_a_local_waiter(a: LockManager, _: LockManager) {
    let key = key("no-overtaking");
    for _ in 0..20 {
        let guard = soon(a.lock(&key)).await;
        let waiting = queue_up(stranger(a.lock(&key)));
        drop(guard);
        assert!(try_as_stranger(&a, &key).await.is_none(), "a waiter was overtaken");
        drop(within(SOON, "the waiter", waiting).await.expect("granted"));
    }
}

/// The same with a waiter of another manager.
pub async fn try_lock_does_not_overtake_a_waiter_elsewhere(a: LockManager, b: LockManager) {
    let key = key("no-overtaking-two");
    for _ in 0..5 {
        let guard = soon(a.lock(&key)).await;
        let waiting = tokio::spawn(b.lock(&key).into_future());
        has_waiters(&a, &key, 1).await;
        drop(guard);
        assert!(try_as_stranger(&a, &key).await.is_none(), "a waiter was overtaken");
        drop(done(waiting).await.expect("granted"));
    }
}

/// However many tasks of one process want the key, another process gets it in time.
pub async fn a_busy_process_lets_another_in(a: LockManager, b: LockManager) {
    let key = key("turns");
    let stop = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (0..4)
        .map(|_| {
            let (a, key, stop) = (a.clone(), key.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let _guard = a.lock(&key).await.expect("granted");
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        drop(soon(b.lock(&key)).await);
    }
    stop.store(true, Ordering::SeqCst);
    for task in crowd {
        done(task).await;
    }
    is_free(&a, &key).await;
}
