//! Semaphores. A backend without limits refuses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::support::{A_WHILE, SOON, done, has_waiters, is_busy, is_free, key, queue_up, soon, supports, within};
use crate::{LockGuard, LockManager, LockRequest, Mode, Owner};

async fn is_granted(request: LockRequest) -> bool {
    request.try_once().await.expect("the server answers").is_some()
}

/// Whether the backend has limits.
async fn has_slots(manager: &LockManager, key: &str) -> bool {
    supports(manager, key, |manager| manager.semaphore(key, 1)).await
}

/// As many holders as there are slots, of both managers and of one task, and not one more.
pub async fn no_more_than_the_limit_hold_a_key(a: LockManager, b: LockManager) {
    let key = key("slots");
    if !has_slots(&a, &key).await {
        return;
    }
    let mut slots: Vec<LockGuard> = Vec::new();
    for manager in [&a, &b, &a] {
        let slot = soon(manager.semaphore(&key, 3)).await;
        assert_eq!((slot.mode(), slot.depth()), (Mode::Shared, 1));
        slots.push(slot);
    }
    assert!(!is_granted(a.semaphore(&key, 3)).await && !is_granted(b.semaphore(&key, 3)).await);
    let info = b.info(&key).await.expect("the server answers").expect("held");
    assert_eq!((info.mode, info.limit, info.holders.len()), (Mode::Shared, Some(3), 3));
    for left in 0..3 {
        let slot = slots.remove(left % slots.len());
        let token = slot.token();
        slot.unlock().await.expect("not lost");
        let next = soon(b.semaphore(&key, 3)).await;
        assert!(next.token() > token);
        assert!(!is_granted(a.semaphore(&key, 3)).await, "each slot is free once");
        slots.insert(0, next);
    }
    slots.clear();
    is_free(&a, &key).await;
}

/// Many tasks of both managers, each for a moment.
pub async fn a_crowd_never_exceeds_the_limit(a: LockManager, b: LockManager) {
    const SLOTS: u32 = 3;
    let key = key("crowd-of-slots");
    if !has_slots(&a, &key).await {
        return;
    }
    let (inside, most) = (Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
    let tasks: Vec<_> = (0..12)
        .map(|task| {
            let manager = if task % 2 == 0 { a.clone() } else { b.clone() };
            let (key, inside, most) = (key.clone(), inside.clone(), most.clone());
            tokio::spawn(async move {
                for _ in 0..4 {
                    let slot = soon(manager.semaphore(&key, SLOTS)).await;
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    assert!(now <= SLOTS, "{now} inside");
                    sleep(Duration::from_millis(2)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(slot);
                }
            })
        })
        .collect();
    for task in tasks {
        done(task).await;
    }
    assert!(most.load(Ordering::SeqCst) > 1, "the slots were used one at a time");
    is_free(&a, &key).await;
}

/// Slots exclude exclusive holds and plain shared ones, in the order of the queue.
pub async fn slots_exclude_other_kinds_of_holds(a: LockManager, b: LockManager) {
    let key = key("kinds");
    if !has_slots(&a, &key).await {
        return;
    }
    let slot = soon(a.semaphore(&key, 2)).await;
    assert!(is_busy(&a, &key).await && is_busy(&b, &key).await);
    assert!(!is_granted(a.lock(&key).shared().owner(&Owner::new())).await && !is_granted(b.lock(&key).shared()).await);
    let writer = tokio::spawn(b.lock(&key).into_future());
    has_waiters(&a, &key, 1).await;
    assert!(!is_granted(a.semaphore(&key, 2)).await, "the writer is first");
    let second = tokio::spawn(a.semaphore(&key, 2).into_future());
    has_waiters(&a, &key, 2).await;
    drop(slot);
    let writer = done(writer).await.expect("granted");
    assert!(!second.is_finished());
    drop(writer);
    let second = done(second).await.expect("granted");
    let reader = queue_up(b.lock(&key).shared());
    sleep(A_WHILE).await;
    drop(second);
    let reader = within(SOON, "the reader", reader).await.expect("granted");
    assert!(!is_granted(a.semaphore(&key, 2)).await, "a reader excludes slots");
    drop(reader);
    is_free(&a, &key).await;
}

/// Each enters by its own limit, and none overtakes.
pub async fn holders_with_different_limits_agree(a: LockManager, b: LockManager) {
    let key = key("limits");
    if !has_slots(&a, &key).await {
        return;
    }
    let first = soon(a.semaphore(&key, 1)).await;
    let second = soon(b.semaphore(&key, 3)).await;
    assert!(!is_granted(b.semaphore(&key, 2)).await, "two hold it");
    let third = soon(a.semaphore(&key, 3)).await;
    assert_eq!(b.info(&key).await.expect("the server answers").expect("held").limit, Some(3));
    let narrow = tokio::spawn(b.semaphore(&key, 1).into_future());
    has_waiters(&a, &key, 1).await;
    let wide = tokio::spawn(a.semaphore(&key, 5).into_future());
    has_waiters(&a, &key, 2).await;
    drop((first, second));
    sleep(A_WHILE).await;
    assert!(!narrow.is_finished() && !wide.is_finished(), "one holds it still, and the wide one is behind");
    drop(third);
    let narrow = done(narrow).await.expect("granted");
    let wide = done(wide).await.expect("granted");
    drop((narrow, wide));
    is_free(&a, &key).await;
}

/// Whichever holder leaves lets in the first waiter, and one departure lets in one.
pub async fn each_departure_lets_the_first_waiter_in(a: LockManager, b: LockManager) {
    let key = key("departures");
    if !has_slots(&a, &key).await {
        return;
    }
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(soon(a.semaphore(&key, 3)).await);
    }
    for leaving in [1, 0, 2] {
        let first = tokio::spawn(b.semaphore(&key, 3).into_future());
        has_waiters(&a, &key, 1).await;
        let second = tokio::spawn(a.semaphore(&key, 3).into_future());
        has_waiters(&a, &key, 2).await;
        drop(slots.remove(leaving));
        slots.push(done(first).await.expect("granted"));
        sleep(A_WHILE).await;
        assert!(!second.is_finished(), "one slot was free");
        second.abort();
        has_waiters(&a, &key, 0).await;
    }
    drop(slots);
    is_free(&a, &key).await;
}

/// Acquires are separate owners, unless one is given; an exclusive holder enters its own hold.
pub async fn each_acquire_takes_a_slot(a: LockManager, b: LockManager) {
    let key = key("owners-of-slots");
    if !has_slots(&a, &key).await {
        return;
    }
    let (one, two) = tokio::join!(soon(a.semaphore(&key, 2)), soon(a.semaphore(&key, 2)));
    assert!(!is_granted(a.semaphore(&key, 2)).await);
    drop((one, two));
    is_free(&a, &key).await;
    let owner = Owner::new();
    let outer = soon(a.semaphore(&key, 1).owner(&owner)).await;
    let inner = soon(a.semaphore(&key, 1).owner(&owner)).await;
    assert_eq!(inner.depth(), 2);
    let error = a.lock(&key).shared().owner(&owner).await.expect_err("it would wait for itself");
    assert_eq!(error.code(), "LOCK_ALREADY_HELD", "{error}");
    drop((outer, inner));
    let exclusive = soon(b.lock(&key)).await;
    let slot = soon(b.semaphore(&key, 2)).await;
    assert_eq!((slot.mode(), slot.depth()), (Mode::Exclusive, 2));
    drop((exclusive, slot));
    is_free(&a, &key).await;
}

/// `force_unlock` frees all slots, and every holder notices.
pub async fn all_slots_are_evicted(a: LockManager, b: LockManager) {
    let key = key("evicted-slots");
    if !has_slots(&a, &key).await {
        return;
    }
    let slots = [soon(a.semaphore(&key, 2)).await, soon(b.semaphore(&key, 2)).await];
    let evicted = b.force_unlock(&key).key_only().await.expect("the server answers");
    assert_eq!(evicted.holders.len(), 2);
    for slot in &slots {
        within(SOON, "the loss", slot.lost()).await;
    }
    drop(soon(a.semaphore(&key, 1)).await);
}
