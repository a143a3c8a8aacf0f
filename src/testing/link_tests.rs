use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{sleep, timeout};

use super::{Call, ManualClock, MemoryLink, MemoryStore};
use crate::backend::{AttemptId, Backend, Claim, ErrorKind, Event, Grant, Lease, LeaseScope, Wait};
use crate::info::{Holder, Mode};

const TTL: Duration = Duration::from_secs(30);

async fn claim(link: &MemoryLink, attempt: u64, key: &str) -> Claim {
    let lease = link.open(TTL, LeaseScope::Session).await.unwrap();
    Claim::new(AttemptId(attempt), key.into(), Mode::Exclusive, lease, Arc::new(Holder::new("h", "", 0)))
}

async fn take(link: &MemoryLink, claim: &Claim) -> Grant {
    link.acquire(claim, Wait::Never).await.unwrap().expect("free")
}

async fn hangs<T>(call: impl Future<Output = T>) {
    assert!(timeout(Duration::from_millis(20), call).await.is_err());
}

async fn lives(link: &MemoryLink, lease: Lease) -> bool {
    link.renew(&[lease]).await[0].is_ok()
}

#[tokio::test]
async fn calls_over_a_cut_link_wait_until_it_is_healed() {
    let store = MemoryStore::new();
    let (cut, whole) = (store.link(), store.link());
    let held = claim(&cut, 1, "k").await;
    take(&cut, &held).await;
    cut.partition();
    hangs(cut.ping()).await;
    assert!(whole.ping().await.is_ok());
    store.revoke("k");
    hangs(cut.next_event()).await;

    let clone = cut.clone();
    let (answer, ()) = tokio::join!(cut.ping(), async move {
        sleep(Duration::from_millis(20)).await;
        clone.heal();
    });
    assert!(answer.is_ok());
    assert_eq!(cut.next_event().await.unwrap(), Event::LeaseLost(held.lease.id));
}

#[tokio::test]
async fn a_waiter_behind_a_cut_link_is_granted() {
    let store = MemoryStore::new();
    let (cut, whole) = (store.link(), store.link());
    let first = take(&whole, &claim(&whole, 1, "k").await).await;
    let waiting = claim(&cut, 2, "k").await;
    let mut acquire = cut.acquire(&waiting, Wait::UntilGranted);
    assert!(futures::poll!(&mut acquire).is_pending());
    cut.partition();
    whole.release(&first).await.unwrap();
    assert_eq!(whole.inspect("k").await.unwrap().unwrap().waiters, 0);
    assert!(futures::poll!(&mut acquire).is_pending());
    cut.heal();
    assert!(acquire.await.unwrap().is_some());
}

#[tokio::test]
async fn a_renewal_over_a_cut_link_gives_up_in_time() {
    let store = MemoryStore::new();
    let link = store.link();
    let lease = link.open(Duration::from_millis(100), LeaseScope::Session).await.unwrap();
    link.partition();
    let answers = timeout(Duration::from_secs(1), link.renew(&[lease])).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn a_call_with_a_lost_answer_takes_effect() {
    let store = MemoryStore::new();
    let link = store.link();
    let first = claim(&link, 1, "k").await;
    link.drop_next_answer_to(Call::Acquire);
    assert!(link.ping().await.is_ok(), "another call");
    assert_eq!(link.acquire(&first, Wait::Never).await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert!(link.inspect("k").await.unwrap().is_some());

    link.drop_next_answer();
    assert_eq!(link.abort(&first).await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert!(link.inspect("k").await.unwrap().is_none());
}

#[tokio::test]
async fn a_request_that_arrives_after_its_abort_has_no_effect() {
    let store = MemoryStore::new();
    let link = store.link();
    for aborted in [false, true] {
        let late = claim(&link, 1, "k").await;
        link.hold_back_next_acquire();
        assert_eq!(link.acquire(&late, Wait::UntilGranted).await.unwrap_err().kind(), ErrorKind::Unreachable);
        if aborted {
            link.abort(&late).await.unwrap();
        }
        assert_eq!(link.deliver(), !aborted);
        link.abort(&late).await.unwrap();
    }
    assert!(!link.deliver());
}

#[tokio::test]
async fn a_paused_store_ends_no_lease() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(&clock);
    let (a, b) = (store.link(), store.link());
    let held = claim(&a, 1, "k").await;
    take(&a, &held).await;
    let waiting = claim(&b, 2, "k").await;
    let mut acquire = b.acquire(&waiting, Wait::UntilGranted);
    assert!(futures::poll!(&mut acquire).is_pending());
    for n in 0..3 {
        clock.advance(TTL / 2);
        assert!(lives(&b, waiting.lease).await);
        assert!(n == 2 || lives(&a, held.lease).await);
    }
    store.pause();
    clock.advance(TTL);
    assert!(futures::poll!(&mut acquire).is_pending());
    hangs(a.ping()).await;
    store.resume();
    assert!(!lives(&a, held.lease).await);
    assert_eq!(acquire.await.unwrap_err().kind(), ErrorKind::LeaseLost, "the waiter's lease had ended as well");
}

#[tokio::test]
async fn a_moved_clock_ends_leases_at_once() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(&clock);
    let (a, b) = (store.link(), store.link());
    take(&a, &claim(&a, 1, "k").await).await;
    clock.advance(TTL / 2);
    let waiting = claim(&b, 2, "k").await;
    let mut acquire = b.acquire(&waiting, Wait::UntilGranted);
    assert!(futures::poll!(&mut acquire).is_pending());
    clock.advance(TTL / 2);
    assert!(futures::poll!(&mut acquire).is_ready());
}

#[tokio::test]
async fn an_expiry_is_silent_and_a_revocation_is_notified() {
    let store = MemoryStore::new();
    let link = store.link();
    let held = claim(&link, 1, "k").await;
    take(&link, &held).await;
    assert!(store.expire("k") && !store.expire("k"));
    assert!(!lives(&link, held.lease).await);
    assert!(link.next_event().now_or_never().is_none());

    let held = claim(&link, 2, "k").await;
    take(&link, &held).await;
    assert_eq!(store.revoke("k").released, ["k"]);
    assert_eq!(link.next_event().await.unwrap(), Event::LeaseLost(held.lease.id));
}

#[tokio::test]
async fn a_thief_overtakes_all_waiters() {
    let store = MemoryStore::new();
    let link = store.link();
    let (held, waiting) = (claim(&link, 1, "k").await, claim(&link, 2, "k").await);
    let before = take(&link, &held).await;
    let mut acquire = link.acquire(&waiting, Wait::UntilGranted);
    assert!(futures::poll!(&mut acquire).is_pending());

    let thief = store.steal("k");
    assert_eq!(link.next_event().await.unwrap(), Event::ClaimLost(held.attempt));
    assert!(lives(&link, held.lease).await);
    let info = link.inspect("k").await.unwrap().unwrap();
    assert!(info.foreign && info.token.is_none() && info.holders[0].name == "thief" && info.waiters == 1, "{info:?}");
    assert!(futures::poll!(&mut acquire).is_pending());
    drop(thief);
    assert!(acquire.await.unwrap().unwrap().epoch > before.epoch + 1, "the thief's grant counts too");

    drop(store.steal("free"));
    assert!(link.inspect("free").await.unwrap().is_none());
}
