//! `with_lock` and other closures under a lock.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;

use super::support::{SOON, done, is_busy, is_free, key, on_thread, soon, within};
use crate::{LockGuard, LockManager, Loss};

/// Set when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The result is returned, and the lock is free afterwards.
pub async fn with_lock_returns_what_the_work_returns(a: LockManager, b: LockManager) {
    let key = key("with");
    let (mut seen, other) = (Vec::new(), b.clone());
    let sum = a.with_lock(&key, async |guard| {
        assert!(is_busy(&other, guard.key()).await);
        seen.push(guard.token());
        1 + 2
    });
    assert_eq!(within(SOON, "the work", sum).await.expect("held to the end"), 3);
    assert_eq!(seen.len(), 1);
    assert!(!is_busy(&b, &key).await);
}

/// In a spawned task, with borrowed captures, nested, and for several keys.
pub async fn closures_work_inside_of_tasks(a: LockManager, b: LockManager) {
    let (key, manager) = (key("in-a-task"), a.clone());
    let name = key.clone();
    let task = tokio::spawn(async move {
        let (other, mut steps) = (format!("{name}/other"), Vec::new());
        let result = manager
            .with_lock(&name, async |outer| {
                steps.push(outer.depth());
                manager.with_lock(&name, async |inner| steps.push(inner.depth())).await?;
                manager.lock_all([&name, &other]).with(async |guards| steps.push(guards[0].depth())).await
            })
            .await;
        result.and_then(|inner| inner).map(|()| steps)
    });
    assert_eq!(done(task).await.expect("held to the end"), [1, 2, 2]);
    is_free(&b, &key).await;
}

/// Busy is `None`, not an error.
pub async fn try_with_lock_reports_whether_the_lock_is_free(a: LockManager, b: LockManager) {
    let key = key("try-with");
    let busy = soon(b.lock(&key)).await;
    let tried = a.try_with_lock(&key, async |_| panic!("it is held")).await;
    assert!(tried.expect("the server answers").is_none());
    busy.unlock().await.expect("held to the end");
    let tried = a.try_with_lock(&key, async |guard| guard.depth()).await;
    assert_eq!(tried.expect("the server answers"), Some(1));
    assert!(!is_busy(&b, &key).await);
}

/// A panic releases the lock as a return does.
pub async fn a_panic_in_the_work_releases(a: LockManager, b: LockManager) {
    let key = key("panic");
    let work = a.with_lock(&key, async |_| {
        tokio::task::yield_now().await;
        std::panic::resume_unwind(Box::new("the work panics"));
    });
    let panicked = AssertUnwindSafe(work).catch_unwind().await;
    assert!(panicked.is_err());
    is_free(&b, &key).await;
    let (manager, name) = (a.clone(), key.clone());
    on_thread(move || {
        let work = || manager.lock(&name).wait_with(|_| -> () { std::panic::resume_unwind(Box::new("likewise")) });
        assert!(std::panic::catch_unwind(AssertUnwindSafe(work)).is_err());
    })
    .await;
    is_free(&b, &key).await;
}

/// The work is dropped at an await, and the error names the lock and the cause.
pub async fn a_loss_drops_the_work(a: LockManager, b: LockManager) {
    let key = key("lost");
    let dropped = Arc::new(AtomicBool::new(false));
    let work = a.with_lock(&key, async |_| {
        let _dropped = Dropped(dropped.clone());
        b.force_unlock(&key).key_only().await.expect("evicted");
        std::future::pending::<()>().await;
    });
    let error = within(SOON, "the loss", work).await.expect_err("lost");
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some(&*key)));
    assert!(matches!(error, crate::LockError::Expired { cause: Loss::Revoked, .. }), "{error}");
}

/// Even if the work completes in the poll that finds the loss.
pub async fn a_loss_wins_over_the_result(a: LockManager, b: LockManager) {
    let key = key("loss-first");
    let work = a.with_lock(&key, async |guard: &LockGuard| {
        b.force_unlock(&key).key_only().await.expect("evicted");
        while !guard.is_lost() {
            // No await, so the loss cannot be found earlier.
            std::thread::yield_now();
        }
    });
    assert_eq!(within(SOON, "the loss", work).await.expect_err("lost").code(), "LOCK_EXPIRED");
}

/// Blocking work cannot be dropped, so the loss is reported at its end.
pub async fn wait_with_reports_a_loss(a: LockManager, b: LockManager) {
    let key = key("wait-with");
    on_thread(move || {
        assert_eq!(a.lock(&key).wait_with(LockGuard::depth).expect("held to the end"), 1);
        assert!(b.try_lock(&key).wait().expect("the server answers").is_some());
        let lost = a.lock(&key).wait_with(|guard| {
            b.force_unlock(&key).key_only().wait().expect("evicted");
            while !guard.is_lost() {
                std::thread::yield_now();
            }
        });
        assert_eq!(lost.expect_err("lost").code(), "LOCK_EXPIRED");
    })
    .await;
}

/// The lock is released although the work did not complete.
pub async fn a_closure_may_be_dropped_halfway(a: LockManager, b: LockManager) {
    let key = key("dropped");
    let dropped = Arc::new(AtomicBool::new(false));
    let (began, begun) = tokio::sync::oneshot::channel();
    let mut work = Box::pin(a.with_lock(&key, async |_| {
        let _dropped = Dropped(dropped.clone());
        began.send(()).expect("the receiver lives");
        std::future::pending::<()>().await;
    }));
    tokio::select! {
        _ = &mut work => panic!("it never ends"),
        begun = begun => begun.expect("it began"),
    }
    assert!(is_busy(&b, &key).await);
    drop(work);
    assert!(dropped.load(Ordering::SeqCst));
    is_free(&b, &key).await;
}
