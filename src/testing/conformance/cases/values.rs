//! What holders publish, and the states of a key. A backend without values refuses them.

use futures::FutureExt;

use super::support::{SOON, has_waiters, is_free, key, queue_up, soon, supports, within};
use crate::{LockInfo, LockManager, Owner, Watch};

/// Waits for a state that fits.
async fn state(watch: &mut Watch, what: &str, fits: impl Fn(Option<&LockInfo>) -> bool) -> Option<LockInfo> {
    within(SOON, what, async {
        loop {
            let info = watch.next().await.expect("a state").expect("the server answers");
            if fits(info.as_ref()) {
                return info;
            }
        }
    })
    .await
}

/// `info` and `list` have the value of each holder.
pub async fn values_are_published_while_the_lock_is_held(a: LockManager, b: LockManager) {
    let key = key("values");
    if !supports(&a, &key, |manager| manager.lock(&key).value("v")).await {
        return;
    }
    let long = "ä:,\"\n {}%".repeat(90);
    for value in ["10.0.0.7:8080", "", &long] {
        let guard = soon(a.lock(&key).value(value)).await;
        assert_eq!(guard.value(), Some(value));
        let expected = vec![Some(value.to_owned())];
        assert_eq!(b.info(&key).await.expect("the server answers").expect("held").values, expected);
        assert_eq!(b.list(&key).await.expect("the server answers")[0].values, expected);
        guard.unlock().await.expect("not lost");
    }
    let mut readers = vec![soon(a.lock(&key).shared().value("a")).await, soon(b.lock(&key).shared()).await];
    let info = a.info(&key).await.expect("the server answers").expect("held");
    let mut values = info.values;
    values.sort();
    assert_eq!((values, info.holders.len()), (vec![None, Some("a".to_owned())], 2));
    readers.clear();
    is_free(&a, &key).await;
}

/// A waiter in the same process has its own value.
pub async fn a_value_is_not_handed_over(a: LockManager, b: LockManager) {
    let key = key("handed-values");
    if !supports(&a, &key, |manager| manager.lock(&key).value("v")).await {
        return;
    }
    let first = soon(a.lock(&key).value("first")).await;
    let second = queue_up(a.lock(&key).owner(&Owner::new()).value("second"));
    let third = queue_up(a.lock(&key).owner(&Owner::new()));
    for (before, waiting, value) in [(first, second, Some("second"))] {
        drop(before);
        let guard = within(SOON, "the next", waiting).await.expect("granted");
        assert_eq!(guard.value(), value);
        let info = b.info(&key).await.expect("the server answers").expect("held");
        assert_eq!(info.values, [value.map(str::to_owned)]);
    }
    let third = within(SOON, "the last", third).await.expect("granted");
    assert_eq!(third.value(), None);
    assert_eq!(b.info(&key).await.expect("the server answers").expect("held").values, [None]);
}

/// The states of a key: free, held, shared, free.
pub async fn a_watch_sees_the_holders_change(a: LockManager, b: LockManager) {
    let key = key("watched");
    let mut watch = b.watch(&key);
    assert!(state(&mut watch, "the first state", |_| true).await.is_none());
    let guard = soon(a.lock(&key)).await;
    let info = state(&mut watch, "held", |info| info.is_some()).await.expect("held");
    assert_eq!((info.holders.len(), info.claims.len(), info.remaining), (1, 1, None));
    drop(guard);
    state(&mut watch, "free", |info| info.is_none()).await;
    let one = soon(a.lock(&key).shared()).await;
    let two = soon(b.lock(&key).shared()).await;
    state(&mut watch, "two", |info| info.is_some_and(|info| info.holders.len() == 2)).await;
    drop(one);
    state(&mut watch, "one", |info| info.is_some_and(|info| info.holders.len() == 1)).await;
    b.force_unlock(&key).await.expect("the server answers");
    state(&mut watch, "none", |info| info.is_none()).await;
    drop(two);
    // What is not read is replaced.
    for _ in 0..5 {
        soon(a.lock(&key)).await.unlock().await.expect("not lost");
    }
    let last = soon(a.lock(&key)).await;
    let newest = b.info(&key).await.expect("the server answers").expect("held").claims;
    let info = state(&mut watch, "the last", |info| info.is_some_and(|info| info.claims == newest)).await;
    assert!(info.is_some());
    drop(last);
}

/// A closed manager's watch ends.
pub async fn close_ends_a_watch(a: LockManager, b: LockManager) {
    let key = key("closed-watch");
    let mut watch = a.watch(&key);
    state(&mut watch, "the first state", |_| true).await;
    a.close().await.expect("closed");
    let error = within(SOON, "the end", watch.next()).await.expect("an error").expect_err("closed");
    assert_eq!(error.code(), "CLOSED", "{error}");
    assert!(watch.next().await.is_none());
    let late = a.watch(&key).next().await.expect("an error").expect_err("closed");
    assert_eq!(late.code(), "CLOSED");
    assert!(b.watch("").next().await.expect("an error").is_err(), "an invalid key");
}

/// A holder learns that others wait: of both managers, and of its own tasks.
pub async fn a_holder_learns_that_others_wait(a: LockManager, b: LockManager) {
    let key = key("wanted");
    for other in [&a, &b] {
        let guard = soon(a.lock(&key)).await;
        let mut wanted = guard.wanted();
        assert!((&mut wanted).now_or_never().is_none(), "by nobody");
        assert!(other.lock(&key).owner(&Owner::new()).try_once().await.expect("the server answers").is_none());
        let waiting = tokio::spawn(other.lock(&key).owner(&Owner::new()).into_future());
        within(SOON, "wanted", wanted.clone()).await;
        within(SOON, "wanted", wanted).await;
        guard.wanted().now_or_never().expect("still");
        drop(guard);
        drop(super::support::done(waiting).await.expect("granted"));
    }
    // One that waits already.
    let guard = soon(a.lock(&key)).await;
    let waiting = tokio::spawn(b.lock(&key).into_future());
    has_waiters(&a, &key, 1).await;
    within(SOON, "wanted", guard.wanted()).await;
    drop(guard);
    drop(super::support::done(waiting).await.expect("granted"));
    let guard = soon(a.lock(&key)).await;
    let late = guard.wanted();
    drop(guard);
    let _other = soon(b.lock(&key)).await;
    let _waiting = queue_up(a.lock(&key));
    assert!(late.now_or_never().is_none(), "a hold that has ended is not wanted");
}

/// Readers are wanted by writers, not by readers.
pub async fn a_reader_is_wanted_by_writers_only(a: LockManager, b: LockManager) {
    let key = key("wanted-reader");
    let reader = soon(a.lock(&key).shared()).await;
    let mut wanted = reader.wanted();
    assert!((&mut wanted).now_or_never().is_none());
    let others = [soon(a.lock(&key).shared().owner(&Owner::new())).await, soon(b.lock(&key).shared()).await];
    assert!(tokio::time::timeout(super::support::A_WHILE, &mut wanted).await.is_err(), "by readers");
    let writer = tokio::spawn(b.lock(&key).owner(&Owner::new()).into_future());
    within(SOON, "wanted", wanted).await;
    drop((reader, others));
    drop(super::support::done(writer).await.expect("granted"));
}
