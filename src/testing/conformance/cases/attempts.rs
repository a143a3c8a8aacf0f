//! `try_lock`, timeouts and retry limits.

use std::time::{Duration, Instant};

use super::support::{A_WHILE, SOON, is_free, key, on_thread, queue_up, soon, stranger, try_as_stranger};
use crate::{LockError, LockManager, LockRequest, Owner};

const LIMIT: Duration = Duration::from_millis(300);

/// `None` if any manager holds the key, and a guard otherwise.
pub async fn try_lock_reports_whether_the_lock_is_free(a: LockManager, b: LockManager) {
    let key = key("try");
    let guard = a.try_lock(&key).await.expect("the server answers").expect("free");
    assert!(try_as_stranger(&a, &key).await.is_none());
    assert!(b.try_lock(&key).await.expect("the server answers").is_none());
    guard.unlock().await.expect("unlocked");
    let guard = b.try_lock(&key).await.expect("the server answers").expect("free");
    assert!(a.try_lock(&key).await.expect("the server answers").is_none());
    drop(guard);
    is_free(&a, &key).await;
}

/// A drop returns before the server has released the lock, but the same process can acquire it at once.
pub async fn try_lock_works_right_after_a_drop(a: LockManager, _: LockManager) {
    let key = key("after-a-drop");
    for round in 0..50 {
        let guard = try_as_stranger(&a, &key).await;
        assert!(guard.is_some(), "free, but not granted in round {round}");
        drop(guard);
    }
}

/// Blocking calls, without a runtime.
pub async fn try_lock_works_on_a_thread(a: LockManager, b: LockManager) {
    let key = key("try-on-a-thread");
    on_thread(move || {
        let guard = a.try_lock(&key).wait().expect("the server answers").expect("free");
        assert!(b.try_lock(&key).wait().expect("the server answers").is_none());
        guard.unlock().wait().expect("unlocked");
        assert!(b.try_lock(&key).wait().expect("the server answers").is_some());
    })
    .await;
}

async fn times_out(request: LockRequest, limit: Duration) -> LockError {
    let start = Instant::now();
    let error = request.await.expect_err("another owner holds it");
    let waited = start.elapsed();
    assert_eq!(error.code(), "LOCK_TIMEOUT", "{error}");
    assert!(waited >= limit && waited < limit + SOON, "{limit:?} asked, {waited:?} waited");
    error
}

/// The error names the holder in the other manager, and the time waited.
pub async fn a_timeout_names_the_holder(a: LockManager, b: LockManager) {
    let key = key("timeout");
    let _guard = soon(a.lock(&key)).await;
    let expected = a.info(&key).await.expect("the server answers").expect("held").holders.remove(0);
    let error = times_out(b.lock(&key).timeout(LIMIT), LIMIT).await;
    assert_eq!(error.key(), Some(&*key));
    let LockError::Timeout { holder, after, .. } = &error else { panic!("{error:?}") };
    assert_eq!(holder.as_ref(), Some(&expected));
    assert!(*after >= LIMIT, "{after:?}");
    assert!(error.to_string().contains(&expected.name), "{error}");
}

/// The same if the holder is another task of this process.
pub async fn a_timeout_within_a_process_names_the_holder(a: LockManager, _: LockManager) {
    let key = key("timeout-here");
    let _guard = soon(a.lock(&key)).await;
    let expected = a.info(&key).await.expect("the server answers").expect("held").holders.remove(0);
    let error = times_out(stranger(a.lock(&key)).timeout(LIMIT), LIMIT).await;
    let LockError::Timeout { holder, .. } = &error else { panic!("{error:?}") };
    assert_eq!(holder.as_ref(), Some(&expected));
}

/// A waiter that has timed out blocks no other one.
pub async fn a_timeout_leaves_no_claim(a: LockManager, b: LockManager) {
    let key = key("timeout-leaves");
    let guard = soon(a.lock(&key)).await;
    times_out(b.lock(&key).timeout(A_WHILE), A_WHILE).await;
    times_out(stranger(a.lock(&key)).timeout(A_WHILE), A_WHILE).await;
    super::support::has_waiters(&a, &key, 0).await;
    assert_eq!((a.stats().waiting, b.stats().waiting), (0, 0));
    drop(guard);
    is_free(&a, &key).await;
    drop(soon(b.lock(&key)).await);
}

/// A number of retries is a limit like a timeout.
pub async fn retries_bound_the_wait(a: LockManager, b: LockManager) {
    let key = key("retries");
    let _guard = soon(a.lock(&key)).await;
    let (interval, times) = (Duration::from_millis(50), 6);
    for manager in [&a, &b] {
        let request = stranger(manager.lock(&key)).retry_interval(interval).max_retries(times);
        times_out(request, interval * times).await;
    }
    let both = stranger(b.lock(&key)).retry_interval(interval).max_retries(100).timeout(LIMIT);
    times_out(both, LIMIT).await;
    let none = queue_up(stranger(b.lock(&key)).retry_interval(Duration::from_millis(1)).max_retries(0));
    assert!(tokio::time::timeout(A_WHILE, none).await.is_err(), "zero is no limit");
}

/// A blocking wait has the same timeout, and succeeds if the lock becomes free.
pub async fn a_timeout_on_a_thread(a: LockManager, b: LockManager) {
    let key = key("timeout-on-a-thread");
    let guard = soon(a.lock(&key)).await;
    let blocked = (b.clone(), key.clone());
    let (waited, error) = on_thread(move || {
        let start = Instant::now();
        let error = blocked.0.lock(&blocked.1).timeout(LIMIT).wait().expect_err("another owner holds it");
        (start.elapsed(), error)
    })
    .await;
    assert_eq!(error.code(), "LOCK_TIMEOUT", "{error}");
    assert!(waited >= LIMIT && waited < LIMIT + SOON, "{waited:?}");
    drop(guard);
    on_thread(move || drop(b.lock(&key).timeout(SOON).wait().expect("free"))).await;
}

/// `None` at the end of the time, a guard if the lock becomes free within it, whatever the limit of retries.
pub async fn try_for_waits_for_a_while(a: LockManager, b: LockManager) {
    let key = key("try-for");
    let guard = soon(a.lock(&key)).await;
    let start = Instant::now();
    for waiting in [&a, &b] {
        let request = waiting.lock(&key).owner(&Owner::new()).max_retries(1);
        assert!(request.try_for(LIMIT).await.expect("the server answers").is_none());
    }
    let request = b.lock(&key).timeout(LIMIT / 2).try_for(100 * SOON);
    assert!(request.await.expect("the server answers").is_none());
    assert!(start.elapsed() >= LIMIT * 5 / 2);
    assert!(b.lock(&key).try_for(Duration::ZERO).await.expect("the server answers").is_none());
    let waiting = tokio::spawn(b.lock(&key).try_for(SOON));
    tokio::time::sleep(A_WHILE).await;
    drop(guard);
    drop(super::support::done(waiting).await.expect("the server answers").expect("free within the time"));
    is_free(&a, &key).await;
}

/// The lock is released at about the time at which its waiter gives up: it is granted, or nothing is left of the attempt.
pub async fn the_end_of_try_for_races_the_grant(a: LockManager, b: LockManager) {
    const TIME: Duration = Duration::from_millis(20);
    let key = key("race");
    for round in 0..40 {
        let guard = soon(a.lock(&key)).await;
        let waiting = tokio::spawn(b.lock(&key).owner(&Owner::new()).try_for(TIME));
        tokio::time::sleep(TIME - Duration::from_millis(5) + Duration::from_micros(250) * round).await;
        guard.unlock().await.expect("still held");
        // An error, if the server has not said in time that it was held.
        drop(super::support::done(waiting).await);
        is_free(&a, &key).await;
    }
}
