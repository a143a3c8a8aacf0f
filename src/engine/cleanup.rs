//! Clean-up on the server, repeated until the server has confirmed it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::base::Base;
use super::drop_wait::DropWait;
use super::overdue::Releases;
use crate::backend::backoff::Backoff;
use crate::backend::{Claim, Grant};
use crate::error::{BackendError, ErrorKind, Result};
use crate::lease::LeaseCell;
use crate::process::report::debug;

/// One clean-up.
#[derive(Debug)]
pub(crate) enum Job {
    /// Release a grant whose release was refused or not confirmed in time.
    Release(Grant),
    /// Abort an attempt of unknown outcome.
    Abort(Arc<Claim>),
    /// Revoke a lease, with every claim on it.
    Revoke,
}

/// The clean-up of one manager.
#[derive(Debug)]
pub(crate) struct Cleanup {
    base: Arc<Base>,
    /// Releases and jobs that the server has not confirmed.
    unconfirmed: AtomicUsize,
    confirmed: Notify,
    pub(super) releases: Releases,
}

impl Cleanup {
    pub(super) fn new(base: Arc<Base>) -> Arc<Self> {
        Arc::new(Self {
            base,
            unconfirmed: AtomicUsize::new(0),
            confirmed: Notify::new(),
            releases: Releases::default(),
        })
    }

    pub(crate) fn has_unconfirmed(&self) -> bool {
        self.unconfirmed.load(Ordering::Acquire) > 0
    }

    /// Completes when all releases and jobs so far have been confirmed or abandoned.
    pub(crate) async fn all_confirmed(&self) {
        loop {
            let confirmed = self.confirmed.notified();
            if !self.has_unconfirmed() {
                return;
            }
            confirmed.await;
        }
    }

    /// Counts one unconfirmed operation, until the returned value is dropped.
    pub(super) fn count(self: &Arc<Self>) -> Unconfirmed {
        self.unconfirmed.fetch_add(1, Ordering::AcqRel);
        Unconfirmed(self.clone())
    }

    /// Polls `work` once here, which sends its request. Returns the rest, for the keeper, unless it has ended.
    pub(super) fn poll_first<F: Future<Output = ()> + Send + 'static>(&self, work: F) -> Option<Pin<Box<F>>> {
        let mut work = Box::pin(work);
        let first = self.base.keeper.enter().map(|_within| work.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        if matches!(first, Ok(Poll::Ready(()))) { None } else { Some(work) }
    }

    /// Runs a job in the background.
    pub(crate) fn run(self: &Arc<Self>, cell: Arc<LeaseCell>, job: Job) {
        self.run_then(cell, job, || ());
    }

    /// Runs a job in the background, and calls `then` once it is confirmed or abandoned.
    pub(super) fn run_then(self: &Arc<Self>, cell: Arc<LeaseCell>, job: Job, then: impl FnOnce() + Send + 'static) {
        let (cleanup, unconfirmed) = (self.clone(), self.count());
        let first = self.poll_first(async move {
            cleanup.until_confirmed(&cell, &job).await;
            then();
        });
        let Some(rest) = first else { return };
        // The keeper does the rest, so that nothing depends on whether the caller polls again.
        let (awaited, now) = DropWait::new(&self.base).split();
        let base = self.base.clone();
        self.base.keeper.spawn(async move {
            rest.await;
            drop(unconfirmed);
            if let Some(awaited) = awaited {
                awaited.ended(&base).await;
            }
        });
        if let Some(now) = now {
            now.wait();
        }
    }

    /// Repeats a job until it succeeds, however late: a server that is down ends no lease. A closed manager abandons the job once the
    /// lease, which is not renewed any more, has ended by any clock.
    pub(super) async fn until_confirmed(&self, cell: &LeaseCell, job: &Job) {
        let base = &self.base;
        let mut backoff = Backoff::slow();
        loop {
            // The backend may never answer.
            match base.answer(base.defaults.timeout, self.attempt(cell, job)).await {
                Ok(()) => return,
                Err(error) if matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::Closed) => return,
                Err(error) => {
                    let name = base.name();
                    debug!(target: "leasehold", name = name; "{name}: clean-up to be repeated: {error}");
                }
            }
            // A renewal whose answer was lost may have prolonged it by one TTL beyond what is known here.
            if base.lifecycle.is_closed() && base.now() > cell.deadline() + cell.lease().ttl.saturating_mul(2) {
                return;
            }
            base.recovery.pause(&mut backoff).await;
        }
    }

    fn attempt<'a>(&'a self, cell: &LeaseCell, job: &'a Job) -> BoxFuture<'a, Result<(), BackendError>> {
        let backend = &self.base.backend;
        match job {
            Job::Release(grant) => backend.release(grant),
            Job::Abort(claim) => backend.abort(claim),
            Job::Revoke => {
                let lease = cell.lease();
                Box::pin(async move { backend.revoke(&lease).await })
            }
        }
    }
}

/// One unconfirmed operation.
#[derive(Debug)]
pub(super) struct Unconfirmed(Arc<Cleanup>);

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        if self.0.unconfirmed.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.confirmed.notify_waiters();
        }
    }
}
