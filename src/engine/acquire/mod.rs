//! Acquiring one key: local queue, lease, backend. Cancellable at every point.

mod after_error;
mod attempt;
mod waiter;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use self::attempt::{Answer, Attempt};
use self::waiter::{Acquired, Begun, Waiter, count_acquired};
use super::sessions::LeaseFor;
use super::{EngineHandle, Entry, RequestOptions, Share};
use crate::arbiter::Decision;
use crate::backend::Wait;
use crate::engine::spans::WaitSpan;
use crate::error::{LockError, Result};
use crate::lease::LeaseCell;
use crate::process::foreign::{self, CatchingWaker};
use crate::process::wakers;

/// One acquire. What is entered, busy or granted at the first poll, and one claim without a time limit, need no future but the
/// backend's; the rest is [`Waiter::run`].
pub(crate) struct Acquisition {
    engine: Arc<EngineHandle>,
    state: State,
    catching: CatchingWaker,
    span: WaitSpan,
    /// Whether it is counted as waiting.
    waits: bool,
}

enum State {
    Start(Start),
    /// The attempt is dropped before the waiter, which aborts it.
    Claiming(Attempt, Waiter),
    Waiting(BoxFuture<'static, Acquired>),
    Done,
}

/// What is known before the first poll.
struct Start {
    entry: Result<Arc<Entry>>,
    options: RequestOptions,
    wait: Wait,
}

impl Acquisition {
    pub(crate) fn new(
        engine: Arc<EngineHandle>,
        entry: Result<Arc<Entry>>,
        options: RequestOptions,
        wait: Wait,
    ) -> Self {
        let (state, catching) = (State::Start(Start { entry, options, wait }), CatchingWaker::default());
        Self { engine, state, catching, span: WaitSpan::NONE, waits: false }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Acquired> {
        if let State::Start(..) = self.state
            && let State::Start(start) = std::mem::replace(&mut self.state, State::Done)
        {
            match start.poll(&self.engine, cx, &mut self.catching, &mut self.span) {
                Ok(Started::Done(share)) => return Poll::Ready(Ok(share)),
                Ok(Started::Claiming(attempt, waiter)) => {
                    self.state = State::Claiming(attempt, waiter);
                    return Poll::Pending;
                }
                Ok(Started::Waiting(waiting)) => self.state = State::Waiting(waiting),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let base = &self.engine.base;
        let _within = match base.keeper.enter() {
            Ok(within) => within,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let State::Claiming(attempt, _) = &mut self.state {
            let Poll::Ready(answer) = self.catching.poll(cx, |cx| attempt.poll(cx, base)) else { return Poll::Pending };
            if let State::Claiming(attempt, waiter) = std::mem::replace(&mut self.state, State::Done) {
                let cell = attempt.cell().clone();
                drop(attempt);
                match answered(waiter, cell, answer) {
                    Ok(share) => return Poll::Ready(Ok(share)),
                    Err(waiting) => self.state = State::Waiting(waiting),
                }
            }
        }
        let State::Waiting(waiting) = &mut self.state else { return Poll::Pending };
        let polled = self.catching.poll(cx, |cx| waiting.as_mut().poll(cx));
        if polled.is_ready() {
            self.state = State::Done;
        }
        polled
    }

    /// Counts the wait, and ends its span.
    fn observe(&mut self, polled: &Poll<Acquired>) {
        let is_pending = polled.is_pending();
        if std::mem::replace(&mut self.waits, is_pending) != is_pending {
            let counters = &self.engine.base.counters;
            if is_pending { counters.wait_begun() } else { counters.wait_ended() }
        }
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(Some(share))) => {
                let hold = share.hold();
                self.span.acquired(&hold.span, hold.held.grant.mode, hold.token);
            }
            Poll::Ready(Ok(None)) => self.span.ended("busy"),
            Poll::Ready(Err(error)) => self.span.ended(error.code()),
        }
    }
}

impl Future for Acquisition {
    type Output = Acquired;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Acquired> {
        let this = self.get_mut();
        let polled = wakers::cooperate(cx, |cx| this.advance(cx));
        this.observe(&polled);
        polled
    }
}

impl Drop for Acquisition {
    fn drop(&mut self) {
        if self.engine.base.is_forked() {
            // The parent's wait is not ended here: in a forked child a mutex that it needs may stay locked for ever.
            std::mem::forget(std::mem::replace(&mut self.state, State::Done));
            self.span.forget();
        } else if self.waits {
            self.engine.base.counters.wait_ended();
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "a claim that is answered soon needs no box")]
enum Started {
    Done(Option<Share>),
    Claiming(Attempt, Waiter),
    Waiting(BoxFuture<'static, Acquired>),
}

impl Start {
    /// Derives the owner, asks the arbiter, and claims if the arbiter says so.
    fn poll(
        self,
        engine: &Arc<EngineHandle>,
        cx: &mut Context<'_>,
        catching: &mut CatchingWaker,
        span: &mut WaitSpan,
    ) -> Result<Started> {
        let Self { entry, options, wait } = self;
        let entry = entry?;
        let base = &engine.base;
        base.check_open(Some(&entry.key), "lock")?;
        *span = WaitSpan::begin(&base.defaults.name, &entry.key, options.terms.mode);
        let now = base.now();
        let (owner, decision, effects, nudge) = {
            let caller = options.caller(&base.defaults, cx);
            let mut arbiter = entry.arbiter();
            let owner = caller.for_key(|owner| arbiter.enters(owner, &options.terms, now));
            let (decision, effects) = arbiter
                .request(&owner, &options.terms, wait == Wait::UntilGranted, now, || foreign::cloned(cx.waker()));
            let nudge = matches!(decision, Decision::Queued(_)) && arbiter.wants_nudge();
            (owner, decision, effects, nudge)
        };
        entry.apply(effects);
        if nudge {
            entry.watch();
        }
        let (ticket, claims) = match decision {
            Decision::Entered(hold, depth) => {
                let share = Share::new(hold, entry);
                if depth == 1 {
                    count_acquired(&share, now, now);
                }
                return Ok(Started::Done(Some(share)));
            }
            Decision::Refused(reason) => return Err(LockError::AlreadyHeld { key: entry.key.to_string(), reason }),
            Decision::Busy => return Ok(Started::Done(None)),
            Decision::Claim(ticket) => (ticket, true),
            Decision::Queued(ticket) => (ticket, false),
        };
        entry.queued();
        let mut waiter = Waiter::new(engine.clone(), entry, owner, options, wait, now, ticket);
        if !claims {
            return Ok(Started::Waiting(Box::pin(waiter.run(Begun::Nothing))));
        }
        let cell = match engine.sessions.lease_for(waiter.terms(), now) {
            LeaseFor::Ready(Ok(cell)) => cell,
            lease => return Ok(Started::Waiting(Box::pin(waiter.run(Begun::Lease(lease))))),
        };
        let claim = waiter.claim(&cell);
        if let Some(answer) = base.backend.acquire_now(&claim, wait) {
            if let Ok(Some(grant)) = answer {
                return match waiter.granted_at(now, grant, cell.clone()) {
                    Some(share) => Ok(Started::Done(Some(share))),
                    None => {
                        waiter.sent(claim, cell);
                        waiter.abort();
                        Ok(Started::Waiting(Box::pin(waiter.run(Begun::Nothing))))
                    }
                };
            }
            waiter.sent(claim, cell.clone());
            return Ok(answered(waiter, cell, answer).map_or_else(Started::Waiting, Started::Done));
        }
        let mut attempt = waiter.send(claim, cell);
        let polled = {
            let _within = base.keeper.enter()?;
            catching.poll(cx, |cx| attempt.poll(cx, base))
        };
        Ok(match polled {
            Poll::Ready(answer) => {
                let cell = attempt.cell().clone();
                answered(waiter, cell, answer).map_or_else(Started::Waiting, Started::Done)
            }
            Poll::Pending if waiter.limit().is_none() => Started::Claiming(attempt, waiter),
            Poll::Pending => Started::Waiting(Box::pin(waiter.run(Begun::Attempt(attempt)))),
        })
    }
}

/// The claim was answered. Returns the share, or what remains to be done.
fn answered(
    mut waiter: Waiter,
    cell: Arc<LeaseCell>,
    answer: Answer,
) -> std::result::Result<Option<Share>, BoxFuture<'static, Acquired>> {
    match answer {
        Ok(Some(grant)) if waiter.is_fresh(&grant, &cell) => match waiter.granted(grant, cell) {
            Some(share) => Ok(Some(share)),
            None => {
                waiter.abort();
                Err(Box::pin(waiter.run(Begun::Nothing)))
            }
        },
        Ok(None) => {
            waiter.was_busy();
            Ok(None)
        }
        answer => Err(Box::pin(waiter.run(Begun::Answered(cell, answer)))),
    }
}
