//! One attempt to acquire a lock: a state machine without I/O; time is an argument.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::answers::AcquireAnswer;
use super::check::Check;
use super::names::Name;
use super::place::{Look, Looked, Next, NextPoll, Place, Seen, Won, pause};
use super::sent::SentRequests;
use super::stage::{Outcome, Stage};
use super::value::ClaimText;
use crate::backend::{AttemptId, BackendError, Claim, LeaseId, Limit, Queueing, Timestamp, Wait};
use crate::info::Mode;

/// The TTL of a handover until it is confirmed; the scripts have the same.
pub(super) const HANDOVER_TTL: Duration = Duration::from_secs(2);

/// How long copies of a request may be in flight at least.
const COPIES: Duration = Duration::from_secs(60);

/// One attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) lease: LeaseId,
    pub(super) mode: Mode,
    /// Whether it is one of a limited number of holders.
    pub(super) is_limited: bool,
    pub(super) name: Arc<Name>,
    pub(super) claim: ClaimText,
    pub(super) ttl: Duration,
    /// Whether it queues.
    pub(super) wait: Wait,
    retry_interval: Duration,
    queueing: Queueing,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: SentRequests,
    stage: Stage,
    /// Of the grant.
    check: Check,
}

impl Attempt {
    pub(super) fn new(claim: &Claim, name: Arc<Name>, text: ClaimText, wait: Wait) -> Self {
        Self {
            id: claim.attempt,
            lease: claim.lease.id,
            mode: claim.mode,
            is_limited: claim.limit.is_some(),
            name,
            claim: text,
            ttl: claim.lease.ttl,
            wait,
            retry_interval: claim.retry_interval,
            queueing: claim.queueing.clone(),
            state: Mutex::new(State {
                requests: SentRequests::default(),
                stage: Stage::waiting(Place::default()),
                check: Check::default(),
            }),
        }
    }

    /// Whether to queue a request now: the attempt waits, and none is pending. Then it counts as pending.
    pub(super) fn begin_request(&self) -> bool {
        let State { requests, stage, .. } = &mut *self.state.lock();
        let Stage::Waiting { next_poll, .. } = stage else { return false };
        if requests.pending {
            return false;
        }
        requests.pending = true;
        *next_poll = None;
        true
    }

    /// A look is about to be sent, at the own place as well with `check`. `None` if the attempt does not wait, or a request is pending.
    pub(super) fn begin_look(&self, check: bool) -> Option<Look> {
        let State { requests, stage, .. } = &mut *self.state.lock();
        let Stage::Waiting { next_poll, place, .. } = stage else { return None };
        if requests.pending {
            return None;
        }
        *next_poll = None;
        Some(place.next_look(check))
    }

    /// A look that was sent at `sent` was answered.
    pub(super) fn looked(&self, seen: Option<&Seen>, sent: Timestamp, now: Instant) -> Looked {
        let State { requests, stage, .. } = &mut *self.state.lock();
        let Stage::Waiting { next_poll, place, .. } = stage else { return Looked::Nothing };
        if requests.pending {
            return Looked::Nothing;
        }
        // A slot that ends changes nothing that a look shows.
        if self.is_limited && (place.is_asked_for() || seen.is_some_and(|seen| seen.leads)) {
            return Looked::Ask;
        }
        let Some(epoch) = seen.and_then(|seen| seen.epoch_of_another(&self.claim)) else { return Looked::Ask };
        let is_new = place.is_held_by_another(epoch, sent);
        let at = place.next_poll(now);
        *next_poll = Some(at);
        if is_new { Looked::PollNew(at) } else { Looked::Poll(at) }
    }

    /// The handover to the present holder ends at this time. Returns when to poll, if that is earlier than planned.
    pub(super) fn handover_ends(&self, end: Instant) -> Option<Instant> {
        let Stage::Waiting { next_poll: Some(next), place, .. } = &mut self.state.lock().stage else { return None };
        place.handover_end = Some(end);
        let is_earlier = end < *next;
        *next = end.min(*next);
        is_earlier.then_some(end)
    }

    /// A look was not answered: to be repeated.
    pub(super) fn look_failed(&self, now: Instant) -> Instant {
        let at = now + pause(None, false, None);
        if let Stage::Waiting { next_poll: next_poll @ None, .. } = &mut self.state.lock().stage {
            *next_poll = Some(at);
        }
        at
    }

    /// Old places of this manager are lost.
    pub(super) fn forget_place(&self) {
        if let Stage::Waiting { place, .. } = &mut self.state.lock().stage {
            place.number = 0;
        }
    }

    /// The place to ask for, 0 for a new one; `None` if it does not queue.
    pub(super) fn wanted_place(&self) -> Option<u64> {
        let number = match &self.state.lock().stage {
            Stage::Waiting { place, .. } => place.number,
            _ => 0,
        };
        (self.wait == Wait::UntilGranted).then_some(number)
    }

    /// The request is about to be sent. False if it must not be, because the attempt no longer waits.
    pub(super) fn sending(&self, now: Timestamp) -> bool {
        let State { requests, stage, .. } = &mut *self.state.lock();
        if !matches!(stage, Stage::Waiting { .. }) {
            requests.pending = false;
            return false;
        }
        requests.sending(now);
        true
    }

    /// The server has refused the request for now: it will be sent again.
    pub(super) fn put_off(&self) {
        self.state.lock().requests.put_off();
    }

    /// The request that was sent at `sent` was answered.
    pub(super) fn answered(&self, answer: AcquireAnswer, sent: Timestamp, now: Instant) -> Next {
        let mut state = self.state.lock();
        state.requests.answered();
        let place = match &state.stage {
            Stage::Waiting { place, .. } | Stage::Granted { place, .. } => *place,
            Stage::Busy | Stage::Failed(_) | Stage::Held { .. } | Stage::Ended { .. } => return Next::Nothing,
        };
        let (copies, hint, hinted) = (state.requests.may_have_copies(), place.hint, place.hinted);
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
            AcquireAnswer::Queued { left, first, foreign, clock, place: number } => {
                self.queueing.note();
                let place = Place {
                    queued: place.queued.max(Some(sent)),
                    fence: place.fence.max(clock),
                    number,
                    hint: None,
                    hinted: false,
                    ..place
                };
                let won = match &state.stage {
                    Stage::Granted { won, .. } => Some(*won),
                    _ => hint.map(|epoch| self.handover(epoch, sent)),
                };
                if let Some(won) = won.filter(|won| place.is_new(won.epoch)) {
                    replace(state, Stage::Granted { won, place });
                    return Next::Nothing;
                }
                // It waits. If a message handed the lock over, that hold had ended before this request arrived.
                let waker = if let Stage::Waiting { waker, .. } = &mut state.stage { waker.take() } else { None };
                let pause =
                    if hinted { Duration::ZERO } else { pause(left, first, foreign.then_some(self.retry_interval)) };
                let (at, asks) = (now + pause, foreign || hinted || self.is_limited && first);
                state.stage = Stage::Waiting { place, next_poll: Some(at), asks, waker };
                Next::Poll { at, tracks: foreign && first }
            }
        }
    }

    /// The request that was sent will never be answered.
    pub(super) fn unanswered(&self) {
        self.state.lock().requests.unanswered();
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
        let mut state = self.state.lock();
        let State { requests, stage, .. } = &mut *state;
        let Stage::Waiting { place, .. } = stage else { return false };
        let was_announced = std::mem::replace(&mut place.announced, true);
        // An attempt that was still queued when a request was sent cannot have been granted before. The message itself may be of any
        // age.
        match place.queued {
            // The answer to the first request tells which epochs are later.
            None if !was_announced => {
                place.hint = Some(epoch);
                false
            }
            Some(dated) if !was_announced && place.is_new(epoch) => {
                let (won, place) = (self.handover(epoch, dated), *place);
                replace(state, Stage::Granted { won, place });
                false
            }
            _ => {
                place.hinted |= requests.pending;
                true
            }
        }
    }

    /// The grant of a handover by message.
    fn handover(&self, epoch: u64, dated: Timestamp) -> Won {
        Won { epoch, dated, ttl: self.ttl.min(HANDOVER_TTL) }
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
    pub(super) fn hold(&self, won: Won, limit: Option<Limit>) -> bool {
        let stage = &mut self.state.lock().stage;
        let is_granted = matches!(stage, Stage::Granted { .. });
        if is_granted {
            let doubted = Timestamp::from_nanos(0);
            *stage = Stage::Held { epoch: won.epoch, limit, proven: won.dated, doubted };
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
        let copies = state.requests.copies();
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

    /// Whether to start a check of the grant, which has this epoch. A check that is running already will be repeated.
    pub(super) fn begin_check(&self) -> Option<u64> {
        let State { stage, check, .. } = &mut *self.state.lock();
        let epoch = stage.epoch()?;
        check.begin().then_some(epoch)
    }

    /// A check has ended. Returns the epoch of the grant to check again, if another message came meanwhile.
    pub(super) fn end_check(&self) -> Option<u64> {
        let State { stage, check, .. } = &mut *self.state.lock();
        let epoch = stage.epoch();
        if check.end(epoch.is_some()) { epoch } else { None }
    }

    /// Whether the lock is granted with this epoch, returned or not.
    pub(super) fn is_granted(&self, epoch: u64) -> bool {
        self.state.lock().stage.epoch() == Some(epoch)
    }

    /// Messages may have been lost, which others have heard: those that follow are only hints, since the id is no secret any more.
    pub(super) fn miss_messages(&self) {
        let State { requests, stage, .. } = &mut *self.state.lock();
        if let Stage::Waiting { place, .. } | Stage::Granted { place, .. } = stage {
            place.announced = true;
            place.hinted |= requests.pending;
        }
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

    /// The server has confirmed the hold, by a request that began at `proven`. Returns whether the hold has no limit of its own now.
    pub(super) fn confirmed(&self, proven: Timestamp) -> bool {
        let Stage::Held { limit: Some(limit), proven: known, doubted, .. } = &mut self.state.lock().stage else {
            return true;
        };
        *known = proven.max(*known);
        let is_enough = *known >= *doubted;
        if is_enough {
            limit.lift();
        } else {
            limit.prolong(*known, self.ttl);
        }
        is_enough
    }

    /// A renewal of its lease, which began at `renewed`, has not confirmed the hold: from now on it has a limit of its own, if it can have
    /// one. False if it had one.
    pub(super) fn unconfirmed(&self, renewed: Timestamp) -> bool {
        match &mut self.state.lock().stage {
            Stage::Held { limit: Some(limit), proven, doubted, .. } => {
                *doubted = renewed.max(*doubted);
                limit.set(*proven, self.ttl)
            }
            _ => false,
        }
    }

    /// Whether it waits or holds the lock.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Waiting { .. } | Stage::Held { .. })
    }

    /// When to poll the server, and whether to ask then.
    pub(super) fn next_poll(&self) -> NextPoll {
        match self.state.lock().stage {
            Stage::Waiting { next_poll: Some(at), asks, .. } => NextPoll::At { at, asks },
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
