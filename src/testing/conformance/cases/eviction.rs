//! `force_unlock`, and the evicted holders.

use futures::future::{join, join_all};
use tokio::time::sleep;

use super::support::{A_WHILE, SOON, done, has_waiters, is_busy, is_free, key, soon, within};
use crate::{Eviction, LockError, LockGuard, LockInfo, LockManager, Loss, Mode};

async fn is_revoked(guard: &LockGuard) {
    assert_eq!(within(SOON, "the loss", guard.lost()).await, Loss::Revoked);
    assert!(guard.is_lost());
    assert!(guard.remaining().is_zero());
}

/// The lock is free, the holder is notified, and the caller gets the holder's name.
pub async fn force_unlock_names_the_holder(a: LockManager, b: LockManager) {
    let key = key("force");
    let guard = soon(a.lock(&key)).await;
    let holders = a.info(&key).await.expect("the server answers").expect("held").holders;
    let eviction = b.force_unlock(&key).await.expect("the server answers");
    assert_eq!(eviction.holders, holders);
    assert!(eviction.released.contains(&key), "{eviction:?}");
    is_revoked(&guard).await;
    is_free(&a, &key).await;
    drop(b.try_lock(&key).await.expect("the server answers").expect("free"));
}

/// Locks on the same lease are lost too, exactly those that the eviction lists.
pub async fn force_unlock_reports_what_else_was_lost(a: LockManager, b: LockManager) {
    let keys: Vec<_> = (0..4).map(|_| key("force-also")).collect();
    let victim = soon(a.lock(&keys[0])).await;
    let also = soon(a.lock(&keys[1])).await;
    let shared = soon(a.lock(&keys[2]).shared()).await;
    let elsewhere = soon(b.lock(&keys[3])).await;
    let eviction = b.force_unlock(&keys[0]).await.expect("the server answers");
    is_revoked(&victim).await;
    for guard in [&also, &shared] {
        if eviction.released.iter().any(|released| released == guard.key()) {
            is_revoked(guard).await;
            is_free(&b, guard.key()).await;
        } else {
            assert!(guard.renew().await.is_ok(), "{} is not listed as released", guard.key());
        }
    }
    assert!(!eviction.released.contains(&keys[3]));
    assert!(elsewhere.renew().await.is_ok());
    assert!(eviction.released.is_sorted());
}

/// `key_only` does not end the lease, so other keys stay held.
pub async fn key_only_takes_no_other_key(a: LockManager, b: LockManager) {
    let (taken, kept) = (key("key-only"), key("key-only-kept"));
    let victim = soon(a.lock(&taken)).await;
    let also = soon(a.lock(&kept)).await;
    let eviction = b.force_unlock(&taken).key_only().await.expect("the server answers");
    assert_eq!(eviction.released, [&*taken]);
    assert_eq!(eviction.holders.len(), 1);
    is_revoked(&victim).await;
    drop(soon(b.lock(&taken)).await);
    assert!(also.renew().await.is_ok() && !also.is_lost());
    assert!(is_busy(&b, &kept).await);
}

/// Evicting an isolated hold ends no other hold, and evicting other holds does not end it.
pub async fn an_isolated_hold_has_a_separate_lease(a: LockManager, b: LockManager) {
    let (alone, common) = (key("isolated"), key("isolated-common"));
    let isolated = soon(a.lock(&alone).isolated()).await;
    let session = soon(a.lock(&common)).await;
    assert_eq!(b.force_unlock(&common).await.expect("the server answers").released, [&*common]);
    is_revoked(&session).await;
    assert!(isolated.renew().await.is_ok());
    drop(session);

    let session = soon(a.lock(&common)).await;
    assert_eq!(b.force_unlock(&alone).await.expect("the server answers").released, [&*alone]);
    is_revoked(&isolated).await;
    assert!(session.renew().await.is_ok());
}

/// The eviction is empty.
pub async fn force_unlock_of_a_free_key_is_no_error(a: LockManager, _: LockManager) {
    let key = key("force-free");
    for eviction in [a.force_unlock(&key).await, a.handle(&key).expect("a good key").force_unlock().key_only().await] {
        assert_eq!(eviction.expect("the server answers"), Eviction::default());
    }
}

/// The lost guard's unlock fails with the loss; the manager and the handle still work.
pub async fn an_evicted_holder_recovers(a: LockManager, b: LockManager) {
    let key = key("recovers");
    let handle = a.handle(&key).expect("a good key");
    for key_only in [false, true, false] {
        let guard = soon(handle.lock()).await;
        let again = guard.reenter().expect("not lost");
        let evict = b.force_unlock(&key);
        if key_only { evict.key_only() } else { evict }.await.expect("the server answers");
        is_revoked(&guard).await;
        let next = soon(handle.lock()).await;
        assert!(next.depth() == 1 && next.token() > guard.token(), "a new hold");
        for lost in [guard, again] {
            let token = lost.token();
            assert_eq!(lost.reenter().expect_err("lost").code(), "LOCK_EXPIRED");
            assert_eq!(lost.renew().await.expect_err("lost").code(), "LOCK_EXPIRED");
            let error = lost.unlock().await.expect_err("lost");
            assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some(&*key)), "{token}: {error}");
            assert!(matches!(error, LockError::Expired { cause: Loss::Revoked, .. }), "{error:?}");
        }
        assert!(!next.is_lost());
        next.unlock().await.expect("unlocked");
    }
}

/// The release of a lost guard does not release its successor's hold.
pub async fn a_lost_guard_leaves_its_successor_alone(a: LockManager, b: LockManager) {
    let key = key("successor");
    for (holder, next) in [(&a, &b), (&b, &a), (&a, &a)] {
        let guard = soon(holder.lock(&key)).await;
        b.force_unlock(&key).await.expect("the server answers");
        is_revoked(&guard).await;
        let successor = soon(next.lock(&key)).await;
        drop(guard);
        sleep(A_WHILE).await;
        assert!(!successor.is_lost() && is_busy(&a, &key).await && is_busy(&b, &key).await);
        assert!(successor.renew().await.is_ok());
    }
}

fn is_refused(unlocked: crate::Result<()>, what: &str) {
    let error = unlocked.expect_err(what);
    assert!(matches!(error, LockError::Expired { cause: Loss::Revoked, .. }), "{what}: {error:?}");
}

/// Evicts the holder of a key that another client waits for. Returns once that one holds it.
async fn succeed(holder: &LockManager, next: &LockManager, key: &str, key_only: bool) -> LockGuard {
    let waiting = tokio::spawn(next.lock(key).into_future());
    has_waiters(holder, key, 1).await;
    let evict = next.force_unlock(key);
    if key_only { evict.key_only() } else { evict }.await.expect("the server answers");
    done(waiting).await.expect("granted")
}

/// `unlock()` fails if another client holds the lock by then, whether the loss was notified or not.
pub async fn an_unlock_after_an_eviction_fails(a: LockManager, b: LockManager) {
    let key = key("force-unlock");
    for round in 0..32 {
        let [key_only, isolated, shared, is_old] = [1, 2, 4, 8].map(|bit| round & bit != 0);
        let what = format!("key only: {key_only}, isolated: {isolated}, shared: {shared}, old: {is_old}");
        let request = a.lock(&key);
        let request = if isolated { request.isolated() } else { request };
        let guard = soon(if shared { request.shared() } else { request }).await;
        if is_old {
            sleep(A_WHILE).await;
        }
        let next = succeed(&a, &b, &key, key_only).await;
        is_refused(guard.unlock().await, &what);
        assert!(!next.is_lost(), "{what}");
        next.unlock().await.expect("unlocked");
    }
    assert_eq!(a.stats().lost, 32, "each is counted once: {:?}", a.stats());
}

/// A backend may make the release together with the next request of the key.
pub async fn an_unlock_before_the_next_request_fails_after_an_eviction(a: LockManager, b: LockManager) {
    let key = key("force-unlock-again");
    for key_only in [true, false, true, false] {
        let guard = soon(a.lock(&key)).await;
        let next = succeed(&a, &b, &key, key_only).await;
        let again = a.lock(&key).timeout(A_WHILE).into_future();
        let (unlocked, again) = join(guard.unlock(), again).await;
        is_refused(unlocked, &format!("key only: {key_only}"));
        assert_eq!(again.expect_err("held by the successor").code(), "LOCK_TIMEOUT");
        assert!(!next.is_lost());
        next.unlock().await.expect("unlocked");
    }
}

/// A backend may send releases together. Each has its own outcome.
pub async fn unlocks_that_meet_fail_for_evicted_holds_only(a: LockManager, b: LockManager) {
    let keys: Vec<_> = (0..12).map(|_| key("force-unlock-some")).collect();
    let mut guards = Vec::new();
    for key in &keys {
        guards.push(soon(a.lock(key)).await);
    }
    for key in keys.iter().step_by(2) {
        b.force_unlock(key).key_only().await.expect("the server answers");
    }
    let unlocked = join_all(guards.into_iter().map(LockGuard::unlock)).await;
    for (place, unlocked) in unlocked.into_iter().enumerate() {
        match place % 2 {
            0 => is_refused(unlocked, &format!("hold {place} was evicted")),
            _ => unlocked.unwrap_or_else(|error| panic!("hold {place} was not evicted: {error}")),
        }
    }
}

/// All shared holders are evicted.
pub async fn all_readers_are_evicted(a: LockManager, b: LockManager) {
    let key = key("force-readers");
    let readers = [soon(a.lock(&key).shared()).await, soon(b.lock(&key).shared()).await];
    let eviction = a.force_unlock(&key).await.expect("the server answers");
    assert_eq!(eviction.holders.len(), 2, "{eviction:?}");
    for reader in &readers {
        is_revoked(reader).await;
    }
    drop(soon(a.lock(&key)).await);
}

/// A manager can evict its own hold.
pub async fn force_unlock_of_ones_own_lock(a: LockManager, b: LockManager) {
    let key = key("force-own");
    let guard = soon(a.lock(&key)).await;
    let eviction = a.force_unlock(&key).await.expect("the server answers");
    assert_eq!(eviction.holders.len(), 1);
    is_revoked(&guard).await;
    drop(soon(b.lock(&key)).await);
}

/// The next waiter gets the lock.
pub async fn force_unlock_lets_the_next_waiter_in(a: LockManager, b: LockManager) {
    let key = key("force-next");
    let guard = soon(a.lock(&key)).await;
    let waiting = tokio::spawn(b.lock(&key).into_future());
    has_waiters(&a, &key, 1).await;
    a.force_unlock(&key).await.expect("the server answers");
    let next = done(waiting).await.expect("granted");
    assert!(next.token() > guard.token());
    is_revoked(&guard).await;
    assert!(!next.is_lost());
}

async fn seen(manager: &LockManager, key: &str) -> LockInfo {
    manager.info(key).await.expect("the server answers").expect("held")
}

/// A later holder keeps the lock, and the first holder keeps its other locks; the claim that was seen is revoked.
pub async fn force_unlock_revokes_only_the_claim_that_was_seen(a: LockManager, b: LockManager) {
    let (key, other) = (key("expecting"), key("expecting-other"));
    let kept = soon(a.lock(&other)).await;
    for next in [&a, &b] {
        for key_only in [false, true] {
            let guard = soon(a.lock(&key)).await;
            let info = seen(&b, &key).await;
            let evict = || {
                let evict = b.force_unlock(&key).expecting(&info);
                if key_only { evict.key_only() } else { evict }
            };
            guard.unlock().await.expect("unlocked");
            assert_eq!(evict().await.expect("the server answers"), Eviction::default(), "free");
            let guard = soon(next.lock(&key)).await;
            assert_eq!(evict().await.expect("the server answers"), Eviction::default(), "held by another claim");
            sleep(A_WHILE).await;
            assert!(!guard.is_lost() && !kept.is_lost());
            guard.renew().await.expect("not lost");
            kept.renew().await.expect("not lost");
            let info = seen(&a, &key).await;
            assert_eq!(seen(&b, &key).await.claims, info.claims, "both managers see the same claims");
            let evict = b.force_unlock(&key).expecting(&info).key_only();
            let eviction = evict.await.expect("the server answers");
            assert_eq!((&eviction.holders, &eviction.released), (&info.holders, &vec![key.clone()]));
            is_revoked(&guard).await;
        }
    }
    let guard = soon(a.lock(&key)).await;
    let eviction = b.force_unlock(&key).expecting(&seen(&b, &key).await).await.expect("the server answers");
    assert!(eviction.released.contains(&key), "{eviction:?}");
    is_revoked(&guard).await;
    is_free(&b, &key).await;
}

/// The shared holders that were seen are revoked; a writer still waits for the others.
pub async fn force_unlock_revokes_only_the_readers_that_were_seen(a: LockManager, b: LockManager) {
    let key = key("expecting-readers");
    let first = soon(a.lock(&key).shared()).await;
    let info = seen(&b, &key).await;
    let second = soon(b.lock(&key).shared()).await;
    let eviction = a.force_unlock(&key).expecting(&info).await.expect("the server answers");
    assert_eq!((&eviction.holders, &eviction.released), (&info.holders, &vec![key.clone()]));
    is_revoked(&first).await;
    drop(first);
    let left = seen(&a, &key).await;
    assert_eq!((left.mode, left.holders.len()), (Mode::Shared, 1), "{left:?}");
    second.renew().await.expect("not lost");
    let waiting = tokio::spawn(a.lock(&key).into_future());
    has_waiters(&b, &key, 1).await;
    assert_eq!(a.force_unlock(&key).expecting(&info).await.expect("the server answers"), Eviction::default());
    sleep(A_WHILE).await;
    assert!(!waiting.is_finished() && !second.is_lost());
    drop(second);
    let writer = done(waiting).await.expect("granted");
    assert!(!writer.is_lost());
}

/// An info of another key, or without claims, is refused before any I/O.
pub async fn expecting_refuses_an_info_that_cannot_be_compared(a: LockManager, b: LockManager) {
    let (key, other) = (key("expecting-key"), key("expecting-another"));
    let (guard, another) = (soon(a.lock(&key)).await, soon(a.lock(&other)).await);
    let error = b.force_unlock(&key).expecting(&seen(&b, &other).await).await.expect_err("another key");
    assert!(error.code() == "INVALID_CONFIG" && error.to_string().contains("expecting"), "{error}");
    let error = b.force_unlock(&key).expecting(&LockInfo::new(&*key, Mode::Exclusive)).await.expect_err("no claims");
    assert!(error.code() == "UNSUPPORTED" && error.to_string().contains("expecting"), "{error}");
    assert!(!guard.is_lost() && !another.is_lost());
    guard.unlock().await.expect("unlocked");
    another.unlock().await.expect("unlocked");
}
