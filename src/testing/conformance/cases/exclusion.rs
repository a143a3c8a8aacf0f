//! At most one owner holds a key exclusively, across managers, tasks and threads.

use std::sync::Arc;

use futures::future::join_all;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::support::{A_WHILE, Alone, done, is_busy, is_free, key, on_thread, soon};
use crate::LockManager;

/// While one manager holds a key, the other cannot.
pub async fn exclusive_holds_exclude_each_other(a: LockManager, b: LockManager) {
    let key = key("exclusive");
    let guard = soon(a.lock(&key)).await;
    assert!(is_busy(&b, &key).await && is_busy(&a, &key).await);
    guard.unlock().await.expect("unlocked");
    let guard = soon(b.lock(&key)).await;
    assert!(is_busy(&b, &key).await && is_busy(&a, &key).await);
    drop(guard);
    is_free(&a, &key).await;
}

/// Many tasks and threads of two managers acquire the same key repeatedly.
pub async fn threads_and_tasks_exclude_each_other(a: LockManager, b: LockManager) {
    const EACH: u64 = 10;
    let key = key("crowd");
    let alone = Arc::new(Alone::default());
    let tasks = (0..16).map(|n| {
        let (manager, key, alone) = (if n % 2 == 0 { a.clone() } else { b.clone() }, key.clone(), alone.clone());
        tokio::spawn(async move {
            for _ in 0..EACH {
                let _guard = manager.lock(&key).await.expect("granted");
                let _visit = alone.enter();
                yield_now().await;
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let threads = (0..4).map(|n| {
        let (manager, key, alone) = (if n % 2 == 0 { a.clone() } else { b.clone() }, key.clone(), alone.clone());
        on_thread(move || {
            for _ in 0..EACH {
                let _guard = manager.lock(&key).wait().expect("granted");
                let _visit = alone.enter();
                std::thread::yield_now();
            }
        })
    });
    join_all(threads).await;
    join_all(tasks.into_iter().map(done)).await;
    assert_eq!(alone.visits(), 20 * EACH);
    is_free(&a, &key).await;
}

/// A waiter of the other manager is woken by the release.
pub async fn a_waiter_gets_the_lock_when_it_is_released(a: LockManager, b: LockManager) {
    let key = key("woken");
    let guard = soon(a.lock(&key)).await;
    let waiting = tokio::spawn(soon(b.lock(&key)));
    sleep(A_WHILE).await;
    assert!(!waiting.is_finished());
    drop(guard);
    drop(done(waiting).await);
    is_free(&a, &key).await;
}

/// Keys are independent: waiters of one key do not delay another.
pub async fn waiters_of_one_key_do_not_hold_up_another(a: LockManager, b: LockManager) {
    let (busy, other) = (key("busy"), key("other"));
    let guard = soon(a.lock(&busy)).await;
    let waiting: Vec<_> = [&a, &b]
        .map(|manager| {
            let request = manager.lock(&busy);
            tokio::spawn(async move { drop(request.await.expect("granted")) })
        })
        .into();
    sleep(A_WHILE).await;
    for manager in [&a, &b] {
        drop(soon(manager.lock(&other)).await);
    }
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    drop(guard);
    for waiting in waiting {
        done(waiting).await;
    }
}
