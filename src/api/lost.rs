//! The loss of holds as a future, and work that ends with it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::engine::{Hold, Share};
use crate::error::{LockError, Result};
use crate::info::Loss;
use crate::lease::Listener;

/// A future that is ready when the hold is lost; see [`LockGuard::lost`](crate::LockGuard::lost). Outlives the guard.
///
/// Of [`LockGuards`](crate::LockGuards), when the first of their holds is.
pub struct Lost(Vec<Watch>);

/// A hold, and its places among those who are told.
struct Watch {
    hold: Arc<Hold>,
    claim: Listener,
    lease: Listener,
}

impl Lost {
    pub(super) fn of<'a>(shares: impl IntoIterator<Item = &'a Share>) -> Self {
        Self(shares.into_iter().map(|share| Watch::new(share.hold().clone())).collect())
    }

    /// The loss, as whoever works under the lock is told of it.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<LockError> {
        for watch in &mut self.0 {
            if let Poll::Ready(cause) = watch.poll(cx) {
                return Poll::Ready(watch.hold.held.expired(cause));
            }
        }
        Poll::Pending
    }
}

impl Watch {
    fn new(hold: Arc<Hold>) -> Self {
        Self { hold, claim: Listener::default(), lease: Listener::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Loss> {
        let held = &self.hold.held;
        if !self.hold.has_ended() && !held.is_forked() {
            held.signal.listen(&mut self.claim, cx.waker());
            held.cell.signal.listen(&mut self.lease, cx.waker());
        }
        self.hold.loss(held.now()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let held = &self.hold.held;
        if !held.is_forked() {
            held.signal.forget(&mut self.claim);
            held.cell.signal.forget(&mut self.lease);
        }
    }
}

impl Clone for Lost {
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|watch| Watch::new(watch.hold.clone())).collect())
    }
}

impl Future for Lost {
    type Output = Loss;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Loss> {
        let lost = self.0.iter_mut().map(|watch| watch.poll(cx)).find(Poll::is_ready);
        lost.unwrap_or(Poll::Pending)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|watch| &watch.hold.held.key)).finish()
    }
}

/// Work that ends with the hold; see [`LockGuard::run`](crate::LockGuard::run).
#[must_use = "futures do nothing unless polled"]
pub struct Run<F> {
    lost: Lost,
    work: Pin<Box<F>>,
}

impl<F: Future> Run<F> {
    pub(super) fn new(lost: Lost, work: impl IntoFuture<IntoFuture = F>) -> Self {
        Self { lost, work: Box::pin(work.into_future()) }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(error) = self.lost.poll_error(cx) {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(output) = self.work.as_mut().poll(cx) else { return Poll::Pending };
        // The work may have taken longer than the lease in this one poll.
        match self.lost.poll_error(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(output)),
        }
    }
}

impl<F> fmt::Debug for Run<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("lost", &self.lost).finish_non_exhaustive()
    }
}
