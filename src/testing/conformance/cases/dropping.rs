//! Guards and requests may be dropped anywhere.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use futures::FutureExt;

use super::support::{SOON, eventually, is_busy, is_free, key, on_thread, runtime, soon};
use crate::LockManager;

/// On a plain thread, after the end of the runtime in which the lock was acquired.
pub async fn a_guard_may_be_dropped_after_the_runtime(a: LockManager, b: LockManager) {
    let key = key("after-the-runtime");
    let (inside, its_key) = (a.clone(), key.clone());
    on_thread(move || {
        let runtime = runtime();
        let guard = runtime.block_on(inside.lock(&its_key).into_future()).expect("granted");
        let other = runtime.block_on(inside.lock(&its_key).owner(&guard.owner()).into_future()).expect("granted");
        runtime.shutdown_background();
        drop(guard);
        assert!(!other.is_lost());
        drop(other);
    })
    .await;
    is_free(&b, &key).await;
}

/// While a task or a thread unwinds.
pub async fn a_guard_may_be_dropped_in_a_panic(a: LockManager, b: LockManager) {
    let key = key("in-a-panic");
    let guard = soon(a.lock(&key)).await;
    let failed = tokio::spawn(async move {
        let _guard = guard;
        // A panic without its message on the terminal.
        resume_unwind(Box::new("on purpose"));
    });
    assert!(failed.await.is_err_and(|error| error.is_panic()));
    is_free(&b, &key).await;

    let (inside, its_key) = (a.clone(), key.clone());
    on_thread(move || {
        let unwinding = AssertUnwindSafe(|| {
            let _guard = inside.lock(&its_key).wait().expect("granted");
            resume_unwind(Box::new("on purpose"));
        });
        assert!(catch_unwind(unwinding).is_err());
    })
    .await;
    is_free(&b, &key).await;
}

/// `unlock()` consumes the guard, and releases whether it is polled or not.
pub async fn an_unlock_that_is_not_polled_releases(a: LockManager, b: LockManager) {
    let key = key("unpolled");
    let guard = soon(a.lock(&key)).await;
    drop(guard.unlock());
    is_free(&b, &key).await;
}

/// An `unlock()` that is dropped continues in the background.
pub async fn an_unlock_that_is_dropped_halfway_releases(a: LockManager, b: LockManager) {
    let key = key("halfway");
    for _ in 0..5 {
        let guard = soon(a.lock(&key)).await;
        let mut unlock = guard.unlock();
        // May be complete already, if there is no network.
        let _ = (&mut unlock).now_or_never();
        drop(unlock);
        is_free(&b, &key).await;
    }
}

/// Nothing happens before the first poll.
pub async fn a_request_that_is_not_polled_does_nothing(a: LockManager, b: LockManager) {
    let key = key("unpolled-request");
    drop(a.lock(&key).into_future());
    drop(a.try_lock(&key));
    let kept = a.lock(&key).into_future();
    assert!(b.info(&key).await.expect("the server answers").is_none());
    drop(kept);
    eventually(SOON, "the key is removed", || std::future::ready(a.stats().keys == 0)).await;
}

/// A guard keeps its hold after the manager was dropped.
pub async fn a_guard_outlives_its_manager(a: LockManager, b: LockManager) {
    let key = key("outlives");
    let guard = soon(a.lock(&key)).await;
    drop(a);
    assert!(is_busy(&b, &key).await && !guard.is_lost());
    let again = guard.reenter().expect("not lost");
    drop(guard);
    again.unlock().await.expect("unlocked");
    is_free(&b, &key).await;
}

/// After `unlock()` has returned, the lock is free at the server.
pub async fn unlock_returns_when_the_lock_is_free(a: LockManager, b: LockManager) {
    let key = key("confirmed");
    for _ in 0..10 {
        soon(a.lock(&key)).await.unlock().await.expect("unlocked");
        assert!(b.info(&key).await.expect("the server answers").is_none());
        drop(b.try_lock(&key).await.expect("the server answers").expect("free"));
        is_free(&a, &key).await;
    }
}
