//! The way to a hold: local queue, lease, backend. Cancellable at every point.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, Either, poll_fn, select};
use tokio::task::coop::RestoreOnPending;

use crate::arbiter::{Cancelled, Decision, Ticket, Turn};
use crate::backend::{BackendError, Claim, ErrorKind, Grant};
use crate::clock::Timestamp;
use crate::engine::{Backoff, Core, Entry, FRESH, HeldGrant, Hold, LeaseFor, Life};
use crate::foreign::{self, CatchingWaker};
use crate::guard::LockGuard;
use crate::lease::{LeaseCell, Listener};
use crate::owner::{self, Owner};
use crate::report::debug;
use crate::request::Options;
use crate::{LockError, Loss, Result};

type Acquired = Result<Option<LockGuard>>;

/// One acquire. The way without waiting goes by at the first poll without a box; all else is [`Waiter::run`].
pub(crate) struct Acquisition {
    life: Arc<Life>,
    state: State,
    catching: CatchingWaker,
}

#[expect(clippy::large_enum_variant, reason = "an acquire that need not wait needs no box")]
enum State {
    Start(Start),
    Waiting(BoxFuture<'static, Acquired>),
    Done,
}

/// What is known before the first poll.
struct Start {
    entry: Result<Arc<Entry>>,
    options: Options,
    wait: bool,
}

impl Acquisition {
    pub(crate) fn new(life: Arc<Life>, entry: Result<Arc<Entry>>, options: Options, wait: bool) -> Self {
        Self { life, state: State::Start(Start { entry, options, wait }), catching: CatchingWaker::default() }
    }
}

impl Drop for Acquisition {
    fn drop(&mut self) {
        if self.life.keeper.is_forked() {
            // What the parent waits for is not ended here: a mutex on the way may be locked for ever.
            std::mem::forget(std::mem::replace(&mut self.state, State::Done));
        }
    }
}

impl Future for Acquisition {
    type Output = Acquired;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Acquired> {
        let this = self.get_mut();
        let Poll::Ready(budget) = owner::proceed(cx) else { return Poll::Pending };
        let polled = this.advance(cx);
        if polled.is_ready() {
            budget.inspect(RestoreOnPending::made_progress);
        }
        polled
    }
}

impl Acquisition {
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Acquired> {
        if let State::Start(..) = self.state
            && let State::Start(start) = std::mem::replace(&mut self.state, State::Done)
        {
            match start.poll(&self.life, cx, &mut self.catching) {
                Ok(Started::Done(guard)) => return Poll::Ready(Ok(guard)),
                Ok(Started::Waiting(waiting)) => self.state = State::Waiting(waiting),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let State::Waiting(waiting) = &mut self.state else { return Poll::Pending };
        let _within = match self.life.keeper.enter() {
            Ok(within) => within,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let polled = self.catching.poll(cx, |cx| waiting.as_mut().poll(cx));
        if polled.is_ready() {
            self.state = State::Done;
        }
        polled
    }
}

enum Started {
    Done(Option<LockGuard>),
    Waiting(BoxFuture<'static, Acquired>),
}

impl Start {
    /// Finds the owner, asks the arbiter, and goes to the backend if it is this one's turn.
    fn poll(self, life: &Arc<Life>, cx: &mut Context<'_>, catching: &mut CatchingWaker) -> Result<Started> {
        let Self { entry, options, wait } = self;
        let entry = entry?;
        life.check_open(Some(&entry.key), "lock")?;
        let now = life.now();
        let (owner, decision, effects, nudge) = {
            let caller = options.caller(life, cx);
            let mut arbiter = entry.arbiter();
            let owner = caller.for_key(|owner| arbiter.holds(owner, now));
            let (decision, effects) = arbiter.request(&owner, options.terms, wait, now, || foreign::cloned(cx.waker()));
            let nudge = matches!(decision, Decision::Queued(_)) && arbiter.wants_nudge();
            (owner, decision, effects, nudge)
        };
        life.carry_out(&entry, effects);
        if nudge {
            life.watch_over(&entry);
        }
        let (ticket, claims) = match decision {
            Decision::Entered(hold, depth) => {
                let guard = LockGuard::new(hold);
                if depth == 1 {
                    acquired(&guard, now, now);
                }
                return Ok(Started::Done(Some(guard)));
            }
            Decision::Refused(reason) => return Err(LockError::AlreadyHeld { key: entry.key.to_string(), reason }),
            Decision::Busy => return Ok(Started::Done(None)),
            Decision::Claim(ticket) => (ticket, true),
            Decision::Queued(ticket) => (ticket, false),
        };
        let mut waiter = Waiter {
            life: life.clone(),
            entry,
            owner,
            options,
            wait,
            asked: now,
            ticket: Some(ticket),
            opening: None,
            sent: None,
            trouble: None,
        };
        let mut attempt = None;
        let lease = claims.then(|| life.lease_for(&waiter.options.terms, now));
        if let Some(LeaseFor::Ready(Ok(cell))) = lease {
            let mut begun = waiter.attempt(cell);
            let polled = {
                let _within = life.keeper.enter()?;
                catching.poll(cx, |cx| begun.answer.as_mut().poll(cx))
            };
            match polled {
                Poll::Pending => attempt = Some(begun),
                Poll::Ready(Ok(Some(grant))) => match waiter.granted(grant, begun.cell) {
                    Some(guard) => return Ok(Started::Done(Some(guard))),
                    None => waiter.settle(),
                },
                Poll::Ready(Ok(None)) => {
                    waiter.was_busy();
                    return Ok(Started::Done(None));
                }
                Poll::Ready(Err(error)) => {
                    attempt = Some(Attempt { answer: Box::pin(std::future::ready(Err(error))), ..begun })
                }
            }
        } else {
            waiter.opening = lease;
        }
        Ok(Started::Waiting(Box::pin(waiter.run(attempt))))
    }
}

/// What a waiter does next.
enum Next {
    Claim,
    /// It was given a share of a hold, at this depth.
    Entered(Arc<Hold>, u32),
    /// The key is not free, and it does not wait.
    Busy,
}

/// A claim on its way to the backend and back.
struct Attempt {
    cell: Arc<LeaseCell>,
    answer: BoxFuture<'static, Result<Option<Grant>, BackendError>>,
}

/// A place in the local queue. Dropping it leaves nothing behind.
struct Waiter {
    life: Arc<Life>,
    entry: Arc<Entry>,
    owner: Owner,
    options: Options,
    wait: bool,
    asked: Timestamp,
    /// The place; `None` once it has been left.
    ticket: Option<Ticket>,
    /// The lease that was asked for at the first poll.
    opening: Option<LeaseFor>,
    /// The attempt that may be at the backend.
    sent: Option<(Arc<Claim>, Arc<LeaseCell>)>,
    /// Why the last attempt failed that is tried again.
    trouble: Option<BackendError>,
}

impl Waiter {
    /// Waits within the caller's limit, and finds out who is in the way.
    async fn run(mut self, attempt: Option<Attempt>) -> Acquired {
        match self.options.limit(&self.life, self.wait) {
            Some(limit) => self.run_within(limit, attempt).await,
            None => self.acquire(attempt).await,
        }
    }

    async fn run_within(mut self, limit: Duration, attempt: Option<Attempt>) -> Acquired {
        let (life, entry) = (self.life.clone(), self.entry.clone());
        let found = std::sync::OnceLock::new();
        // The holder's name is asked for shortly before it is wanted: an error shall not come late because of it.
        let lead = (limit / 2).min(FRESH);
        {
            let mut acquire = pin!(self.acquire(attempt));
            if let Either::Left((acquired, _)) = select(acquire.as_mut(), pin!(tokio::time::sleep(limit - lead))).await
            {
                return acquired;
            }
            let look = async {
                let _ = found.set(life.look_up(&entry).await);
                std::future::pending::<()>().await;
            };
            let (mut look, mut rest) = (pin!(look), pin!(tokio::time::sleep(lead)));
            if let Either::Left((acquired, _)) = select(acquire.as_mut(), select(look.as_mut(), rest.as_mut())).await {
                return acquired;
            }
        }
        let key = entry.key.as_ref();
        if !self.wait {
            let error = life.backend.outage().or(self.trouble.take()).unwrap_or_else(|| life.no_answer(limit));
            return Err(LockError::backend(Some(key), "try_lock", error));
        }
        life.counters.timed_out();
        let (holder, source) = match found.into_inner() {
            Some(Ok(Some(holder))) => (Some(holder), None),
            Some(Ok(None)) => (None, self.trouble.take()),
            Some(Err(error)) => (None, life.backend.outage().or(self.trouble.take()).or(Some(error))),
            None => {
                // A short time is no proof that the server is silent.
                let silent = (lead == FRESH).then(|| life.no_answer(lead));
                (None, life.backend.outage().or(self.trouble.take()).or(silent))
            }
        };
        let own = entry.arbiter().is_held_beside(&self.owner, life.now());
        Err(LockError::Timeout { key: key.into(), after: limit, holder, own, source: source.map(Box::new) })
    }

    async fn acquire(&mut self, mut attempt: Option<Attempt>) -> Acquired {
        let (mut backoff, mut paused) = (Backoff::new(), self.life.now());
        loop {
            let current = match attempt.take() {
                Some(begun) => begun,
                None => {
                    let next = self.turn().await?;
                    if let Next::Busy = next {
                        return Ok(None);
                    }
                    if let Next::Entered(hold, depth) = next {
                        let guard = LockGuard::new(hold);
                        self.ticket = None;
                        if !guard.is_lost() {
                            if depth == 1 {
                                acquired(&guard, self.asked, self.life.now());
                            }
                            return Ok(Some(guard));
                        }
                        drop(guard);
                        self.requeue();
                        continue;
                    }
                    match self.lease().await {
                        Ok(cell) => self.attempt(cell),
                        Err(error)
                            if self.wait && matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::LeaseLost) =>
                        {
                            self.tries_again(error);
                            backoff.pause(&self.life).await;
                            continue;
                        }
                        Err(error) => {
                            self.log_failure(&error);
                            return Err(LockError::backend(Some(&self.entry.key), "lock", error));
                        }
                    }
                }
            };
            let Attempt { cell, answer } = current;
            let answer = match select(answer, pin!(lost(&self.life, &cell))).await {
                Either::Left((answer, _)) => answer,
                Either::Right((cause, _)) => Err(BackendError::new(ErrorKind::LeaseLost, cause.to_string())),
            };
            match answer {
                Ok(Some(grant)) => match self.granted_afresh(grant, cell).await {
                    Some(guard) => return Ok(Some(guard)),
                    None => self.settle(),
                },
                Ok(None) => {
                    self.was_busy();
                    return Ok(None);
                }
                Err(error) => {
                    self.log_failure(&error);
                    let again = match error.kind() {
                        ErrorKind::LeaseLost => true,
                        ErrorKind::Unreachable => self.wait,
                        _ => {
                            self.refused();
                            false
                        }
                    };
                    self.settle();
                    if !again {
                        return Err(LockError::backend(Some(&self.entry.key), "lock", error));
                    }
                    self.life.check_open(Some(&self.entry.key), "lock")?;
                    let lease_lost = error.kind() == ErrorKind::LeaseLost;
                    self.tries_again(error);
                    if lease_lost && cell.is_session() && cell.loss(self.life.now()).is_none() {
                        // Was it the claim, or the whole session? Nobody may have told, and its next renewal may be far.
                        let _ = self.life.renew(&cell).await;
                    }
                    if cell.lease().proven > paused {
                        // The server has answered since then.
                        backoff = Backoff::new();
                    }
                    backoff.pause(&self.life).await;
                    paused = self.life.now();
                }
            }
        }
    }

    /// An attempt has failed for a reason that may pass.
    fn tries_again(&mut self, error: BackendError) {
        self.trouble = Some(error);
        // It may be the first sign of an outage.
        self.life.look_after();
    }

    fn log_failure(&self, error: &BackendError) {
        let (name, key) = (self.life.defaults.name.as_ref(), self.entry.key.as_ref());
        debug!(target: "leasehold", name = name, key = key; "{name}: lock {key:?}: attempt failed: {error}");
    }

    /// Waits until there is something to do.
    async fn turn(&mut self) -> Result<Next> {
        poll_fn(|cx| {
            self.life.check_open(Some(&self.entry.key), "lock")?;
            let Some(ticket) = self.ticket else { return Poll::Pending };
            let turn = self.entry.arbiter().turn(ticket, || foreign::cloned(cx.waker()));
            match turn {
                Turn::Wait => Poll::Pending,
                Turn::Claim => Poll::Ready(Ok(Next::Claim)),
                Turn::Busy => Poll::Ready(Ok(Next::Busy)),
                Turn::Entered(hold, depth) => Poll::Ready(Ok(Next::Entered(hold, depth))),
                Turn::Refused(reason) => {
                    Poll::Ready(Err(LockError::AlreadyHeld { key: self.entry.key.to_string(), reason }))
                }
            }
        })
        .await
    }

    async fn lease(&mut self) -> Result<Arc<LeaseCell>, BackendError> {
        loop {
            let asked = self.opening.take();
            let cell = match asked.unwrap_or_else(|| self.life.lease_for(&self.options.terms, self.life.now())) {
                LeaseFor::Ready(opened) => return opened,
                LeaseFor::Soon(opening) => opening.await?,
            };
            if cell.take() {
                return Ok(cell);
            }
        }
    }

    /// Claims. From here on the attempt must be granted, or settled.
    fn attempt(&mut self, cell: Arc<LeaseCell>) -> Attempt {
        let core = &self.life;
        let (attempt, key, holder) = (core.next_attempt(), self.entry.key.clone(), core.holder.clone());
        let mut claim = Claim::new(attempt, key, self.options.terms.mode, cell.lease(), holder);
        claim.retry_interval = self.options.retry_interval;
        let claim = Arc::new(claim);
        self.sent = Some((claim.clone(), cell.clone()));
        let (backend, wait) = (core.backend.clone(), self.wait);
        Attempt { cell, answer: Box::pin(async move { backend.acquire(&claim, wait).await }) }
    }

    /// Takes the grant. Of a lease that is not renewed afterwards, the TTL counts from now.
    async fn granted_afresh(&mut self, grant: Grant, cell: Arc<LeaseCell>) -> Option<LockGuard> {
        let mut backoff = Backoff::new();
        let is_old = |now: Timestamp| {
            let lease = cell.lease();
            let is_limited = grant.limit.as_ref().is_some_and(|limit| limit.until() < cell.deadline());
            (is_limited || now.since(lease.proven) > lease.ttl / 20) && cell.loss(now).is_none()
        };
        while !cell.policy().auto_renew && is_old(self.life.now()) && self.life.renew(&cell).await.is_err() {
            backoff.pause(&self.life).await;
        }
        self.granted(grant, cell)
    }

    /// Takes the grant, unless it is too late: then the attempt is to be settled.
    fn granted(&mut self, grant: Grant, cell: Arc<LeaseCell>) -> Option<LockGuard> {
        let (life, ticket) = (&self.life, self.ticket?);
        let now = life.now();
        let proof = grant.lease;
        if proof.proven > cell.lease().proven {
            cell.update(now, |renewal| renewal.renewed(proof, now));
        }
        if cell.loss(now).is_some() || life.is_closed() || life.has_lost(grant.attempt) {
            return None;
        }
        life.lease_holds(&cell, &self.entry);
        let held = HeldGrant::new(grant, cell, self.entry.clone(), life.clone());
        let granted = self.entry.arbiter().granted(ticket, held, now);
        // Refused only if the claimant were somebody else, and the ticket says that it is not.
        let (hold, effects) = granted.ok()?;
        let guard = LockGuard::new(hold);
        self.ticket = None;
        self.sent = None;
        life.carry_out(&self.entry, effects);
        life.lose_if_stray(guard.held(), now);
        acquired(&guard, self.asked, now);
        Some(guard)
    }

    /// The attempt holds nothing, for certain: the key was not free.
    fn was_busy(&mut self) {
        let sent = self.sent.take();
        if let Some(ticket) = self.ticket.take() {
            let effects = self.entry.arbiter().was_busy(ticket, self.life.now());
            self.life.carry_out(&self.entry, effects);
        }
        if let Some((_, cell)) = sent
            && !cell.is_session()
        {
            self.life.end_lease(cell);
        }
    }

    /// Cleans up the attempt and keeps the place in the queue.
    fn settle(&mut self) {
        if let (Some(ticket), Some((claim, cell))) = (self.ticket, self.sent.take()) {
            self.entry.arbiter().unsettled(ticket);
            self.life.settle(self.entry.clone(), claim, cell);
        }
    }

    /// The attempt was refused for good. Its clean-up may be refused as well, so the next attempt does not wait for that.
    fn refused(&mut self) {
        let Some((claim, cell)) = self.sent.take() else { return };
        if let Some(ticket) = self.ticket.take() {
            let effects = self.entry.arbiter().gave_up(ticket, self.life.now());
            self.life.carry_out(&self.entry, effects);
        }
        self.life.settle_apart(claim, cell);
    }

    /// The hold that this one was given is lost already.
    fn requeue(&mut self) {
        let now = self.life.now();
        self.entry.purge(&self.life, now);
        let (ticket, effects) = self.entry.arbiter().requeue(&self.owner, self.options.terms, now);
        self.ticket = Some(ticket);
        self.life.carry_out(&self.entry, effects);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        if self.life.keeper.is_forked() {
            return;
        }
        let sent = self.sent.take();
        let (cancelled, effects) = self.entry.arbiter().cancel(ticket, sent.is_some(), self.life.now());
        self.life.carry_out(&self.entry, effects);
        match (cancelled, sent) {
            (Cancelled::Hold(hold), _) => drop(LockGuard::new(hold)),
            (Cancelled::Attempt, Some((claim, cell))) => self.life.settle(self.entry.clone(), claim, cell),
            (Cancelled::Attempt | Cancelled::Nothing, _) => {}
        }
    }
}

/// Counts and logs a hold that begins.
fn acquired(guard: &LockGuard, asked: Timestamp, now: Timestamp) {
    let held = guard.held();
    let (life, key) = (&held.life, held.entry.key.as_ref());
    life.counters.acquired_after(now.since(asked));
    let (name, token) = (life.defaults.name.as_ref(), guard.token().get());
    debug!(
        target: "leasehold", name = name, key = key, token = token, lease:% = held.cell.id();
        "{name}: lock {key:?} acquired (token {token})"
    );
}

/// Ends with the loss of the lease.
async fn lost(core: &Core, cell: &LeaseCell) -> Loss {
    let mut listener = Forgetful { cell, listener: Listener::default() };
    poll_fn(|cx| {
        cell.signal.listen(&mut listener.listener, cx.waker());
        cell.loss(core.now()).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

struct Forgetful<'a> {
    cell: &'a LeaseCell,
    listener: Listener,
}

impl Drop for Forgetful<'_> {
    fn drop(&mut self) {
        self.cell.signal.forget(&mut self.listener);
    }
}
