//! `lock_all`: all keys or none.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use super::support::{Alone, SOON, done, has_waiters, is_busy, is_free, key, on_thread, soon, within};
use crate::{LockGuard, LockManager, Owner};

fn keys<const N: usize>(case: &str) -> [String; N] {
    let base = key(case);
    std::array::from_fn(|n| format!("{base}/{n}"))
}

/// In the order of the request, each key once, and free after `unlock()`.
pub async fn guards_are_in_the_order_of_the_request(a: LockManager, b: LockManager) {
    let [x, y, z] = keys("several");
    let asked = [&z, &x, &y];
    let guards = within(SOON, "all", a.lock_all(asked)).await.expect("free");
    assert_eq!(guards.iter().map(LockGuard::key).collect::<Vec<_>>(), asked);
    for key in asked {
        assert!(is_busy(&b, key).await, "{key}");
    }
    guards.unlock().await.expect("held to the end");
    for key in asked {
        assert!(!is_busy(&b, key).await, "{key} is free once unlock() has returned");
    }
}

/// Its last guard releases it.
pub async fn a_repeated_key_has_depth_two(a: LockManager, b: LockManager) {
    let [x, y] = keys("twice");
    let guards = within(SOON, "all", a.lock_all([&y, &x, &y])).await.expect("free");
    assert_eq!(guards.iter().map(LockGuard::depth).collect::<Vec<_>>(), [2, 1, 2]);
    let mut guards = guards.into_iter();
    drop(guards.next());
    assert!(is_busy(&b, &y).await);
    drop(guards);
    is_free(&b, &y).await;
    is_free(&b, &x).await;
}

/// At once, even if another key has to be waited for.
pub async fn keys_that_the_owner_holds_are_entered_at_once(a: LockManager, b: LockManager) {
    let [x, y] = keys("held");
    let (owner, busy) = (Owner::new(), soon(b.lock(&x)).await);
    let held = soon(a.lock(&y).owner(&owner)).await;
    let mut all = a.lock_all([&x, &y]).owner(&owner).into_future();
    assert!((&mut all).now_or_never().is_none());
    assert_eq!(held.depth(), 2);
    drop(held);
    assert!(is_busy(&b, &y).await);
    drop(busy);
    let guards = within(SOON, "all", all).await.expect("free by now");
    assert_eq!(guards[1].depth(), 1);
}

/// A timeout is for all keys together, names the key that was not free, and leaves nothing behind.
pub async fn all_or_none_within_the_timeout(a: LockManager, b: LockManager) {
    let [x, y, z] = keys("timeout");
    let limit = Duration::from_millis(400);
    let busy = soon(b.lock(&y)).await;
    let error = within(SOON, "the timeout", a.lock_all([&z, &y, &x]).timeout(limit)).await.expect_err("y is held");
    assert_eq!((error.code(), error.key()), ("LOCK_TIMEOUT", Some(&*y)));
    let text = error.to_string();
    assert!(text.contains("400ms"), "{text}");
    is_free(&b, &x).await;
    is_free(&b, &z).await;
    drop(busy);
    is_free(&b, &y).await;
}

/// None of them if one is held.
pub async fn trying_several_takes_all_or_none(a: LockManager, b: LockManager) {
    let [x, y] = keys("try");
    let busy = soon(b.lock(&y)).await;
    assert!(a.lock_all([&x, &y]).try_once().await.expect("the server answers").is_none());
    is_free(&b, &x).await;
    busy.unlock().await.expect("held to the end");
    let guards = a.lock_all([&x, &y]).try_once().await.expect("the server answers").expect("both are free");
    assert!(is_busy(&b, &x).await && is_busy(&b, &y).await);
    drop(guards);
}

/// At any point.
pub async fn several_may_be_dropped_while_they_wait(a: LockManager, b: LockManager) {
    let [x, y] = keys("dropped");
    let busy = soon(b.lock(&y)).await;
    let mut all = a.lock_all([&x, &y]).into_future();
    // Polled by this task: it holds x and waits for y.
    tokio::select! {
        _ = &mut all => panic!("y is held"),
        () = has_waiters(&b, &y, 1) => {}
    }
    assert!(is_busy(&b, &x).await);
    drop(all);
    is_free(&b, &x).await;
    drop(busy);
    is_free(&b, &y).await;
}

/// Each task in a different order, on the same keys, repeatedly.
pub async fn any_order_is_free_of_deadlock(a: LockManager, b: LockManager) {
    let (keys, alone) = (Arc::new(keys::<3>("deadlock")), Arc::new(Alone::default()));
    let orders = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]];
    let tasks: Vec<_> = (0..8)
        .map(|number: usize| {
            let manager = if number.is_multiple_of(2) { a.clone() } else { b.clone() };
            let (keys, alone) = (keys.clone(), alone.clone());
            tokio::spawn(async move {
                for round in 0..5 {
                    let order = orders[(number + round) % orders.len()];
                    let guards = manager.lock_all(order.map(|place| &keys[place])).await.expect("no deadlock");
                    let visit = alone.enter();
                    tokio::task::yield_now().await;
                    drop(visit);
                    drop(guards);
                }
            })
        })
        .collect();
    for task in tasks {
        done(task).await;
    }
    assert_eq!(alone.visits(), 40);
}

/// The first loss counts for all keys, and `unlock()` reports it.
pub async fn the_loss_of_one_is_the_loss_of_all(a: LockManager, b: LockManager) {
    let [x, y] = keys("loss");
    let guards = within(SOON, "all", a.lock_all([&x, &y])).await.expect("free");
    let lost = guards.lost();
    let work = guards.run(std::future::pending::<()>());
    assert!(!guards.is_lost());
    b.force_unlock(&y).key_only().await.expect("evicted");
    within(SOON, "the loss", lost).await;
    assert!(guards.is_lost() && !guards[0].is_lost());
    let error = within(SOON, "the end of the work", work).await.expect_err("lost");
    assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some(&*y)));
    let error = within(SOON, "unlock", guards.unlock()).await.expect_err("lost");
    assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some(&*y)));
    is_free(&b, &x).await;
}

/// A key that is lost while another one is waited for is acquired again.
pub async fn a_key_lost_while_waiting_is_locked_again(a: LockManager, b: LockManager) {
    let [x, y] = keys("again");
    let busy = soon(b.lock(&y)).await;
    let all = tokio::spawn(a.lock_all([&x, &y]).into_future());
    has_waiters(&b, &y, 1).await;
    b.force_unlock(&x).key_only().await.expect("evicted");
    let between = soon(b.lock(&x)).await.token();
    // The loss is notified within 200 ms, but there is no guard yet to observe it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(busy);
    let guards = done(all).await.expect("free by now");
    assert!(!guards.is_lost() && guards[0].token() > between);
}

/// Options apply to each key; an empty list and invalid keys are refused.
pub async fn options_apply_to_each_key_and_an_empty_list_is_refused(a: LockManager, b: LockManager) {
    let [x, y] = keys("options");
    let guards = within(SOON, "all", a.lock_all([&x, &y]).shared()).await.expect("free");
    let others = within(SOON, "all", b.lock_all([&y, &x]).shared()).await.expect("shared");
    drop((guards, others));
    let none: [&str; 0] = [];
    assert_eq!(a.lock_all(none).await.expect_err("no keys").code(), "INVALID_CONFIG");
    assert_eq!(a.lock_all([&*x, ""]).await.expect_err("no key").code(), "INVALID_KEY");
    let bad = a.lock_all([&x]).ttl(Duration::ZERO).await;
    assert_eq!(bad.expect_err("no TTL").code(), "INVALID_CONFIG");
    on_thread(move || {
        let guards = a.lock_all([&x, &y]).timeout(SOON).wait().expect("free by now");
        guards.unlock().wait().expect("held to the end");
    })
    .await;
}
