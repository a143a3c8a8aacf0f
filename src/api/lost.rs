//! The loss of holds as a future, and work that ends with it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::engine::{Hold, Share};
use crate::error::{LockError, Result};
use crate::info::Loss;
use crate::lease::Listener;
use crate::process::{foreign, wakers};

/// The future of a hold's loss; see [`LockGuard::lost`](crate::LockGuard::lost). It can outlive the guard.
///
/// For [`LockGuards`](crate::LockGuards) it completes when the first of their holds is lost.
pub struct Lost(Vec<Watch>);

/// A hold, and this future's registrations with its loss signals.
struct Watch {
    hold: Arc<Hold>,
    claim: Listener,
    lease: Listener,
    /// The waker that is registered, and how often the signals had fired before: while all stay the same, a poll costs no lock.
    registered: Option<(Waker, u64, u64)>,
}

impl Lost {
    pub(super) fn of<'a>(shares: impl IntoIterator<Item = &'a Share>) -> Self {
        Self(shares.into_iter().map(|share| Watch::new(share.hold().clone())).collect())
    }

    /// The loss, as the error of the work under the lock.
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
        Self { hold, claim: Listener::default(), lease: Listener::default(), registered: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Loss> {
        let held = &self.hold.held;
        let fired = (held.signal.fired(), held.cell.signal.fired());
        let is_same =
            |(waker, claim, lease): &(Waker, u64, u64)| (*claim, *lease) == fired && waker.will_wake(cx.waker());
        if !self.registered.as_ref().is_some_and(is_same) && !self.hold.has_ended() && !held.is_forked() {
            held.signal.listen(&mut self.claim, cx.waker());
            held.cell.signal.listen(&mut self.lease, cx.waker());
            let before = self.registered.replace((foreign::cloned(cx.waker()), fired.0, fired.1));
            foreign::drop_all(before.map(|(waker, ..)| waker));
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
            foreign::drop_all(self.registered.take().map(|(waker, ..)| waker));
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

/// The future of work that is dropped if the hold is lost; see [`LockGuard::run`](crate::LockGuard::run).
#[must_use = "futures do nothing unless polled"]
pub struct Run<F> {
    lost: Lost,
    work: Pin<Box<F>>,
}

impl<F: Future> Run<F> {
    pub(super) fn new(lost: Lost, work: impl IntoFuture<IntoFuture = F>) -> Self {
        Self { lost, work: Box::pin(work.into_future()) }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<F::Output>> {
        if let Poll::Ready(error) = self.lost.poll_error(cx) {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(output) = self.work.as_mut().poll(cx) else { return Poll::Pending };
        // This poll may have lasted until after the deadline.
        match self.lost.poll_error(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(output)),
        }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        wakers::cooperate(cx, |cx| self.advance(cx))
    }
}

impl<F> fmt::Debug for Run<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("lost", &self.lost).finish_non_exhaustive()
    }
}
