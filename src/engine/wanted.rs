//! Whether others wait for the key of a hold.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::task::AbortHandle;

use super::base::Base;
use crate::backend::Grant;
use crate::backend::backoff::Backoff;
use crate::error::ErrorKind;
use crate::lease::Signal;
use crate::process::foreign::Catching;
use crate::process::report::Foreign;

/// Of a grant: nothing until it is asked for.
#[derive(Debug, Default)]
pub(super) struct Wanting(OnceLock<Arc<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    /// Whether a claim of another client, or of this one, waits at the backend.
    by_claim: AtomicBool,
    /// Fired when that is found, and when a waiter joins the local queue.
    signal: Signal,
    task: OnceLock<AbortHandle>,
}

impl Asked {
    fn end(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.end();
    }
}

impl Wanting {
    /// Asks the backend from now on.
    pub(super) fn ask(&self, base: &Arc<Base>, grant: &Grant) -> &Signal {
        let asked = self.0.get_or_init(Arc::default);
        // The task reports to what is there by now.
        asked
            .task
            .get_or_init(|| base.keeper.spawn_abortable(listen(base.clone(), grant.clone(), Arc::downgrade(asked))));
        &asked.signal
    }

    pub(super) fn is_by_claim(&self) -> bool {
        self.0.get().is_some_and(|asked| asked.by_claim.load(Ordering::Acquire))
    }

    /// Whether a waiter has joined the local queue, or has claimed.
    pub(super) fn notify(&self) {
        if let Some(asked) = self.0.get() {
            asked.signal.fire();
        }
    }

    /// The grant is released.
    pub(super) fn end(&self) {
        if let Some(asked) = self.0.get() {
            asked.end();
        }
    }
}

/// Waits at the backend until the grant is wanted, or has ended.
async fn listen(base: Arc<Base>, grant: Grant, asked: Weak<Asked>) {
    let mut pauses = Backoff::slow();
    loop {
        let answer = Box::pin(async { base.backend.wanted(&grant).await });
        match Catching::new(Foreign::Backend, answer).await {
            Some(Ok(())) => {
                if let Some(asked) = asked.upgrade() {
                    asked.by_claim.store(true, Ordering::Release);
                    asked.signal.fire();
                }
                return;
            }
            Some(Err(error)) if matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::Closed) => return,
            Some(Err(_)) | None => base.recovery.pause(&mut pauses).await,
        }
    }
}
