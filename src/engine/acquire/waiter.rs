//! [`Waiter`]: an acquire with a place in the local queue, until it has a hold, fails, or is dropped.

mod timeout;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::poll_fn;

use super::after_error::{AfterError, FailedAt, after_error};
use super::attempt::{Answer, Attempt};
use crate::arbiter::{Cancelled, Terms, Ticket, Turn};
use crate::backend::backoff::Backoff;
use crate::backend::{Claim, Grant, KeyMemo, Queueing, Wait};
use crate::clock::Timestamp;
use crate::engine::cleanup::Job;
use crate::engine::losses::lose_if_early;
use crate::engine::sessions::LeaseFor;
use crate::engine::{Base, EngineHandle, Entry, HeldGrant, RequestOptions, Share, renew};
use crate::error::{BackendError, LockError, Result};
use crate::lease::LeaseCell;
use crate::owner::Owner;
use crate::process::foreign;
use crate::process::report::debug;

/// A share of a hold; `None` if the key was not free for a request that does not wait.
pub(super) type Acquired = Result<Option<Share>>;

/// What a waiter does next.
enum Next {
    Claim,
    /// It received a share of a hold, at this depth.
    Entered(Share, u32),
    /// The key is not free, and it does not wait.
    Busy,
}

/// What a waiter has begun before it waits.
pub(super) enum Begun {
    /// It is in the queue.
    Nothing,
    /// A lease is being opened for it.
    Lease(LeaseFor),
    /// It claims.
    Attempt(Attempt),
    /// Its claim was answered.
    Answered(Arc<LeaseCell>, Answer),
}

/// A place in the local queue. Dropping it leaves nothing behind.
pub(super) struct Waiter {
    engine: Arc<EngineHandle>,
    entry: Arc<Entry>,
    owner: Owner,
    options: RequestOptions,
    wait: Wait,
    asked: Timestamp,
    /// The place; `None` once the waiter has left the queue.
    ticket: Option<Ticket>,
    /// The attempt that may be at the backend.
    sent: Option<(Arc<Claim>, Arc<LeaseCell>)>,
    /// The error of the last attempt, if it is being tried again.
    trouble: Option<BackendError>,
    /// Whether the server has queued a claim of this waiter, and how soon it said so. Begins with the first claim that has a limit.
    queueing: Option<Queueing>,
    /// Whether the key was held in this process when this waiter came.
    was_held: bool,
}

impl Waiter {
    pub(super) fn new(
        engine: Arc<EngineHandle>,
        entry: Arc<Entry>,
        owner: Owner,
        options: RequestOptions,
        wait: Wait,
        asked: Timestamp,
        ticket: Ticket,
    ) -> Self {
        let was_held = options.tries && entry.arbiter().is_held(asked);
        let (ticket, sent, trouble, queueing) = (Some(ticket), None, None, None);
        Self { engine, entry, owner, options, wait, asked, ticket, sent, trouble, queueing, was_held }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.options.terms
    }

    fn base(&self) -> &Arc<Base> {
        &self.engine.base
    }

    /// The longest time to wait.
    pub(super) fn limit(&self) -> Option<Duration> {
        self.options.limit(&self.base().defaults, self.wait)
    }

    /// Waits within the caller's limit. Continues what has begun.
    pub(super) async fn run(mut self, begun: Begun) -> Acquired {
        match self.limit() {
            Some(limit) => self.run_within(limit, begun).await,
            None => self.acquire(begun).await,
        }
    }

    async fn acquire(&mut self, mut begun: Begun) -> Acquired {
        let (mut pauses, mut paused) = (Backoff::slow(), self.base().now());
        // Between grants whose leases had ended: a backend may have more of them.
        let mut losses = Backoff::at_once();
        loop {
            let claimed = match std::mem::replace(&mut begun, Begun::Nothing) {
                Begun::Answered(cell, answer) => Ok((cell, answer)),
                Begun::Attempt(attempt) => Ok(self.answer(attempt).await),
                earlier @ (Begun::Lease(_) | Begun::Nothing) => match self.turn().await? {
                    Next::Busy => return Ok(None),
                    Next::Entered(share, depth) => match self.entered(share, depth) {
                        Some(share) => return Ok(Some(share)),
                        None => continue,
                    },
                    Next::Claim => match self.lease(earlier).await {
                        Ok(cell) => {
                            let attempt = self.attempt(cell);
                            Ok(self.answer(attempt).await)
                        }
                        Err(error) => Err(error),
                    },
                },
            };
            let (error, stage, cell) = match claimed {
                Err(error) => (error, FailedAt::Lease, None),
                Ok((cell, answer)) => match answer {
                    Ok(Some(grant)) => match self.granted_afresh(grant, cell).await {
                        Some(share) => return Ok(Some(share)),
                        None => {
                            self.abort();
                            losses.pause().await;
                            continue;
                        }
                    },
                    Ok(None) => {
                        self.was_busy();
                        return Ok(None);
                    }
                    Err(error) => (error, FailedAt::Claim, Some(cell)),
                },
            };
            self.log_failure(&error);
            let after = after_error(error.kind(), stage, self.wait);
            match after {
                AfterError::Refuse => self.refused(),
                AfterError::Retry | AfterError::RetryLease | AfterError::Fail => self.abort(),
            }
            if matches!(after, AfterError::Fail | AfterError::Refuse) {
                return Err(LockError::backend(Some(&self.entry.key), "lock", error));
            }
            let (base, sessions) = (self.base().clone(), self.engine.sessions.clone());
            base.check_open(Some(&self.entry.key), "lock")?;
            self.trouble = Some(error);
            // It may be the first sign of an outage.
            base.check_now();
            if let Some(cell) = cell {
                if after == AfterError::RetryLease && cell.is_session() && cell.loss(base.now()).is_none() {
                    // The claim alone, or the whole session? The answer may not say so, and the next renewal may be far off.
                    let _ = renew(&sessions, &cell).await;
                }
                if cell.lease().proven > paused {
                    // The server has answered since then.
                    pauses = Backoff::slow();
                }
            }
            base.recovery.pause(&mut pauses).await;
            paused = base.now();
        }
    }

    fn log_failure(&self, error: &BackendError) {
        let (name, key) = (self.base().name(), self.entry.key.as_ref());
        debug!(target: "leasehold", name = name, key = key; "{name}: lock {key:?}: attempt failed: {error}");
    }

    /// Waits until there is something to do.
    async fn turn(&mut self) -> Result<Next> {
        poll_fn(|cx| {
            self.base().check_open(Some(&self.entry.key), "lock")?;
            let Some(ticket) = self.ticket else { return Poll::Pending };
            let turn = self.entry.arbiter().turn(ticket, || foreign::cloned(cx.waker()));
            Poll::Ready(Ok(match turn {
                Turn::Wait => return Poll::Pending,
                Turn::Claim => Next::Claim,
                Turn::Busy => Next::Busy,
                Turn::Entered(hold, depth) => Next::Entered(Share::new(hold, self.entry.clone()), depth),
                Turn::Refused(reason) => {
                    return Poll::Ready(Err(LockError::AlreadyHeld { key: self.entry.key.to_string(), reason }));
                }
            }))
        })
        .await
    }

    /// The waiter received a share. If the hold is lost already, it returns to its place.
    fn entered(&mut self, share: Share, depth: u32) -> Option<Share> {
        self.ticket = None;
        let now = self.base().now();
        if !share.is_lost() {
            if depth == 1 {
                count_acquired(&share, self.asked, now);
            }
            return Some(share);
        }
        drop(share);
        self.entry.purge(now);
        let (ticket, effects) = self.entry.arbiter().requeue(&self.owner, self.options.terms.clone(), now);
        self.ticket = Some(ticket);
        self.entry.apply(effects);
        None
    }

    async fn lease(&mut self, mut begun: Begun) -> Result<Arc<LeaseCell>, BackendError> {
        loop {
            let lease = match std::mem::replace(&mut begun, Begun::Nothing) {
                Begun::Lease(opening) => opening,
                _ => self.engine.sessions.lease_for(&self.options.terms, self.base().now()),
            };
            let cell = match lease {
                LeaseFor::Ready(opened) => return opened,
                LeaseFor::Soon(opening) => opening.await?,
            };
            if cell.take() {
                return Ok(cell);
            }
        }
    }

    /// Describes a claim.
    pub(super) fn claim(&mut self, cell: &LeaseCell) -> Claim {
        if self.queueing.is_none() && self.limit().is_some() {
            self.queueing = Some(Queueing::begin());
        }
        let base = self.base();
        let (attempt, key, holder) = (base.next_attempt(), self.entry.key.clone(), base.holder.clone());
        let mut claim = Claim::new(attempt, key, self.options.terms.mode, cell.lease(), holder);
        claim.limit = self.options.terms.limit;
        claim.value = self.options.terms.value.clone();
        claim.retry_interval = self.options.retry_interval;
        claim.memo = KeyMemo(Some(self.entry.clone()));
        claim.queueing = self.queueing.clone().unwrap_or_default();
        claim
    }

    /// Claims. From here on the attempt must be granted, or aborted.
    fn attempt(&mut self, cell: Arc<LeaseCell>) -> Attempt {
        let claim = self.claim(&cell);
        self.send(claim, cell)
    }

    /// The same with this claim.
    pub(super) fn send(&mut self, claim: Claim, cell: Arc<LeaseCell>) -> Attempt {
        let claim = Arc::new(claim);
        self.sent = Some((claim.clone(), cell.clone()));
        Attempt::new(claim, cell, self.base().backend.clone(), self.wait)
    }

    /// The claim was answered at once. From here on the attempt must be granted, or aborted.
    pub(super) fn sent(&mut self, claim: Claim, cell: Arc<LeaseCell>) {
        self.sent = Some((Arc::new(claim), cell));
    }

    async fn answer(&self, mut attempt: Attempt) -> (Arc<LeaseCell>, Answer) {
        let answer = poll_fn(|cx| attempt.poll(cx, self.base())).await;
        (attempt.cell().clone(), answer)
    }

    /// Whether the lease of a grant is renewed, or young enough: then its TTL counts from now.
    pub(super) fn is_fresh(&self, grant: &Grant, cell: &LeaseCell) -> bool {
        if cell.policy().auto_renew {
            return true;
        }
        let (lease, now) = (cell.lease(), self.base().now());
        let is_limited = grant.limit.as_ref().is_some_and(|limit| limit.until() < cell.deadline());
        let is_old = is_limited || now.since(lease.proven) > lease.ttl / 20;
        !is_old || cell.loss(now).is_some()
    }

    /// Takes the grant. If the lease is not renewed afterwards, its TTL counts from now.
    async fn granted_afresh(&mut self, grant: Grant, cell: Arc<LeaseCell>) -> Option<Share> {
        let mut pauses = Backoff::slow();
        while !self.is_fresh(&grant, &cell) && renew(&self.engine.sessions, &cell).await.is_err() {
            self.base().recovery.pause(&mut pauses).await;
        }
        self.granted(grant, cell)
    }

    /// Takes the grant, unless it is too late: then the attempt is to be aborted.
    pub(super) fn granted(&mut self, grant: Grant, cell: Arc<LeaseCell>) -> Option<Share> {
        let now = self.base().now();
        self.granted_at(now, grant, cell)
    }

    /// The same at this time.
    pub(super) fn granted_at(&mut self, now: Timestamp, grant: Grant, cell: Arc<LeaseCell>) -> Option<Share> {
        let (engine, ticket) = (self.engine.clone(), self.ticket?);
        let proof = grant.lease;
        if proof.proven > cell.lease().proven {
            cell.update(now, |renewal| renewal.renewed(proof, now));
        }
        let is_closed = engine.base.lifecycle.is_closed();
        if cell.loss(now).is_some() || is_closed || engine.early_losses.contains(grant.attempt) {
            return None;
        }
        let entry = &self.entry;
        engine.sessions.set_key(&cell, &entry.key);
        let held = HeldGrant::new(grant, cell, entry.key.clone(), engine.sessions.clone(), engine.clone());
        let granted = entry.arbiter().granted(ticket, held, now);
        // Refused only if another waiter were the claimant; by the ticket, it is this one.
        let (hold, effects) = granted.ok()?;
        let share = Share::new(hold, entry.clone());
        self.ticket = None;
        self.sent = None;
        entry.apply(effects);
        lose_if_early(&engine, entry, share.held(), now);
        count_acquired(&share, self.asked, now);
        Some(share)
    }

    /// The attempt is certain to hold nothing: the key was not free.
    pub(super) fn was_busy(&mut self) {
        let sent = self.sent.take();
        if let Some(ticket) = self.ticket.take() {
            let effects = self.entry.arbiter().was_busy(ticket, self.base().now());
            self.entry.apply(effects);
        }
        if let Some((_, cell)) = sent
            && !cell.is_session()
        {
            self.engine.sessions.end(cell);
        }
    }

    /// Cleans up the attempt, if there is one, and keeps the place in the queue.
    pub(super) fn abort(&mut self) {
        if let (Some(ticket), Some((claim, cell))) = (self.ticket, self.sent.take()) {
            self.entry.arbiter().aborting(ticket);
            self.abort_sent(claim, cell);
        }
    }

    /// Makes sure that an attempt of unknown outcome holds nothing; the key's next attempt begins after that.
    fn abort_sent(&self, claim: Arc<Claim>, cell: Arc<LeaseCell>) {
        self.engine.sessions.forget_own(&cell);
        let (entry, base) = (self.entry.clone(), self.base().clone());
        self.engine.cleanup.run_then(cell, Job::Abort(claim), move || {
            let effects = entry.arbiter().aborted(base.now());
            entry.apply(effects);
        });
    }

    /// The attempt met a final refusal.
    fn refused(&mut self) {
        let Some((claim, cell)) = self.sent.take() else { return };
        if let Some(ticket) = self.ticket.take() {
            let effects = self.entry.arbiter().gave_up(ticket, self.base().now());
            self.entry.apply(effects);
        }
        self.engine.sessions.forget_own(&cell);
        self.engine.cleanup.run(cell, Job::Abort(claim));
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        if self.base().is_forked() {
            return;
        }
        let sent = self.sent.take();
        let (cancelled, effects) = self.entry.arbiter().cancel(ticket, sent.is_some(), self.base().now());
        self.entry.apply(effects);
        match (cancelled, sent) {
            (Cancelled::Hold(hold), _) => drop(Share::new(hold, self.entry.clone())),
            (Cancelled::Attempt, Some((claim, cell))) => self.abort_sent(claim, cell),
            (Cancelled::Attempt | Cancelled::Nothing, _) => {}
        }
    }
}

/// Counts and logs a hold that begins.
pub(super) fn count_acquired(share: &Share, asked: Timestamp, now: Timestamp) {
    let (held, token) = (share.held(), share.hold().token.get());
    let base = &held.sessions.base;
    base.counters.acquired_after(now.since(asked));
    let (name, key) = (base.name(), held.key.as_ref());
    debug!(
        target: "leasehold", name = name, key = key, token = token, lease = &held.cell.id();
        "{name}: lock {key:?} acquired (token {token})"
    );
}
