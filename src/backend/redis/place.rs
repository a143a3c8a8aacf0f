//! What a waiting attempt knows of its place in the queue, what it learns by looks, and when it polls.

use std::time::Duration;

use tokio::time::Instant;

use super::value::{self, ClaimText, LockValue};
use crate::backend::Timestamp;

/// How often a waiter looks at its lock.
const LOOK: Duration = Duration::from_secs(1);

/// Each how many looks one is at the own place as well.
const PLACE: u32 = 5;

/// Each how many looks the queue is prolonged, which lives for 60 s.
const PROLONG: u32 = 20;

/// How far an epoch may be ahead of the others that an attempt knows, in microseconds. A greater one is only a hint.
const DAY: u64 = 24 * 60 * 60 * 1_000_000;

/// What the attempt knows from answers "queued" and from looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// When the last request or look was sent that found the lock with another.
    pub(super) queued: Option<Timestamp>,
    /// The last epoch that such an answer contained: grants up to this one are not this attempt's.
    pub(super) fence: u64,
    /// The place in the queue, which is the server's time in microseconds when it was taken; 0 if it is not known or lost.
    pub(super) number: u64,
    /// How often it has looked.
    pub(super) looks: u32,
    /// When the handover to the present holder ends, if it was not confirmed when it was seen.
    pub(super) handover_end: Option<Instant>,
    /// The epoch of a message that came before the first answer.
    pub(super) hint: Option<u64>,
    /// Whether a message was received, or may have been lost: another one is only a hint, since the id is no secret any more.
    pub(super) announced: bool,
    /// Whether that was so while a request was pending, whose answer may be older.
    pub(super) hinted: bool,
}

impl Place {
    /// Counts a look. Returns what to look at, with `check` the own place in any case.
    pub(super) fn next_look(&mut self, check: bool) -> Look {
        self.looks += 1;
        Look { place: check || self.looks.is_multiple_of(PLACE), prolong: self.looks.is_multiple_of(PROLONG) }
    }

    /// Whether the last look was one of those after which a waiter for a slot asks, also if others precede it: they may be dead.
    pub(super) fn is_asked_for(&self) -> bool {
        self.looks.is_multiple_of(PLACE)
    }

    /// A look that was sent at `sent` shows that another one holds the lock, since this epoch: what was given before is over, and a
    /// message about it may still be on its way. Returns whether this holder is new.
    pub(super) fn is_held_by_another(&mut self, epoch: u64, sent: Timestamp) -> bool {
        let is_new = epoch > self.fence;
        if is_new {
            self.handover_end = None;
        }
        self.queued = self.queued.max(Some(sent));
        self.fence = self.fence.max(epoch);
        is_new
    }

    /// When to poll after a look that found the lock with another.
    pub(super) fn next_poll(&self, now: Instant) -> Instant {
        let look = now + pause(None, false, None);
        self.handover_end.filter(|end| *end > now).map_or(look, |end| end.min(look))
    }

    /// Whether a grant of this epoch is later than all that is known, and not absurdly so.
    pub(super) fn is_new(&self, epoch: u64) -> bool {
        epoch > self.fence && epoch < self.fence.max(self.number).saturating_add(DAY)
    }
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

/// What to look at, apart from the lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The own place in the queue.
    pub(super) place: bool,
    /// Whether to prolong the queue.
    pub(super) prolong: bool,
}

/// What a look shows of a lock that is held.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The value of the lock's key.
    pub(super) value: Vec<u8>,
    /// Whether the attempt is in the queue, if that was looked at.
    pub(super) place: Option<bool>,
    /// Whether the attempt is among those who share the lock.
    pub(super) shares: bool,
    /// Whether the attempt is the first in the queue, if it waits for a slot.
    pub(super) leads: bool,
}

impl Seen {
    /// The epoch since which another one holds the lock; `None` if it may be this claim's, or its place is lost.
    pub(super) fn epoch_of_another(&self, claim: &ClaimText) -> Option<u64> {
        if self.place == Some(false) {
            return None;
        }
        match value::read(&self.value) {
            LockValue::Ours { epoch, .. } if !claim.is_in(&self.value) => epoch,
            LockValue::Shared(epoch) if !self.shares => Some(epoch),
            _ => None,
        }
    }
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// The lock may be free, or this attempt's; or its place is lost.
    Ask,
    /// Another one holds it: to be polled again at this time.
    Poll(Instant),
    /// The same, and it was not known before: if it is dead, its handover ends earlier.
    PollNew(Instant),
    /// The attempt does not wait, or asks already.
    Nothing,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// The attempt is queued, and polls at this time.
    Poll {
        at: Instant,
        /// Whether it is the next one after another client, which sends no messages.
        tracks: bool,
    },
    /// The attempt has no hold and no place, unless `copies` of its requests still take effect.
    Ended {
        copies: bool,
    },
}

/// When a waiter polls the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextPoll {
    At {
        at: Instant,
        /// Whether to ask, and not to look only.
        asks: bool,
    },
    /// A request or a look is pending.
    Pending,
    /// The attempt no longer waits.
    Never,
}

/// The time until the next poll: a second; less for the first in the queue, which polls when the hold may end (`left`), and at short
/// intervals if the holder sends no messages.
pub(super) fn pause(left: Option<Duration>, first: bool, silent: Option<Duration>) -> Duration {
    let sooner = [silent, left.map(|left| left + Duration::from_millis(2))];
    let pause = sooner.into_iter().flatten().filter(|_| first).fold(LOOK, Duration::min);
    // Jitter only shortens it: the first in a queue polls when a hold ends.
    pause.mul_f64(rand::random_range(0.8..1.0))
}
