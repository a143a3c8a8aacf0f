//! The requests to the arbiter, and its answers.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::info::Mode;
use crate::owner::Owner;

/// What a request must have in common with a grant to take it over, or to join it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) mode: Mode,
    /// Of a semaphore; shared then.
    pub(crate) limit: Option<u32>,
    pub(crate) value: Option<Arc<str>>,
    pub(crate) ttl: Duration,
    pub(crate) isolated: bool,
    pub(crate) auto_renew: bool,
    pub(crate) max_hold: Option<Duration>,
}

impl Terms {
    /// Whether a hold on these terms excludes one on the others, however many there are.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        self.mode == Mode::Exclusive || other.mode == Mode::Exclusive || self.limit.is_some() != other.limit.is_some()
    }

    /// Whether a hold on these terms needs a separate lease.
    pub(crate) fn wants_own_lease(&self) -> bool {
        self.isolated || !self.auto_renew || self.max_hold.is_some()
    }
}

/// A waiter's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(super) i64);

/// How long, and how often, a grant stays within the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    pub(crate) time: Duration,
    pub(crate) times: u16,
}

/// A backend's grant, as the arbiter sees it.
pub(crate) trait Granted {
    /// One owner's possession.
    type Hold: Clone;
    /// Makes the `handovers`-th hold of this grant at `now`.
    fn hold(&self, id: HoldId, owner: &Owner, handovers: u16, now: Timestamp) -> Self::Hold;
    /// Sets the number of shares of a hold: under the caller's mutex, so that the last value is the right one.
    fn set_depth(_hold: &Self::Hold, _depth: u32) {}
    /// Whether the grant is not lost.
    fn is_alive(&self, now: Timestamp) -> bool;
    /// Whether its deadline is far enough away for a new hold.
    fn is_fresh(&self, now: Timestamp) -> bool;
}

/// The arbiter's name for a hold; later ones have greater numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HoldId(pub(super) u64);

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Decision<H> {
    /// A share of a hold, at this depth.
    Entered(H, u32),
    /// The owner would wait for itself.
    Refused(&'static str),
    /// Not free now; only for requests that do not wait.
    Busy,
    /// Wait for a wake-up, then ask [`Arbiter::turn`].
    Queued(Ticket),
    /// Claim at the backend.
    Claim(Ticket),
}

/// What a waiter has to do.
#[derive(Debug)]
pub(crate) enum Turn<H> {
    Wait,
    Claim,
    Entered(H, u32),
    Refused(&'static str),
    /// Not free; only for requests that do not wait.
    Busy,
}

/// What a cancelled waiter leaves to clean up.
#[derive(Debug)]
pub(crate) enum Cancelled<H> {
    Nothing,
    /// Its attempt may be at the backend: abort it, then call [`Arbiter::aborted`].
    Attempt,
    /// It had received a share that it did not fetch: leave that share.
    Hold(H),
}

/// Which holds and waits have lasted for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlowReport {
    pub(crate) held: bool,
    pub(crate) waited: bool,
    /// Whether a waiter may be waiting for itself.
    pub(crate) own: bool,
}

/// What the caller does once it has unlocked the mutex: first the release, then the wake-ups.
#[derive(Debug)]
pub(crate) struct Effects<G, W> {
    pub(crate) release: Option<G>,
    pub(crate) wake: Vec<W>,
    /// A waiter depends on a handover that may never happen: have a [`nudge`](Arbiter::nudge) ready.
    pub(crate) watch: bool,
}

impl<G, W> Default for Effects<G, W> {
    fn default() -> Self {
        Self { release: None, wake: Vec::new(), watch: false }
    }
}
