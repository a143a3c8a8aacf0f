//! `lead`: one term after another.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::pending;
use tokio::sync::mpsc;

use super::support::{SOON, done, is_free, key, soon, within};
use crate::{LockManager, Loss};

/// Candidates of both managers take turns, with growing tokens, one at a time.
pub async fn candidates_lead_one_after_another(a: LockManager, b: LockManager) {
    let key = key("lead");
    let (leads, last) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let candidates = [&a, &b, &a].map(|manager| {
        let (request, leads, last, mut terms) = (manager.lock(&key), leads.clone(), last.clone(), 0);
        tokio::spawn(request.lead(move |guard| {
            terms += 1;
            let (leads, last) = (leads.clone(), last.clone());
            async move {
                assert!(!leads.swap(true, Ordering::SeqCst), "two lead");
                let token = guard.token().get();
                assert!(last.swap(token, Ordering::SeqCst) < token, "terms grow");
                tokio::time::sleep(Duration::from_millis(3)).await;
                leads.store(false, Ordering::SeqCst);
                if terms < 4 { ControlFlow::Continue(()) } else { ControlFlow::Break(terms) }
            }
        }))
    });
    for candidate in candidates {
        assert_eq!(within(4 * SOON, "the last term", done(candidate)).await.expect("led"), 4);
    }
    is_free(&a, &key).await;
}

/// A loss drops the work, and the next term follows.
pub async fn a_lost_term_is_followed_by_another(a: LockManager, b: LockManager) {
    let key = key("lost-term");
    let (begun, mut terms) = mpsc::unbounded_channel();
    let leading = tokio::spawn(a.lock(&key).lead(move |guard| {
        let begun = begun.clone();
        async move {
            let lost = guard.lost();
            // The receiver is dropped only if the case has failed.
            let _ = begun.send((guard.token(), lost));
            pending::<ControlFlow<()>>().await
        }
    }));
    let (first, lost) = within(SOON, "a term", terms.recv()).await.expect("it leads");
    b.force_unlock(&key).await.expect("the server answers");
    assert_eq!(within(SOON, "the loss", lost).await, Loss::Revoked);
    let (second, _) = within(SOON, "the next term", terms.recv()).await.expect("it leads again");
    assert!(second > first);
    leading.abort();
    is_free(&b, &key).await;
}

/// Closing the manager ends it with an error, as does a timeout.
pub async fn leading_ends_with_its_manager(a: LockManager, b: LockManager) {
    let key = key("closed-lead");
    let (begun, mut terms) = mpsc::unbounded_channel();
    let leading = tokio::spawn(a.lock(&key).lead(move |_guard| {
        let _ = begun.send(());
        pending::<ControlFlow<()>>()
    }));
    within(SOON, "a term", terms.recv()).await.expect("it leads");
    let candidate = b.lock(&key).timeout(Duration::from_millis(100)).lead(|_guard| pending::<ControlFlow<()>>());
    assert_eq!(within(SOON, "the timeout", candidate).await.expect_err("another leads").code(), "LOCK_TIMEOUT");
    a.close().await.expect("closed");
    let error = within(SOON, "the end", done(leading)).await.expect_err("closed");
    assert_eq!(error.code(), "CLOSED", "{error}");
    drop(soon(b.lock(&key)).await);
}

/// A panic in the work releases the lock, and leads no further term.
pub async fn a_panic_in_the_work_ends_the_term(a: LockManager, b: LockManager) {
    let (key, mut terms) = (key("panicked-lead"), 0);
    let leading = a.lock(&key).lead(|_guard| {
        terms += 1;
        let term = terms;
        async move {
            if term == 2 {
                // Without the panic hook's message.
                std::panic::resume_unwind(Box::new("the work panics"));
            }
            ControlFlow::<()>::Continue(())
        }
    });
    let panicked = within(SOON, "the panic", AssertUnwindSafe(leading).catch_unwind()).await;
    assert!(panicked.is_err());
    drop(soon(b.lock(&key)).await);
    is_free(&a, &key).await;
    assert_eq!(terms, 2);
}

/// Dropping the future drops the work, and lets the next candidate lead, also if the work has a guard elsewhere.
pub async fn a_dropped_leader_is_replaced(a: LockManager, b: LockManager) {
    let (key, work) = (key("dropped-lead"), Arc::new(()));
    let (begun, mut terms) = mpsc::unbounded_channel();
    let held = work.clone();
    let leading = tokio::spawn(a.lock(&key).lead(move |guard| {
        let (begun, held) = (begun.clone(), held.clone());
        async move {
            let _ = begun.send(guard);
            let _held = held;
            pending::<ControlFlow<()>>().await
        }
    }));
    let guard = within(SOON, "a term", terms.recv()).await.expect("it leads");
    let next = b.lock(&key).lead(|guard| async move { ControlFlow::Break(guard.token()) });
    leading.abort();
    assert!(leading.await.is_err());
    assert_eq!(Arc::strong_count(&work), 1, "the work is dropped");
    assert!(!guard.is_lost(), "the lock is held by the other guard");
    let token = guard.token();
    drop(guard);
    assert!(within(SOON, "the next term", next).await.expect("led") > token);
}
