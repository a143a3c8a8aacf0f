//! Giving back: releases, attempts of unknown outcome, revocations. All of it goes on on the keeper when its caller has gone.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::{BoxFuture, Either, select};
use tokio::sync::oneshot;

use super::drop_wait::DropWait;
use super::entries::KeyEffects;
use super::{Backoff, Core, Entry, HeldGrant, Unconfirmed};
use crate::backend::{BackendError, Claim, ErrorKind};
use crate::clock::Timestamp;
use crate::foreign::{self, CatchingWaker};
use crate::lease::LeaseCell;
use crate::report::{debug, warn};
use crate::{LockError, Loss, Result};

/// A release on its way. It goes on whether this is polled or not.
pub(crate) enum Release {
    Going(oneshot::Receiver<Result<()>>, CatchingWaker),
    Done(Result<()>),
}

impl Release {
    fn start(core: &Arc<Core>, work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        let unconfirmed = Unconfirmed::new(core);
        let mut work = Box::pin(work);
        // Sends the request, and is all there is to do for a store in memory.
        let first = core.keeper.enter().map(|_within| work.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        if let Ok(Poll::Ready(outcome)) = first {
            return Self::Done(outcome);
        }
        // The rest is the keeper's, so that no one depends on whether the caller polls again.
        let (report, outcome) = oneshot::channel();
        let (awaited, now) = DropWait::new(core).split();
        let owner = core.clone();
        core.keeper.spawn(async move {
            let outcome = work.await;
            drop(unconfirmed);
            // The caller may have gone.
            let _ = report.send(outcome);
            if owner.is_closed() && awaited.is_some() {
                // It was the last of its manager: the sessions end too.
                owner.has_ended().await;
            }
            drop(awaited);
        });
        if let Some(now) = now {
            now.wait();
        }
        Self::Going(outcome, CatchingWaker::default())
    }
}

impl Future for Release {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut *self {
            Self::Done(outcome) => Poll::Ready(outcome.clone()),
            Self::Going(outcome, catching) => {
                let polled = catching.poll(cx, |cx| Pin::new(outcome).poll(cx));
                polled.map(|outcome| outcome.unwrap_or_else(|_| Err(LockError::closed(None, "unlock"))))
            }
        }
    }
}

impl Core {
    /// Gives back what an arbiter does not need any more, and wakes those who have news.
    pub(crate) fn carry_out(self: &Arc<Self>, entry: &Arc<Entry>, effects: KeyEffects) {
        if effects.watch {
            self.watch_over(entry);
        }
        if let Some(held) = effects.release {
            let now = self.now();
            drop(self.release(held, now));
        }
        effects.wake.into_iter().for_each(foreign::wake);
    }

    /// Gives a grant back, trying again until the server has confirmed or the hold's lease may be over.
    ///
    /// The deadline is the one that the hold had: nobody vouches for it any more, whatever later renewals of its session prove. What
    /// may be left on the server then is released in the background, however late.
    pub(crate) fn release(self: &Arc<Self>, held: Arc<HeldGrant>, now: Timestamp) -> Release {
        if !held.cell.is_session() {
            self.forget_lease(&held.cell);
        }
        let (core, deadline) = (self.clone(), held.deadline());
        Release::start(self, async move {
            let (mut backoff, mut now) = (Backoff::new(), Some(now));
            let mut late = Loss::Expired;
            loop {
                let checked = now.take().unwrap_or_else(|| core.now());
                if let Some(cause) = held.loss(checked).or((checked >= deadline).then_some(late)) {
                    core.report(&held, cause);
                    match held.cell.is_session() {
                        true => core.keep_releasing(held.clone()),
                        false => core.revoke(held.cell.clone()),
                    }
                    return Err(held.expired(cause));
                }
                let answer = within(&core, deadline, core.backend.release(&held.grant)).await;
                match answer.unwrap_or_else(|| Err(core.no_answer(core.defaults.timeout))) {
                    Ok(()) => {
                        core.counters.released();
                        let (name, key) = (core.defaults.name.as_ref(), held.entry.key.as_ref());
                        let token = held.first_token().get();
                        debug!(
                            target: "leasehold", name = name, key = key, token = token, lease:% = held.cell.id();
                            "{name}: lock {key:?} released (token {token})"
                        );
                        return Ok(());
                    }
                    Err(error) if error.kind() == ErrorKind::LeaseLost => {
                        core.report(&held, Loss::Revoked);
                        return Err(held.expired(Loss::Revoked));
                    }
                    Err(error) if error.kind() == ErrorKind::Unreachable => {
                        late = Loss::Unreachable;
                        within(&core, deadline, backoff.pause(&core)).await;
                    }
                    Err(error) => {
                        let (name, key) = (core.defaults.name.as_ref(), held.entry.key.as_ref());
                        let token = held.first_token().get();
                        warn!(
                            target: "leasehold", name = name, key = key, token = token;
                            "{name}: lock {key:?} not released (token {token}): {error}"
                        );
                        if error.kind() != ErrorKind::Closed {
                            // The session lives on, and the claim with it.
                            core.keep_releasing(held.clone());
                        }
                        return Err(LockError::backend(Some(key), "unlock", error));
                    }
                }
            }
        })
    }

    /// Repeats a release that was refused or came too late, now that its caller has been notified.
    fn keep_releasing(self: &Arc<Self>, held: Arc<HeldGrant>) {
        let core = self.clone();
        drop(Release::start(self, async move {
            core.persist(&held.cell, || core.backend.release(&held.grant)).await;
            Ok(())
        }));
    }

    /// Makes sure that an attempt of unknown outcome holds nothing; the key's next attempt begins after that.
    pub(crate) fn settle(self: &Arc<Self>, entry: Arc<Entry>, claim: Arc<Claim>, cell: Arc<LeaseCell>) {
        if !cell.is_session() {
            self.forget_lease(&cell);
        }
        let core = self.clone();
        drop(Release::start(self, async move {
            core.persist(&cell, || core.backend.settle(&claim)).await;
            let effects = entry.arbiter().settled(core.now());
            core.carry_out(&entry, effects);
            Ok(())
        }));
    }

    /// The same, while the key's next attempt may begin at once.
    pub(crate) fn settle_apart(self: &Arc<Self>, claim: Arc<Claim>, cell: Arc<LeaseCell>) {
        if !cell.is_session() {
            self.forget_lease(&cell);
        }
        let core = self.clone();
        drop(Release::start(self, async move {
            core.persist(&cell, || core.backend.settle(&claim)).await;
            Ok(())
        }));
    }

    /// Ends a lease that nobody needs any more.
    pub(crate) fn end_lease(self: &Arc<Self>, cell: Arc<LeaseCell>) {
        self.forget_lease(&cell);
        self.revoke(cell);
    }

    /// Ends a lease on the server.
    pub(crate) fn revoke(self: &Arc<Self>, cell: Arc<LeaseCell>) {
        let core = self.clone();
        drop(Release::start(self, async move {
            core.revoke_until_confirmed(cell).await;
            Ok(())
        }));
    }

    pub(super) async fn revoke_until_confirmed(self: &Arc<Self>, cell: Arc<LeaseCell>) {
        let lease = cell.lease();
        self.persist(&cell, || self.backend.revoke(&lease)).await;
    }

    /// Repeats a clean-up until it succeeds, however late: servers that are down end no lease. A closed manager gives it up once the
    /// lease, which nobody renews any more, is over by any clock.
    async fn persist<'a>(
        self: &Arc<Self>,
        cell: &LeaseCell,
        clean_up: impl Fn() -> BoxFuture<'a, std::result::Result<(), BackendError>>,
    ) {
        let mut backoff = Backoff::new();
        loop {
            // A backend may wait for an answer for ever.
            let limit = self.defaults.timeout;
            match tokio::time::timeout(limit, clean_up()).await.unwrap_or_else(|_| Err(self.no_answer(limit))) {
                Ok(()) => return,
                Err(error) if matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::Closed) => return,
                Err(error) => {
                    let name = self.defaults.name.as_ref();
                    debug!(target: "leasehold", name = name; "{name}: clean-up to be repeated: {error}");
                }
            }
            // A renewal whose answer was lost may have prolonged it by one TTL beyond what is known here.
            if self.is_closed() && self.now() > cell.deadline() + cell.lease().ttl.saturating_mul(2) {
                return;
            }
            backoff.pause(self).await;
        }
    }
}

/// Waits for `work`, but not beyond the deadline, nor longer than for any call.
async fn within<T>(core: &Core, deadline: Timestamp, work: impl Future<Output = T>) -> Option<T> {
    // The usual release in memory is over at the first poll, and needs no timer.
    let timer = async {
        let limit = deadline.since(core.now()).min(core.defaults.timeout);
        tokio::time::sleep(limit).await;
    };
    match select(pin!(work), pin!(timer)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
