//! One attempt to get a lock: what was sent for it, what is known of it. No I/O; time is an argument.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::names::Name;
use super::scripts::AcquireAnswer;
use crate::backend::{AttemptId, BackendError, Claim, LeaseId, Limit, Timestamp};
use crate::info::Mode;

/// The most that a hold lives that was handed over, until it is confirmed; the scripts have it too.
const CLAIM_TTL: Duration = Duration::from_secs(2);

/// How long copies of a request may be under way at least.
const COPIES: Duration = Duration::from_secs(60);

/// How often a waiter asks for its place.
const REFRESH: Duration = Duration::from_secs(1);

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) lease: LeaseId,
    pub(super) mode: Mode,
    pub(super) name: Arc<Name>,
    /// The value of the lock's key while this holds it.
    pub(super) token: String,
    pub(super) ttl: Duration,
    /// Whether it queues.
    pub(super) wait: bool,
    retry_interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// Requests on their way to be sent, or sent and not answered.
    asking: bool,
    outstanding: u32,
    /// Whether the answer to a request will never come, so that a copy of it may still take effect.
    unanswered: bool,
    /// When the first request was sent.
    first: Option<Timestamp>,
    /// When the last request was sent that was answered "in the queue".
    queued: Option<Timestamp>,
    /// The newest epoch that such an answer has told of: grants up to there are none of ours.
    fence: u64,
    /// When to look by itself.
    look: Option<Instant>,
    /// Its release was asked for while it held the lock, and has not been answered.
    releasing: bool,
    /// Whether its hold is being checked, and whether it is to be checked once more: something was said meanwhile.
    checking: bool,
    check_again: bool,
    /// Whether a release has found something to release, or one that was sent will not be answered and so may have.
    released: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
enum Stage {
    Waiting,
    Granted(Won),
    Busy,
    Failed(BackendError),
    /// The grant was returned.
    Held {
        epoch: u64,
        limit: Option<Limit>,
    },
    /// Given up: nothing may be sent for it any more.
    Over,
}

/// A grant, and how long it is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Won {
    pub(super) epoch: u64,
    /// From when its time counts.
    pub(super) dated: Timestamp,
    /// Its time on the server.
    pub(super) ttl: Duration,
}

impl Attempt {
    pub(super) fn new(claim: &Claim, name: Arc<Name>, token: String, wait: bool) -> Self {
        Self {
            id: claim.attempt,
            lease: claim.lease.id,
            mode: claim.mode,
            name,
            token,
            ttl: claim.lease.ttl,
            wait,
            retry_interval: claim.retry_interval,
            state: Mutex::new(State {
                stage: Stage::Waiting,
                asking: false,
                outstanding: 0,
                unanswered: false,
                first: None,
                queued: None,
                fence: 0,
                look: None,
                releasing: false,
                checking: false,
                check_again: false,
                released: false,
                waker: None,
            }),
        }
    }

    /// Whether a request should be put on its way now: there is none yet, and it is of use.
    pub(super) fn ask(&self) -> bool {
        let mut state = self.state.lock();
        let wanted = matches!(state.stage, Stage::Waiting) && !state.asking;
        state.asking |= wanted;
        state.look = if wanted { None } else { state.look };
        wanted
    }

    /// The request is about to be sent. False if it must not be: nobody wants it any more.
    pub(super) fn sending(&self, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Waiting) {
            state.asking = false;
            return false;
        }
        state.outstanding += 1;
        state.first.get_or_insert(now);
        true
    }

    /// The server has refused the request for now: it is to be sent again.
    pub(super) fn put_off(&self) {
        let mut state = self.state.lock();
        state.outstanding = state.outstanding.saturating_sub(1);
    }

    /// The answer to the request that was sent at `sent`.
    pub(super) fn answered(&self, answer: AcquireAnswer, sent: Timestamp, now: Instant) -> Next {
        let mut state = self.state.lock();
        state.outstanding = state.outstanding.saturating_sub(1);
        state.asking = false;
        let stage = match answer {
            AcquireAnswer::Granted(epoch) => Stage::Granted(Won { epoch, dated: sent, ttl: self.ttl }),
            AcquireAnswer::Busy => Stage::Busy,
            AcquireAnswer::Queued { left, first, foreign, fence } => {
                state.queued = state.queued.max(Some(sent));
                state.fence = state.fence.max(fence);
                // Handed over and gone again before this request got there.
                if let Stage::Granted(won) = &state.stage
                    && won.epoch <= fence
                {
                    state.stage = Stage::Waiting;
                }
                if !matches!(state.stage, Stage::Waiting) {
                    return Next::Nothing;
                }
                let look = now + self.pause(left, first, foreign);
                state.look = Some(look);
                return Next::Poll(look);
            }
            AcquireAnswer::Failed(error) => Stage::Failed(error),
        };
        if !matches!(state.stage, Stage::Waiting | Stage::Granted(_)) {
            return Next::Nothing;
        }
        let next = match stage {
            Stage::Busy => Next::Ended { copies: state.unanswered || state.outstanding > 0 },
            _ => Next::Nothing,
        };
        state.stage = stage;
        wake(state);
        next
    }

    /// How long to wait before the next look: every second, to keep the place; who is first looks when the holder's time may be
    /// over, and at short intervals where the holder will not tell.
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
        // Down only: a place in the queue does not live much longer.
        pause.mul_f64(rand::random_range(0.8..1.0))
    }

    /// The request that was sent will not be answered.
    pub(super) fn unanswered(&self) {
        let mut state = self.state.lock();
        state.outstanding = state.outstanding.saturating_sub(1);
        state.asking = false;
        state.unanswered = true;
    }

    /// A request is refused for good, or cannot be sent.
    pub(super) fn refused(&self, error: BackendError) {
        let mut state = self.state.lock();
        state.asking = false;
        if matches!(state.stage, Stage::Waiting) {
            state.stage = Stage::Failed(error);
            wake(state);
        }
    }

    /// The server told that it was handed over to this attempt. True if that has to be verified first.
    pub(super) fn handed(&self, epoch: u64) -> bool {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Waiting) {
            return false;
        }
        match state.queued.or(state.first) {
            // Whoever was still in the queue after a request was sent cannot have been granted before. The message itself may
            // be of any age.
            Some(dated) if epoch > state.fence => {
                state.stage = Stage::Granted(Won { epoch, dated, ttl: self.ttl.min(CLAIM_TTL) });
                wake(state);
                false
            }
            _ => true,
        }
    }

    /// Waits for what becomes of it. A grant of which less than half is left is not returned: ask again.
    pub(super) fn poll(&self, cx: &mut Context<'_>, now: Timestamp) -> Poll<Outcome> {
        let mut state = self.state.lock();
        match &state.stage {
            Stage::Waiting => {
                if !state.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    state.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Stage::Granted(won) if now.since(won.dated) > won.ttl / 2 => {
                state.stage = Stage::Waiting;
                state.waker = Some(cx.waker().clone());
                Poll::Ready(Outcome::Verify)
            }
            Stage::Granted(won) => Poll::Ready(Outcome::Granted(*won)),
            Stage::Busy => Poll::Ready(Outcome::Busy),
            Stage::Failed(error) => Poll::Ready(Outcome::Failed(error.clone())),
            Stage::Held { .. } | Stage::Over => Poll::Ready(Outcome::Gone),
        }
    }

    /// The grant is returned.
    pub(super) fn hold(&self, epoch: u64, limit: Option<Limit>) -> bool {
        let mut state = self.state.lock();
        let granted = matches!(state.stage, Stage::Granted(_));
        if granted {
            state.stage = Stage::Held { epoch, limit };
        }
        granted
    }

    /// For how long copies of its requests may still come.
    pub(super) fn copies_come_for(&self) -> Duration {
        self.ttl.max(COPIES)
    }

    /// Ends it: no request is sent for it from now on. Returns `None` if none ever was, else whether copies of one may still come.
    pub(super) fn give_up(&self) -> Option<bool> {
        let mut state = self.state.lock();
        state.releasing |= matches!(state.stage, Stage::Held { .. });
        state.stage = Stage::Over;
        state.first.map(|_| state.unanswered || state.outstanding > 0)
    }

    /// A release was answered.
    pub(super) fn released(&self, found: bool) {
        let mut state = self.state.lock();
        state.releasing = false;
        state.released |= found;
    }

    /// The release that was sent will not be answered: it may have released.
    pub(super) fn release_unanswered(&self) {
        self.state.lock().released = true;
    }

    /// Whether one of its releases has, or may have, released what it held. Else that was lost before.
    pub(super) fn was_released(&self) -> bool {
        self.state.lock().released
    }

    /// Whether the release of what it held has not been answered.
    pub(super) fn is_releasing(&self) -> bool {
        self.state.lock().releasing
    }

    /// Whether it has been granted nothing.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Waiting)
    }

    /// Begins to check whether it still holds, unless that is under way: then it is checked once more.
    pub(super) fn begin_check(&self) -> bool {
        let mut state = self.state.lock();
        let begins = !std::mem::replace(&mut state.checking, true);
        state.check_again = !begins;
        begins
    }

    /// A check is done. Whether there is to be another one.
    pub(super) fn end_check(&self) -> bool {
        let mut state = self.state.lock();
        state.checking = std::mem::take(&mut state.check_again);
        state.checking
    }

    /// The epoch, if it holds the lock.
    pub(super) fn held(&self) -> Option<u64> {
        match &self.state.lock().stage {
            Stage::Held { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    /// The limit of a hold that was not confirmed.
    pub(super) fn limit(&self) -> Option<Limit> {
        match &self.state.lock().stage {
            Stage::Held { limit, .. } => limit.clone(),
            _ => None,
        }
    }

    /// When to look by itself.
    pub(super) fn look(&self) -> NextPoll {
        let state = self.state.lock();
        match (&state.stage, state.look) {
            (Stage::Waiting, Some(look)) => NextPoll::At(look),
            (Stage::Waiting, None) => NextPoll::Asking,
            _ => NextPoll::Never,
        }
    }
}

/// What an answer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// It waits in the queue, and is to look at this time.
    Poll(Instant),
    /// It has nothing and waits for nothing, unless copies of its request still come.
    Ended {
        copies: bool,
    },
}

/// When a waiter is to look by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextPoll {
    At(Instant),
    /// A request is on its way.
    Asking,
    /// It does not wait any more.
    Never,
}

/// Wakes who waits, after letting go of the mutex: a waker runs others' code.
fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Granted(Won),
    /// It was granted, or is no more: only the server knows.
    Verify,
    Busy,
    Failed(BackendError),
    Gone,
}
