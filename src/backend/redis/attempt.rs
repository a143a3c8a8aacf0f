//! One attempt to acquire a lock: a state machine without I/O; time is an argument.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::answers::AcquireAnswer;
use super::names::Name;
use crate::backend::{AttemptId, BackendError, Claim, LeaseId, Limit, Timestamp, Wait};
use crate::info::Mode;

/// The TTL of a handover until it is confirmed; the scripts have the same.
const HANDOVER_TTL: Duration = Duration::from_secs(2);

/// How long copies of a request may be in flight at least.
const COPIES: Duration = Duration::from_secs(60);

/// How often a waiter refreshes its place in the queue.
const REFRESH: Duration = Duration::from_secs(1);

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) lease: LeaseId,
    pub(super) mode: Mode,
    pub(super) name: Arc<Name>,
    /// The value of the lock's key while this attempt holds it.
    pub(super) value: String,
    pub(super) ttl: Duration,
    /// Whether it queues.
    pub(super) wait: Wait,
    retry_interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: Requests,
    stage: Stage,
}

/// The acquire requests of the attempt.
#[derive(Debug, Default)]
struct Requests {
    /// Whether one is queued or in flight.
    pending: bool,
    in_flight: u32,
    /// Whether one was sent that will never be answered, so that a copy of it may still take effect.
    unanswered: bool,
    /// When the first one was sent.
    first_sent: Option<Timestamp>,
}

impl Requests {
    fn landed(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Whether copies may still reach the server.
    fn may_have_copies(&self) -> bool {
        self.unanswered || self.in_flight > 0
    }
}

#[derive(Debug)]
enum Stage {
    Waiting {
        place: Place,
        /// When to poll the server; `None` while a request is pending.
        next_poll: Option<Instant>,
        waker: Option<Waker>,
    },
    /// Granted, but not returned yet.
    Granted {
        won: Won,
        place: Place,
    },
    Busy,
    Failed(BackendError),
    /// The grant was returned.
    Held {
        epoch: u64,
        limit: Option<Limit>,
        check: Check,
    },
    /// Given up: no acquire is sent for it from now on.
    Ended {
        /// Whether it held the lock, and its release has not been answered.
        releasing: bool,
        /// Whether a release has found the hold, or one that will never be answered may have found it.
        released: bool,
    },
}

impl Stage {
    fn waiting(place: Place) -> Self {
        Self::Waiting { place, next_poll: None, waker: None }
    }
}

/// What the attempt knows from answers "queued".
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// When the last request was sent that was answered so.
    queued: Option<Timestamp>,
    /// The last epoch that such an answer contained: grants up to this one are not this attempt's.
    fence: u64,
}

/// Whether a hold is being checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Idle,
    Running,
    /// Another message came meanwhile: to be repeated.
    Repeat,
}

/// A grant, and how long it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) epoch: u64,
    /// The time from which its TTL counts.
    pub(super) dated: Timestamp,
    /// Its TTL on the server.
    pub(super) ttl: Duration,
}

impl Attempt {
    pub(super) fn new(claim: &Claim, name: Arc<Name>, value: String, wait: Wait) -> Self {
        Self {
            id: claim.attempt,
            lease: claim.lease.id,
            mode: claim.mode,
            name,
            value,
            ttl: claim.lease.ttl,
            wait,
            retry_interval: claim.retry_interval,
            state: Mutex::new(State { requests: Requests::default(), stage: Stage::waiting(Place::default()) }),
        }
    }

    /// Whether to queue a request now: the attempt waits, and none is pending. Then it counts as pending.
    pub(super) fn begin_request(&self) -> bool {
        let State { requests, stage } = &mut *self.state.lock();
        let Stage::Waiting { next_poll, .. } = stage else { return false };
        if requests.pending {
            return false;
        }
        requests.pending = true;
        *next_poll = None;
        true
    }

    /// The request is about to be sent. False if it must not be, because the attempt no longer waits.
    pub(super) fn sending(&self, now: Timestamp) -> bool {
        let State { requests, stage } = &mut *self.state.lock();
        if !matches!(stage, Stage::Waiting { .. }) {
            requests.pending = false;
            return false;
        }
        requests.in_flight += 1;
        requests.first_sent.get_or_insert(now);
        true
    }

    /// The server has refused the request for now: it will be sent again.
    pub(super) fn put_off(&self) {
        self.state.lock().requests.landed();
    }

    /// The request that was sent at `sent` was answered.
    pub(super) fn answered(&self, answer: AcquireAnswer, sent: Timestamp, now: Instant) -> Next {
        let mut state = self.state.lock();
        state.requests.landed();
        state.requests.pending = false;
        let place = match &state.stage {
            Stage::Waiting { place, .. } | Stage::Granted { place, .. } => *place,
            Stage::Busy | Stage::Failed(_) | Stage::Held { .. } | Stage::Ended { .. } => return Next::Nothing,
        };
        let copies = state.requests.may_have_copies();
        match answer {
            AcquireAnswer::Granted(epoch) => {
                replace(state, Stage::Granted { won: Won { epoch, dated: sent, ttl: self.ttl }, place });
                Next::Nothing
            }
            AcquireAnswer::Busy => {
                replace(state, Stage::Busy);
                Next::Ended { copies }
            }
            AcquireAnswer::Failed(error) => {
                replace(state, Stage::Failed(error));
                Next::Nothing
            }
            AcquireAnswer::Queued { left, first, foreign, fence } => {
                let place = Place { queued: place.queued.max(Some(sent)), fence: place.fence.max(fence) };
                if let Stage::Granted { won, .. } = state.stage
                    && won.epoch > place.fence
                {
                    state.stage = Stage::Granted { won, place };
                    return Next::Nothing;
                }
                // It waits. If a message handed the lock over, that hold had ended before this request arrived.
                let waker = if let Stage::Waiting { waker, .. } = &mut state.stage { waker.take() } else { None };
                let at = now + self.pause(left, first, foreign);
                state.stage = Stage::Waiting { place, next_poll: Some(at), waker };
                Next::Poll(at)
            }
        }
    }

    /// The time until the next poll: a second, to refresh the place; less for the first in the queue, which polls when the hold may
    /// end, and at short intervals if the holder sends no messages.
    fn pause(&self, left: Option<Duration>, first: bool, foreign: bool) -> Duration {
        let mut pause = REFRESH;
        if first {
            if foreign {
                pause = pause.min(self.retry_interval);
            }
            if let Some(left) = left {
                pause = pause.min(left + Duration::from_millis(2));
            }
        }
        // Jitter only shortens it: a place that is not refreshed expires soon after a second.
        pause.mul_f64(rand::random_range(0.8..1.0))
    }

    /// The request that was sent will never be answered.
    pub(super) fn unanswered(&self) {
        let requests = &mut self.state.lock().requests;
        requests.landed();
        requests.pending = false;
        requests.unanswered = true;
    }

    /// A request is refused for good, or cannot be sent.
    pub(super) fn refused(&self, error: BackendError) {
        let mut state = self.state.lock();
        state.requests.pending = false;
        if matches!(state.stage, Stage::Waiting { .. }) {
            replace(state, Stage::Failed(error));
        }
    }

    /// A message says that the lock was handed over to this attempt. True if the server has to be asked first.
    pub(super) fn handed_over(&self, epoch: u64) -> bool {
        let state = self.state.lock();
        let Stage::Waiting { place, .. } = state.stage else { return false };
        match place.queued.or(state.requests.first_sent) {
            // An attempt that was still queued when a request was sent cannot have been granted before. The message itself may be of
            // any age.
            Some(dated) if epoch > place.fence => {
                let won = Won { epoch, dated, ttl: self.ttl.min(HANDOVER_TTL) };
                replace(state, Stage::Granted { won, place });
                false
            }
            _ => true,
        }
    }

    /// Waits for the outcome. A grant of which less than half is left is not returned, but to be verified.
    pub(super) fn poll(&self, cx: &mut Context<'_>, now: Timestamp) -> Poll<Outcome> {
        let mut state = self.state.lock();
        match &mut state.stage {
            Stage::Waiting { waker, .. } => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    let before = waker.replace(cx.waker().clone());
                    // Dropped after unlocking: a waker runs foreign code.
                    drop(state);
                    drop(before);
                }
                Poll::Pending
            }
            Stage::Granted { won, place } if now.since(won.dated) > won.ttl / 2 => {
                state.stage = Stage::waiting(*place);
                Poll::Ready(Outcome::Verify)
            }
            Stage::Granted { won, .. } => Poll::Ready(Outcome::Granted(*won)),
            Stage::Busy => Poll::Ready(Outcome::Busy),
            Stage::Failed(error) => Poll::Ready(Outcome::Failed(error.clone())),
            Stage::Held { .. } | Stage::Ended { .. } => Poll::Ready(Outcome::GivenUp),
        }
    }

    /// The grant is returned. False if it was given up meanwhile.
    pub(super) fn hold(&self, epoch: u64, limit: Option<Limit>) -> bool {
        let stage = &mut self.state.lock().stage;
        let is_granted = matches!(stage, Stage::Granted { .. });
        if is_granted {
            *stage = Stage::Held { epoch, limit, check: Check::Idle };
        }
        is_granted
    }

    /// How long copies of its requests may still reach the server.
    pub(super) fn copies_live_for(&self) -> Duration {
        self.ttl.max(COPIES)
    }

    /// Ends the attempt: no acquire is sent for it from now on. Returns `None` if none ever was, else whether copies of one may still
    /// reach the server.
    pub(super) fn give_up(&self) -> Option<bool> {
        let mut state = self.state.lock();
        let copies = state.requests.first_sent.map(|_| state.requests.may_have_copies());
        if !matches!(state.stage, Stage::Ended { .. }) {
            let ended = Stage::Ended { releasing: matches!(state.stage, Stage::Held { .. }), released: false };
            let before = std::mem::replace(&mut state.stage, ended);
            // Dropped after unlocking: a waker runs foreign code.
            drop(state);
            drop(before);
        }
        copies
    }

    /// A release was answered: whether it `found` the hold.
    pub(super) fn release_answered(&self, found: bool) {
        if let Stage::Ended { releasing, released } = &mut self.state.lock().stage {
            *releasing = false;
            *released |= found;
        }
    }

    /// A release was sent that will never be answered: it may have found the hold.
    pub(super) fn release_unanswered(&self) {
        if let Stage::Ended { released, .. } = &mut self.state.lock().stage {
            *released = true;
        }
    }

    /// Whether one of its releases has, or may have, found the hold. Otherwise the hold was lost before.
    pub(super) fn was_released(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Ended { released: true, .. })
    }

    /// Whether the release of its hold has not been answered.
    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Ended { releasing: true, .. })
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Waiting { .. })
    }

    /// Whether to start a check of the hold. A check that is running already will be repeated.
    pub(super) fn begin_check(&self) -> bool {
        let Stage::Held { check, .. } = &mut self.state.lock().stage else { return false };
        let begins = *check == Check::Idle;
        *check = if begins { Check::Running } else { Check::Repeat };
        begins
    }

    /// A check of the hold has ended. Whether to repeat it.
    pub(super) fn end_check(&self) -> bool {
        let Stage::Held { check, .. } = &mut self.state.lock().stage else { return false };
        let repeats = *check == Check::Repeat;
        *check = if repeats { Check::Running } else { Check::Idle };
        repeats
    }

    /// The epoch, if the attempt holds the lock.
    pub(super) fn held(&self) -> Option<u64> {
        match &self.state.lock().stage {
            Stage::Held { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    /// The limit of a hold that was not confirmed when it was granted.
    pub(super) fn limit(&self) -> Option<Limit> {
        match &self.state.lock().stage {
            Stage::Held { limit, .. } => limit.clone(),
            _ => None,
        }
    }

    /// When to poll the server.
    pub(super) fn next_poll(&self) -> NextPoll {
        match self.state.lock().stage {
            Stage::Waiting { next_poll: Some(at), .. } => NextPoll::At(at),
            Stage::Waiting { next_poll: None, .. } => NextPoll::Pending,
            _ => NextPoll::Never,
        }
    }
}

/// Sets the stage, and wakes the waiter after unlocking.
fn replace(mut state: MutexGuard<'_, State>, stage: Stage) {
    let before = std::mem::replace(&mut state.stage, stage);
    drop(state);
    if let Stage::Waiting { waker: Some(waker), .. } = before {
        waker.wake();
    }
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// The attempt is queued, and polls at this time.
    Poll(Instant),
    /// The attempt has no hold and no place, unless `copies` of its requests still take effect.
    Ended {
        copies: bool,
    },
}

/// When a waiter polls the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextPoll {
    At(Instant),
    /// A request is pending.
    Pending,
    /// The attempt no longer waits.
    Never,
}

/// The outcome of an attempt.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Granted(Won),
    /// The grant may have ended: the server has to be asked.
    Verify,
    Busy,
    Failed(BackendError),
    GivenUp,
}
