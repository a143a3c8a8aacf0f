//! Managers under the faults of a memory store, which users' tests can cause too.

use std::time::{Duration, Instant};

use leasehold::testing::{Call, ManualClock, MemoryLink, MemoryStore};
use leasehold::{LockError, LockManager, Loss, Owner};
use tokio::time::{sleep, timeout};

const TTL: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(5);

async fn manager(link: &MemoryLink) -> LockManager {
    LockManager::builder().backend(link.clone()).ttl(TTL).build().await.unwrap()
}

/// A store, a link that can be cut with its manager, and another manager.
async fn fixture() -> (MemoryStore, MemoryLink, LockManager, LockManager) {
    let store = MemoryStore::new();
    let link = store.link();
    let (a, b) = (manager(&link).await, manager(&store.link()).await);
    (store, link, a, b)
}

async fn is_free(manager: &LockManager, key: &str) {
    let start = Instant::now();
    while manager.info(key).await.unwrap().is_some() {
        assert!(start.elapsed() < SOON, "{key} is not free");
        sleep(Duration::from_millis(2)).await;
    }
}

fn cause(error: LockError) -> Loss {
    let LockError::Expired { cause, .. } = error else { panic!("{error:?}") };
    cause
}

#[tokio::test]
async fn a_disconnected_holder_loses_before_the_next_one_acquires() {
    let (_store, link, a, b) = fixture().await;
    let guard = a.lock("k").await.unwrap();
    link.partition();
    let waiting = tokio::spawn(b.lock("k").into_future());
    let lost = tokio::select! {
        biased;
        cause = guard.lost() => cause,
        () = async { while !waiting.is_finished() { tokio::task::yield_now().await } } => panic!("two holders at the same time"),
    };
    assert_eq!(lost, Loss::Unreachable);
    drop(timeout(SOON, waiting).await.unwrap().unwrap().unwrap());
    let start = Instant::now();
    drop(guard);
    assert!(start.elapsed() < Duration::from_millis(100));
    link.heal();
    drop(timeout(SOON, a.lock("k")).await.unwrap().unwrap());
}

/// A hold is not renewed any more once its release has begun, so its deadline stays.
#[tokio::test]
async fn an_unlock_without_a_server_ends_at_the_deadline_of_its_hold() {
    let (_store, link, a, b) = fixture().await;
    let (guard, _other) = (a.lock("k").await.unwrap(), a.lock("other").await.unwrap());
    link.partition();
    sleep(TTL / 3).await;
    let (deadline, began) = (guard.remaining(), Instant::now());
    let unlocking = tokio::spawn(guard.unlock());
    let next = timeout(SOON, b.lock("k")).await.unwrap().unwrap();
    let error = timeout(SOON, unlocking).await.unwrap().unwrap().unwrap_err();
    let took = began.elapsed();
    assert_eq!(cause(error), Loss::Unreachable);
    assert!(took < deadline + Duration::from_millis(300), "{took:?}, the deadline was in {deadline:?}");
    link.heal();
    next.unlock().await.unwrap();
    drop(timeout(SOON, a.lock("k")).await.unwrap().unwrap());
}

/// The first poll sends the release; a second poll is not needed.
#[tokio::test]
async fn an_unlock_that_is_polled_once_is_repeated() {
    let (_store, link, a, b) = fixture().await;
    let guard = a.lock("k").await.unwrap();
    link.drop_next_answer_to(Call::Release);
    link.partition();
    let mut unlocking = guard.unlock();
    assert!(futures::poll!(&mut unlocking).is_pending());
    link.heal();
    is_free(&b, "k").await;
    timeout(SOON, a.close()).await.unwrap().unwrap();
    drop(unlocking);
}

#[tokio::test]
async fn a_short_interruption_is_no_loss() {
    let (store, link, a, b) = fixture().await;
    let guard = a.lock("k").await.unwrap();
    for _ in 0..3 {
        link.partition();
        sleep(TTL / 4).await;
        link.heal();
        store.pause();
        sleep(TTL / 4).await;
        store.resume();
        sleep(TTL / 2).await;
        assert!(!guard.is_lost());
    }
    assert!(b.try_lock("k").await.unwrap().is_none());
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_loses_all_holds_before_it_continues() {
    let (store, _link, a, b) = fixture().await;
    let guards = [a.lock("k").await.unwrap(), b.lock("l").await.unwrap()];
    store.pause();
    for guard in &guards {
        assert_eq!(timeout(SOON, guard.lost()).await.unwrap(), Loss::Unreachable);
    }
    sleep(TTL / 4).await;
    store.resume();
    drop(timeout(SOON, a.lock("l")).await.unwrap().unwrap());
    drop(timeout(SOON, b.lock("k")).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_silent_expiry_is_found_at_the_next_renewal() {
    let (store, _link, a, _b) = fixture().await;
    let guard = a.lock("k").await.unwrap();
    assert!(store.expire("k"));
    let start = Instant::now();
    timeout(SOON, guard.lost()).await.unwrap();
    assert!(start.elapsed() < TTL, "{:?}", start.elapsed());
    drop(a.lock("k").await.unwrap());
}

#[tokio::test]
async fn revocation_and_theft_are_notified_within_200_ms() {
    let (store, _link, a, b) = fixture().await;
    for steal in [false, true] {
        let guard = a.lock("k").await.unwrap();
        let also = a.lock("also").await.unwrap();
        let start = Instant::now();
        let thief = if steal {
            Some(store.steal("k"))
        } else {
            assert_eq!(store.revoke("k").released, ["also", "k"]);
            None
        };
        assert_eq!(guard.lost().await, Loss::Revoked);
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!(also.is_lost(), !steal);
        if steal {
            let info = b.info("k").await.unwrap().unwrap();
            assert!(info.foreign && info.holders[0].name == "thief");
            let error = b.lock("k").timeout(Duration::from_millis(20)).await.unwrap_err();
            assert!(error.to_string().contains("thief"), "{error}");
        }
        drop(thief);
        assert_eq!(cause(guard.unlock().await.unwrap_err()), Loss::Revoked);
        drop(b.lock("k").await.unwrap());
    }
}

#[tokio::test]
async fn a_machine_that_was_suspended_finds_its_holds_lost() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(&clock);
    let manager = LockManager::builder().backend(store.link()).clock(clock.clone()).build().await.unwrap();
    let (first, second) = (manager.lock("k").await.unwrap(), manager.lock("l").await.unwrap());
    clock.advance(Duration::from_secs(60));
    // The first check afterwards finds the loss, and so does an unlock before any check.
    assert_eq!(cause(first.unlock().await.unwrap_err()), Loss::Expired);
    assert!(second.is_lost());
    drop(timeout(SOON, manager.lock("l")).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_lost_answer_leaves_one_hold_or_none() {
    let (_store, link, a, b) = fixture().await;
    link.drop_next_answer_to(Call::Acquire);
    let guard = timeout(SOON, a.lock("k")).await.unwrap().unwrap();
    assert_eq!(guard.depth(), 1);
    assert_eq!(b.info("k").await.unwrap().unwrap().holders.len(), 1);

    link.drop_next_answer_to(Call::Release);
    guard.unlock().await.unwrap();
    is_free(&b, "k").await;

    link.drop_next_answer_to(Call::Acquire);
    assert_eq!(a.try_lock("k").await.unwrap_err().code(), "BACKEND");
    is_free(&b, "k").await;

    let guard = a.lock("k").await.unwrap();
    link.drop_next_answer_to(Call::Renew);
    sleep(TTL).await;
    assert!(!guard.is_lost(), "one lost renewal is no loss");
}

#[tokio::test]
async fn a_request_that_arrives_after_its_clean_up_has_no_effect() {
    let (_store, link, a, b) = fixture().await;
    drop(a.lock("k").await.unwrap());
    link.hold_back_next_acquire();
    assert_eq!(a.try_lock("k").await.unwrap_err().code(), "BACKEND");
    // The clean-up was answered before the error was returned, or soon after.
    sleep(Duration::from_millis(50)).await;
    assert!(!link.deliver(), "the delayed request has taken effect");
    drop(b.try_lock("k").await.unwrap().expect("free"));
}

#[tokio::test]
async fn an_acquire_over_a_cut_link_keeps_its_timeout_and_leaves_nothing() {
    let (_store, link, a, b) = fixture().await;
    let held = b.lock("k").await.unwrap();
    link.partition();
    let start = Instant::now();
    let error = a.lock("k").timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    link.heal();

    // A grant whose answer cannot arrive.
    let waiting = tokio::spawn(a.lock("k").owner(&Owner::new()).into_future());
    while b.info("k").await.unwrap().unwrap().waiters == 0 {
        sleep(Duration::from_millis(2)).await;
    }
    link.partition();
    drop(held);
    waiting.abort();
    sleep(Duration::from_millis(50)).await;
    assert!(b.try_lock("k").await.unwrap().is_none(), "its claim is granted at the store");
    link.heal();
    is_free(&b, "k").await;
}

#[tokio::test]
async fn all_calls_continue_as_soon_as_the_server_answers() {
    let store = MemoryStore::new();
    let link = store.link();
    let limit = Duration::from_millis(100);
    let a = LockManager::builder().backend(link.clone()).ttl(TTL).timeout(limit).build().await.unwrap();
    let b = manager(&store.link()).await;
    let kept = a.lock("kept").ttl(Duration::from_secs(60)).await.unwrap();
    link.partition();
    // A release, and waiters that began at different times and have failed often enough to pause for seconds.
    drop(kept);
    let mut waiting = Vec::new();
    for key in ["k", "l", "m", "n"] {
        waiting.push(tokio::spawn(a.lock(key).into_future()));
        sleep(Duration::from_millis(500)).await;
    }
    sleep(Duration::from_millis(4500)).await;
    link.heal();
    let start = Instant::now();
    for guard in waiting {
        drop(timeout(SOON, guard).await.expect("granted after the outage").unwrap().unwrap());
    }
    is_free(&b, "kept").await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}
