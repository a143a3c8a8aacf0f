//! `close()`.

use tokio::time::sleep;

use super::support::{A_WHILE, SOON, done, has_waiters, is_busy, is_free, key, soon, stranger, within};
use crate::{LockError, LockManager, Loss};

/// All holds end, their owners are notified, and the locks are free at once.
pub async fn close_releases_and_notifies(a: LockManager, b: LockManager) {
    let keys = [key("close"), key("close-shared"), key("close-isolated")];
    let guards =
        [soon(a.lock(&keys[0])).await, soon(a.lock(&keys[1]).shared()).await, soon(a.lock(&keys[2]).isolated()).await];
    let losses = guards.each_ref().map(|guard| guard.lost());
    within(2 * SOON, "closed", a.close()).await.expect("the server confirms");
    for key in &keys {
        assert!(b.info(key).await.expect("the server answers").is_none(), "{key} is free");
    }
    for (guard, lost) in guards.into_iter().zip(losses) {
        assert!(guard.is_lost());
        assert_eq!(within(SOON, "the loss", lost).await, Loss::Closed);
        let error = guard.unlock().await.expect_err("lost");
        assert!(matches!(error, LockError::Expired { cause: Loss::Closed, .. }), "{error:?}");
    }
}

/// The closed manager's waiters fail, local ones and those at the server, and so do later calls.
pub async fn close_fails_waiters_and_later_calls(a: LockManager, b: LockManager) {
    let (here, there) = (key("close-waiters"), key("close-waiters-there"));
    let guard = soon(a.lock(&here)).await;
    let held = soon(b.lock(&there)).await;
    let handle = a.handle(&here).expect("a good key");
    let waiting = [&here, &there].map(|key| tokio::spawn(stranger(a.lock(key)).into_future()));
    has_waiters(&b, &there, 1).await;
    sleep(A_WHILE).await;
    a.close().await.expect("the server confirms");
    for waiter in waiting {
        let error = done(waiter).await.expect_err("the manager is closed");
        assert_eq!(error.code(), "CLOSED", "{error}");
    }
    has_waiters(&b, &there, 0).await;
    let clone = a.clone();
    for code in [
        clone.lock(&here).await.map(|_| ()).expect_err("closed").code(),
        clone.lock(&here).owner(&guard.owner()).await.map(|_| ()).expect_err("closed").code(),
        clone.try_lock(&there).await.map(|_| ()).expect_err("closed").code(),
        clone.info(&here).await.map(|_| ()).expect_err("closed").code(),
        clone.is_locked(&here).await.map(|_| ()).expect_err("closed").code(),
        clone.list("").await.map(|_| ()).expect_err("closed").code(),
        clone.force_unlock(&here).await.map(|_| ()).expect_err("closed").code(),
        clone.ping().await.map(|_| ()).expect_err("closed").code(),
        handle.renew().await.map(|_| ()).expect_err("closed").code(),
        handle.lock().await.map(|_| ()).expect_err("closed").code(),
    ] {
        assert_eq!(code, "CLOSED");
    }
    held.unlock().await.expect("unlocked");
    is_free(&b, &here).await;
}

/// Repeated, concurrent, on another clone, and blocking.
pub async fn close_may_be_called_again(a: LockManager, b: LockManager) {
    let _guard = soon(a.lock(key("close-again"))).await;
    let other = a.clone();
    let (first, second) = tokio::join!(a.close(), other.close());
    first.and(second).expect("the server confirms");
    a.close().await.expect("nothing to do");
    super::support::on_thread(move || b.close().wait().and(b.close().wait()).expect("the server confirms")).await;
}

/// The holds of another manager on the same store stay.
pub async fn a_closed_manager_leaves_others_alone(a: LockManager, b: LockManager) {
    let (own, common) = (key("close-own"), key("close-common"));
    let guard = soon(b.lock(&own)).await;
    let readers = [soon(a.lock(&common).shared()).await, soon(b.lock(&common).shared()).await];
    a.close().await.expect("the server confirms");
    assert!(readers[0].is_lost() && !readers[1].is_lost() && !guard.is_lost());
    assert!(guard.renew().await.is_ok() && readers[1].renew().await.is_ok());
    assert!(is_busy(&b, &own).await && is_busy(&b, &common).await);
    let info = b.info(&common).await.expect("the server answers").expect("held");
    assert_eq!(info.holders.len(), 1, "{info:?}");
}
