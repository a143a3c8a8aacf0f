//! A future that is dropped at any point leaves nothing behind.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::support::{
    A_WHILE, SOON, done, eventually, has_waiters, is_free, key, queue_up, soon, stranger, try_as_stranger, within,
};
use crate::LockManager;

/// Polls at most `times` times, each after a wake-up, or until there was no wake-up for a while. True if the future was ready.
async fn poll_times<F: Future + Unpin>(mut future: F, times: usize) -> bool {
    let mut polls = 0;
    let polling = std::future::poll_fn(|cx| {
        if polls == times {
            return Poll::Ready(false);
        }
        polls += 1;
        let polled = Pin::new(&mut future).poll(cx).is_ready();
        if polled {
            return Poll::Ready(true);
        }
        if polls == times { Poll::Ready(false) } else { Poll::Pending }
    });
    timeout(A_WHILE / 4, polling).await.unwrap_or(false)
}

/// Asserts that the key is free, and that neither manager has waiters or keys.
async fn nothing_is_left(a: &LockManager, b: &LockManager, key: &str) {
    is_free(b, key).await;
    eventually(SOON, "no waiters", || std::future::ready(a.stats().waiting == 0 && b.stats().waiting == 0)).await;
    eventually(SOON, "no keys", || std::future::ready(a.stats().keys == 0 && b.stats().keys == 0)).await;
}

/// An acquire of a free lock.
pub async fn an_acquire_may_be_dropped_at_any_poll(a: LockManager, b: LockManager) {
    let key = key("dropped");
    for times in 0..20 {
        let ready = poll_times(stranger(a.lock(&key)).isolated().into_future(), times).await;
        is_free(&b, &key).await;
        let ready = poll_times(stranger(a.lock(&key)).into_future(), times).await && ready;
        is_free(&b, &key).await;
        if ready {
            break;
        }
    }
    nothing_is_left(&a, &b, &key).await;
    drop(soon(a.lock(&key)).await);
}

/// The same for a try.
pub async fn a_try_lock_may_be_dropped_at_any_poll(a: LockManager, b: LockManager) {
    let key = key("dropped-try");
    for times in 0..20 {
        if poll_times(stranger(a.lock(&key)).try_once(), times).await {
            break;
        }
        is_free(&b, &key).await;
    }
    nothing_is_left(&a, &b, &key).await;
    let _guard = soon(b.lock(&key)).await;
    for times in 0..5 {
        poll_times(stranger(a.lock(&key)).try_once(), times).await;
    }
    has_waiters(&b, &key, 0).await;
}

/// A waiter in the local queue.
pub async fn a_local_waiter_may_be_dropped_at_any_poll(a: LockManager, b: LockManager) {
    let key = key("dropped-here");
    let guard = soon(a.lock(&key)).await;
    for times in 0..4 {
        assert!(!poll_times(stranger(a.lock(&key)).into_future(), times).await);
        assert!(!poll_times(stranger(a.lock(&key).shared()).into_future(), times).await);
    }
    drop(guard);
    nothing_is_left(&a, &b, &key).await;
    // A waiter that was handed the lock and was not polled yet.
    let guard = soon(a.lock(&key)).await;
    let waiting = queue_up(stranger(a.lock(&key)));
    drop(guard);
    drop(waiting);
    nothing_is_left(&a, &b, &key).await;
}

/// A waiter in the server's queue.
pub async fn a_waiter_at_the_server_may_be_dropped_at_any_poll(a: LockManager, b: LockManager) {
    let key = key("dropped-there");
    let guard = soon(b.lock(&key)).await;
    for times in 0..6 {
        assert!(!poll_times(stranger(a.lock(&key)).into_future(), times).await);
        assert!(!poll_times(stranger(a.lock(&key)).isolated().into_future(), times).await);
    }
    has_waiters(&b, &key, 0).await;
    drop(guard);
    nothing_is_left(&a, &b, &key).await;
    // A waiter that the server has granted the lock meanwhile.
    let guard = soon(b.lock(&key)).await;
    let waiting = queue_up(a.lock(&key));
    guard.unlock().await.expect("unlocked");
    drop(waiting);
    nothing_is_left(&a, &b, &key).await;
}

/// The timeout and the grant happen at about the same time.
pub async fn a_timeout_that_races_the_grant_leaves_nothing(a: LockManager, b: LockManager) {
    const ROUNDS: u32 = 200;
    let key = key("race");
    let (mut granted, mut late) = (0, 0);
    for round in 0..ROUNDS {
        // Half of the rounds within the process.
        let holder = if round % 2 == 0 { &a } else { &b };
        let guard = soon(stranger(holder.lock(&key))).await;
        let (for_holder, for_waiter) = {
            let mut random = rand::rng();
            let mut time = || Duration::from_micros(random.random_range(0..3000));
            (time(), time())
        };
        let releasing = tokio::spawn(async move {
            sleep(for_holder).await;
            drop(guard);
        });
        let waiter = stranger(a.lock(&key));
        let outcome = if round % 4 < 2 {
            timeout(for_waiter, waiter).await.ok().map(|granted| granted.expect("granted"))
        } else {
            match waiter.timeout(for_waiter).await {
                Ok(guard) => Some(guard),
                Err(error) => {
                    assert_eq!(error.code(), "LOCK_TIMEOUT", "{error}");
                    None
                }
            }
        };
        match outcome {
            Some(_guard) => granted += 1,
            None => late += 1,
        }
        done(releasing).await;
    }
    assert_eq!(granted + late, ROUNDS);
    nothing_is_left(&a, &b, &key).await;
    drop(try_as_stranger(&a, &key).await.expect("free"));
}

/// Many tasks that wait, hold or release are aborted.
pub async fn aborted_tasks_leave_nothing(a: LockManager, b: LockManager) {
    let key = key("aborted");
    for _ in 0..3 {
        let tasks: Vec<_> = (0..30)
            .map(|n| {
                let (manager, key) = (if n % 3 == 0 { b.clone() } else { a.clone() }, key.clone());
                tokio::spawn(async move {
                    let shared = n % 5 == 0;
                    let request = manager.lock(&key);
                    let guard = if shared { request.shared().await } else { request.await }.expect("granted");
                    sleep(Duration::from_micros(500)).await;
                    guard.unlock().await.expect("unlocked");
                })
            })
            .collect();
        for task in tasks {
            let pause = Duration::from_micros(rand::rng().random_range(0..500));
            sleep(pause).await;
            task.abort();
        }
        nothing_is_left(&a, &b, &key).await;
    }
    drop(soon(a.lock(&key)).await);
    drop(soon(b.lock(&key)).await);
}

/// The waiter behind a cancelled one moves up, locally and at the server.
pub async fn a_cancelled_waiter_lets_the_next_one_in(a: LockManager, b: LockManager) {
    let key = key("moves-up");
    // With an existing session, the first poll of an acquire sends its claim.
    drop(soon(a.lock(&key)).await);
    let reader = soon(b.lock(&key).shared()).await;
    let writer = tokio::spawn(a.lock(&key).into_future());
    has_waiters(&b, &key, 1).await;
    let mut next = queue_up(stranger(a.lock(&key).shared()));
    let elsewhere = tokio::spawn(stranger(b.lock(&key).shared()).into_future());
    assert!(timeout(A_WHILE, &mut next).await.is_err());
    writer.abort();
    drop(within(SOON, "the reader behind it", next).await.expect("granted"));
    drop(done(elsewhere).await.expect("granted"));
    drop(reader);
    nothing_is_left(&a, &b, &key).await;
}
