//! [`Releasing`]: the state of a grant's release, for the caller that waits for it.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::cleanup::Unconfirmed;
use super::drop_wait::Awaited;
use crate::clock::Timestamp;
use crate::error::{LockError, Result};
use crate::process::foreign;

/// The release of one grant.
#[derive(Debug, Default)]
pub(super) struct Releasing(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    NotBegun,
    Going(Going),
    Done(Result<(), Box<LockError>>),
}

/// What a release in flight keeps until its end.
#[derive(Debug)]
pub(super) struct Going {
    unconfirmed: Unconfirmed,
    /// The hold's deadline at the call.
    deadline: Timestamp,
    /// Its place among the releases in flight, if it has one.
    slot: Option<usize>,
    /// Whether it is being repeated by a task.
    is_repeated: bool,
    waker: Option<Waker>,
    awaited: Option<Awaited>,
}

impl Releasing {
    pub(super) fn begin(&self, unconfirmed: Unconfirmed, deadline: Timestamp) {
        let going = Going { unconfirmed, deadline, slot: None, is_repeated: false, waker: None, awaited: None };
        *self.0.lock() = State::Going(going);
    }

    /// The hold's deadline at the call; `None` if the release has ended.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match &*self.0.lock() {
            State::Going(going) => Some(going.deadline),
            State::NotBegun | State::Done(_) => None,
        }
    }

    /// It has a place among the releases in flight. False if it has ended already.
    pub(super) fn set_slot(&self, slot: usize) -> bool {
        match &mut *self.0.lock() {
            State::Going(going) => {
                going.slot = Some(slot);
                true
            }
            State::NotBegun | State::Done(_) => false,
        }
    }

    /// Whether to repeat it by a task: not if there is one, or if it has ended.
    pub(super) fn repeat(&self) -> bool {
        match &mut *self.0.lock() {
            State::Going(going) => !std::mem::replace(&mut going.is_repeated, true),
            State::NotBegun | State::Done(_) => false,
        }
    }

    /// A thread waits for its end. Returns the value if it has ended already.
    pub(super) fn set_awaited(&self, awaited: Awaited) -> Option<Awaited> {
        match &mut *self.0.lock() {
            State::Going(going) => {
                going.awaited = Some(awaited);
                None
            }
            State::NotBegun | State::Done(_) => Some(awaited),
        }
    }

    /// Ends it with this outcome, unless it has ended. `count` is called before anybody sees the outcome.
    pub(super) fn end(&self, outcome: Result<()>, count: impl FnOnce()) -> Option<Going> {
        let mut state = self.0.lock();
        if !matches!(*state, State::Going(_)) {
            return None;
        }
        count();
        match std::mem::replace(&mut *state, State::Done(outcome.map_err(Box::new))) {
            State::Going(going) => Some(going),
            State::NotBegun | State::Done(_) => None,
        }
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<()>> {
        let before = match &mut *self.0.lock() {
            State::Done(outcome) => return Poll::Ready(outcome.clone().map_err(|error| *error)),
            State::Going(going) if going.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) => None,
            State::Going(going) => going.waker.replace(foreign::cloned(cx.waker())),
            State::NotBegun => None,
        };
        // Dropped after unlocking: a waker runs foreign code.
        foreign::drop_all(before);
        Poll::Pending
    }
}

impl Going {
    pub(super) fn slot(&self) -> Option<usize> {
        self.slot
    }

    /// Wakes the caller. Returns what a thread waits for.
    pub(super) fn notify(self) -> Option<Awaited> {
        drop(self.unconfirmed);
        if let Some(waker) = self.waker {
            foreign::wake(waker);
        }
        self.awaited
    }
}
