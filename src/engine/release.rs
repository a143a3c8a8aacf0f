//! Giving back: releases, attempts of unknown outcome, revocations. All of it goes on on the keeper when its caller has gone.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::future::{BoxFuture, Either, select};
use log::{debug, warn};

use super::entries::KeyEffects;
use super::{Backoff, Core, Entry, HeldGrant, Unconfirmed, no_answer};
use crate::backend::{BackendError, Claim, ErrorKind};
use crate::clock::Timestamp;
use crate::lease::LeaseCell;
use crate::{LockError, Loss, Result};

/// A release on its way. Polling it waits for the server's word; dropping it leaves it to the keeper.
pub(crate) struct Release {
    core: Arc<Core>,
    work: Work,
}

enum Work {
    Going(BoxFuture<'static, Result<()>>),
    Done(Result<()>),
}

impl Release {
    fn start(core: &Arc<Core>, work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        let unconfirmed = Unconfirmed::new(core);
        let work = async move {
            let _unconfirmed = unconfirmed;
            work.await
        };
        let mut release = Self { core: core.clone(), work: Work::Going(Box::pin(work)) };
        // Sends the request, and is all there is to do for a store in memory.
        let _ = Pin::new(&mut release).poll(&mut Context::from_waker(Waker::noop()));
        release
    }
}

impl Future for Release {
    type Output = Result<()>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if let Work::Going(work) = &mut this.work {
            let _within = this.core.keeper.enter();
            let Poll::Ready(outcome) = work.as_mut().poll(cx) else { return Poll::Pending };
            this.work = Work::Done(outcome);
        }
        match &this.work {
            Work::Going(_) => Poll::Pending,
            Work::Done(outcome) => Poll::Ready(outcome.clone()),
        }
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Work::Going(work) = std::mem::replace(&mut self.work, Work::Done(Ok(()))) {
            self.core.keeper.spawn(async move { drop(work.await) });
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
        for waker in effects.wake {
            waker.wake();
        }
    }

    /// Gives a grant back, trying again until the server has confirmed or the lease is over.
    pub(crate) fn release(self: &Arc<Self>, held: Arc<HeldGrant>, now: Timestamp) -> Release {
        if !held.cell.is_session() {
            self.forget_lease(&held.cell);
        }
        let core = self.clone();
        Release::start(self, async move {
            let (mut backoff, mut now) = (Backoff::new(), Some(now));
            loop {
                if let Some(cause) = held.loss(now.take().unwrap_or_else(|| core.now())) {
                    core.report(&held, cause);
                    if !held.cell.is_session() {
                        // A session is revoked by who looks after it.
                        core.revoke(held.cell.clone());
                    }
                    return Err(held.expired(cause));
                }
                let answer = within(&core, &held.cell, core.backend.release(&held.grant)).await;
                match answer.unwrap_or_else(|| Err(no_answer(core.defaults.timeout))) {
                    Ok(()) => {
                        core.counters.released();
                        let (name, key) = (core.defaults.name.as_ref(), held.entry.key.as_ref());
                        debug!(
                            target: "leasehold",
                            name = name, key = key, token = held.first_token().get(), lease:% = held.cell.id();
                            "released"
                        );
                        return Ok(());
                    }
                    Err(error) if error.kind() == ErrorKind::LeaseLost => {
                        core.report(&held, Loss::Revoked);
                        return Err(held.expired(Loss::Revoked));
                    }
                    Err(error) if error.kind() == ErrorKind::Unreachable => {
                        within(&core, &held.cell, backoff.pause(&core)).await;
                    }
                    Err(error) => {
                        let key = held.entry.key.as_ref();
                        warn!(target: "leasehold", name = core.defaults.name.as_ref(), key = key; "not released: {error}");
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

    /// Repeats a release that was refused, now that its caller has been told.
    fn keep_releasing(self: &Arc<Self>, held: Arc<HeldGrant>) {
        let core = self.clone();
        drop(Release::start(self, async move {
            core.persist(|| core.backend.release(&held.grant)).await;
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
            core.persist(|| core.backend.settle(&claim)).await;
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
            core.persist(|| core.backend.settle(&claim)).await;
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
            let lease = cell.lease();
            core.persist(|| core.backend.revoke(&lease)).await;
            Ok(())
        }));
    }

    /// Repeats a clean-up until it succeeds, however late: a server that is down ends no lease.
    async fn persist<'a>(
        self: &Arc<Self>,
        clean_up: impl Fn() -> BoxFuture<'a, std::result::Result<(), BackendError>>,
    ) {
        let mut backoff = Backoff::new();
        loop {
            // A backend may wait for an answer for ever.
            let limit = self.defaults.timeout;
            match tokio::time::timeout(limit, clean_up()).await.unwrap_or_else(|_| Err(no_answer(limit))) {
                Ok(()) => return,
                Err(error) if matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::Closed) => return,
                Err(error) => {
                    debug!(target: "leasehold", name = self.defaults.name.as_ref(); "clean-up to be repeated: {error}");
                }
            }
            backoff.pause(self).await;
        }
    }
}

/// Waits for `work`, but not beyond the lease's deadline, nor longer than for any call.
async fn within<T>(core: &Core, cell: &LeaseCell, work: impl Future<Output = T>) -> Option<T> {
    // The usual release in memory is over at the first poll, and needs no timer.
    let timer = async {
        let limit = cell.deadline().since(core.now()).min(core.defaults.timeout);
        tokio::time::sleep(limit).await;
    };
    match select(pin!(work), pin!(timer)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
