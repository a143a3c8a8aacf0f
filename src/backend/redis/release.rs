//! Releases, and aborts of attempts of unknown outcome.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;

use super::attempt::Attempt;
use super::claims::Claims;
use super::error;
use super::requests::PendingAnswer;
use super::router::Router;
use super::scripts::Op;
use crate::backend::{AttemptId, Completion, Result};

#[derive(Clone, Debug)]
pub(super) struct Releases {
    claims: Arc<Claims>,
    router: Arc<Router>,
    handle: Handle,
}

impl Releases {
    pub(super) fn new(claims: Arc<Claims>, router: Arc<Router>, handle: Handle) -> Self {
        Self { claims, router, handle }
    }

    /// Aborts an attempt whose outcome is unknown.
    pub(super) async fn abort(&self, id: AttemptId) -> Result<()> {
        match self.claims.get(id) {
            Some(attempt) => self.withdraw(&attempt).await,
            // Nothing was ever sent, or nothing is left.
            None => Ok(()),
        }
    }

    /// Releases the hold of an attempt.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](crate::backend::ErrorKind::LeaseLost) if the attempt did not hold the lock any more when its release arrived,
    /// unless an earlier copy of that release may have released it.
    pub(super) async fn release(&self, id: AttemptId) -> Result<()> {
        let lost = || error::lost(self.router.server());
        let attempt = self.claims.get(id).ok_or_else(lost)?;
        self.withdraw(&attempt).await?;
        if attempt.was_released() { Ok(()) } else { Err(lost()) }
    }

    /// The same without a future.
    pub(super) fn begin(&self, id: AttemptId, completion: Completion) {
        let Some(attempt) = self.claims.get(id) else {
            return completion.complete(Err(error::lost(self.router.server())));
        };
        match attempt.give_up() {
            Some(copies) => {
                let tombstone = tombstone(&attempt, copies);
                self.router.release(attempt, tombstone, completion);
            }
            None => {
                self.forget(&attempt);
                completion.complete(Err(error::lost(self.router.server())));
            }
        }
    }

    /// Gives up an attempt, and waits until the server has confirmed that it has no hold and no place in the queue.
    pub(super) async fn withdraw(&self, attempt: &Arc<Attempt>) -> Result<()> {
        if let Some(copies) = attempt.give_up() {
            let tombstone = tombstone(attempt, copies);
            let answer = self.router.request_one(Op::Release(attempt.clone(), tombstone));
            let (claims, handle) = (self.claims.clone(), self.handle.clone());
            Withdrawal { claims, handle, attempt: attempt.clone(), answer: Some(answer) }.await?;
        }
        self.forget(attempt);
        Ok(())
    }

    /// Forgets an attempt that was given up.
    pub(super) fn forget(&self, attempt: &Attempt) {
        self.claims.forget(attempt.id);
    }
}

/// How long copies of an attempt's requests are refused.
fn tombstone(attempt: &Attempt, copies: bool) -> Duration {
    if copies { attempt.copies_live_for() } else { Duration::ZERO }
}

/// A release in flight, which continues when it is dropped.
struct Withdrawal {
    claims: Arc<Claims>,
    handle: Handle,
    attempt: Arc<Attempt>,
    answer: Option<PendingAnswer>,
}

impl Future for Withdrawal {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
        let answered = ready!(Pin::new(answer).poll(cx));
        self.answer = None;
        Poll::Ready(answered.map(drop))
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let (claims, attempt) = (self.claims.clone(), self.attempt.clone());
            self.handle.spawn(async move {
                if answer.await.is_ok() {
                    // A repeated release needs the outcome of this one.
                    tokio::time::sleep(attempt.ttl).await;
                    claims.forget(attempt.id);
                }
            });
        }
    }
}
