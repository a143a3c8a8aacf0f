//! Holds that end before their guards.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::time::sleep;

use super::support::{A_WHILE, SOON, has_waiters, is_busy, is_free, key, soon, within};
use crate::{LockError, LockManager, Loss, Owner};

/// The shortest TTL that all backends support.
const SHORT: Duration = Duration::from_secs(1);

/// `lost()` does not complete when the lock is released normally.
pub async fn a_normal_unlock_is_no_loss(a: LockManager, b: LockManager) {
    let key = key("no-loss");
    let guard = soon(a.lock(&key)).await;
    let mut lost = guard.lost();
    assert!((&mut lost).now_or_never().is_none());
    let other = lost.clone();
    guard.unlock().await.expect("unlocked");
    let next = soon(b.lock(&key)).await;
    b.force_unlock(&key).await.expect("the server answers");
    within(SOON, "the next one's loss", next.lost()).await;
    assert!(tokio::time::timeout(A_WHILE, lost).await.is_err());
    assert!(other.now_or_never().is_none());
}

/// Work that completes while the lock is held.
pub async fn run_returns_what_the_work_returns(a: LockManager, _: LockManager) {
    let key = key("run");
    let guard = soon(a.lock(&key)).await;
    let sum = guard.run(async {
        tokio::task::yield_now().await;
        1 + 2
    });
    assert_eq!(sum.await.expect("not lost"), 3);
    assert!(!guard.is_lost());
}

/// Work that is running when the lock is lost, and work that begins afterwards.
pub async fn run_drops_the_work_at_the_loss(a: LockManager, b: LockManager) {
    let key = key("run-lost");
    let guard = soon(a.lock(&key)).await;
    let alive = Arc::new(());
    let work = {
        let alive = alive.clone();
        async move {
            pending::<()>().await;
            drop(alive);
        }
    };
    let (error, _) = tokio::join!(within(SOON, "the loss", guard.run(work)), async {
        b.force_unlock(&key).await.expect("the server answers")
    });
    let error = error.expect_err("lost");
    assert!(matches!(error, LockError::Expired { cause: Loss::Revoked, .. }), "{error:?}");
    assert_eq!(Arc::strong_count(&alive), 1, "the work was dropped");
    let late = guard.run(async { panic!("the lock is lost, this must not run") });
    assert_eq!(late.await.expect_err("lost").code(), "LOCK_EXPIRED");
}

/// The owner of a lost hold has to queue like any other owner.
pub async fn a_lost_hold_is_not_entered_again(a: LockManager, b: LockManager) {
    let key = key("not-again");
    let guard = soon(a.lock(&key)).await;
    b.force_unlock(&key).await.expect("the server answers");
    let taken = soon(b.lock(&key)).await;
    within(SOON, "the loss", guard.lost()).await;
    assert!(a.try_lock(&key).await.expect("the server answers").is_none());
    let error = a.lock(&key).timeout(A_WHILE).await.expect_err("held by another");
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    taken.unlock().await.expect("unlocked");
    assert_eq!(soon(a.lock(&key)).await.depth(), 1);
}

/// A hold ends at `max_hold` although it is renewed, and the lock is free then.
pub async fn max_hold_ends_a_hold(a: LockManager, b: LockManager) {
    let (key, also) = (key("max-hold"), key("max-hold-also"));
    let age = Duration::from_millis(400);
    let other = soon(a.lock(&also)).await;
    let start = Instant::now();
    let guard = soon(a.lock(&key).max_hold(age)).await;
    assert!(guard.remaining() <= age);
    assert_eq!(within(age + SOON, "the loss", guard.lost()).await, Loss::MaxHold);
    let held = start.elapsed();
    assert!(held >= age - Duration::from_millis(50), "{held:?}");
    // Although the guard still exists.
    drop(soon(b.lock(&key)).await);
    assert!(!other.is_lost());
    let error = guard.unlock().await.expect_err("lost");
    assert!(matches!(error, LockError::Expired { cause: Loss::MaxHold, .. }), "{error:?}");
}

/// Without renewal a hold ends after its TTL; its owner is notified first.
pub async fn a_hold_without_renewal_expires(a: LockManager, b: LockManager) {
    let (key, also) = (key("expires"), key("expires-also"));
    let other = soon(a.lock(&also)).await;
    let guard = soon(a.lock(&key).ttl(SHORT).auto_renew(false)).await;
    let waiting = tokio::spawn(b.lock(&key).into_future());
    let granted_first = tokio::select! {
        biased;
        cause = guard.lost() => {
            assert_eq!(cause, Loss::Expired);
            false
        }
        () = async { while !waiting.is_finished() { sleep(Duration::from_millis(1)).await } } => true,
    };
    assert!(!granted_first, "another client got the lock before the loss was notified");
    drop(within(2 * SOON, "the lock after its expiry", waiting).await.expect("no panic").expect("granted"));
    assert!(!other.is_lost());
    assert_eq!(guard.unlock().await.expect_err("lost").code(), "LOCK_EXPIRED");
}

/// The TTL of a hold without renewal counts from its grant, and a longer wait does not lose its place.
pub async fn a_hold_without_renewal_counts_from_its_grant(a: LockManager, b: LockManager) {
    let key = key("counts-from-its-grant");
    let ttl = 2 * SHORT;
    for pause in [ttl * 85 / 100, ttl * 2] {
        let held = soon(b.lock(&key)).await;
        let request = a.lock(&key).ttl(ttl).auto_renew(false);
        let waiting = tokio::spawn(async move {
            let guard = request.await.expect("granted");
            (guard.remaining(), guard)
        });
        has_waiters(&b, &key, 1).await;
        sleep(pause).await;
        let behind = tokio::spawn(b.lock(&key).owner(&Owner::new()).into_future());
        sleep(A_WHILE).await;
        drop(held);
        let (certain, guard) = within(SOON, "the lock", waiting).await.expect("no panic");
        assert!(guard.is_lost() || !behind.is_finished(), "it lost its place");
        assert!(certain > ttl * 3 / 4, "{certain:?} after {pause:?}");
        assert_eq!(within(ttl + 2 * SOON, "the loss", guard.lost()).await, Loss::Expired);
        drop(within(2 * SOON, "the next holder", behind).await.expect("no panic").expect("granted"));
    }
}

/// A manual renewal restores the full TTL.
pub async fn a_renewal_by_hand_prolongs_the_hold(a: LockManager, b: LockManager) {
    let key = key("by-hand");
    let guard = soon(a.lock(&key).ttl(2 * SHORT).auto_renew(false)).await;
    for _ in 0..6 {
        sleep(SHORT / 2).await;
        let before = guard.remaining();
        let certain = guard.renew().await.expect("renewed");
        assert!(certain > before && guard.remaining() > before, "{certain:?} after {before:?}");
    }
    assert!(!guard.is_lost() && is_busy(&b, &key).await);
}

/// Renewal in the background keeps a hold for longer than its TTL.
pub async fn a_hold_outlives_its_ttl(a: LockManager, b: LockManager) {
    let (session, alone) = (key("outlives-ttl"), key("outlives-ttl-alone"));
    let guards = [soon(a.lock(&session).ttl(SHORT)).await, soon(a.lock(&alone).ttl(SHORT).isolated()).await];
    let start = Instant::now();
    // A backend may round the TTL up to two seconds.
    while start.elapsed() < 4 * SHORT {
        for guard in &guards {
            assert!(!guard.is_lost() && !guard.remaining().is_zero());
            assert!(is_busy(&b, guard.key()).await);
        }
        sleep(A_WHILE).await;
    }
    for guard in guards {
        guard.unlock().await.expect("never lost");
    }
}

/// The remaining time of a new hold is slightly less than its TTL.
pub async fn remaining_is_within_the_ttl(a: LockManager, _: LockManager) {
    let ttl = Duration::from_secs(10);
    let guard = soon(a.lock(key("remaining")).ttl(ttl)).await;
    let remaining = guard.remaining();
    assert!(remaining > ttl / 2 && remaining <= ttl, "{remaining:?}");
    let renewed = guard.renew().await.expect("renewed");
    assert!(renewed > ttl / 2 && renewed <= ttl, "{renewed:?}");
}

/// A handle renews its manager's hold, and fails if there is none.
pub async fn only_held_keys_can_be_renewed(a: LockManager, b: LockManager) {
    let key = key("renew");
    let handle = a.handle(&key).expect("a good key");
    let not_held = async || {
        let error = handle.renew().await.expect_err("not held");
        assert_eq!((error.code(), error.key()), ("LOCK_NOT_HELD", Some(&*key)), "{error}");
    };
    not_held().await;
    let guard = soon(handle.lock()).await;
    assert!(!handle.renew().await.expect("held").is_zero());
    guard.unlock().await.expect("unlocked");
    not_held().await;
    let _others = soon(b.lock(&key)).await;
    not_held().await;
    drop(_others);
    is_free(&a, &key).await;
}
