//! [`Stats`]: the counters of a manager.

#[cfg(feature = "metrics")]
mod gauge;
mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "metrics")]
use self::gauge::Gauge;
pub use self::histogram::Histogram;
use self::histogram::Recorder;
use crate::info::Loss;
#[cfg(feature = "metrics")]
use crate::process::facade;
#[cfg(feature = "metrics")]
use crate::process::report::{self, Foreign};

/// The counters of a manager, see [`LockManager::stats`](crate::LockManager::stats). `held`, `waiting` and `keys` are current
/// values; the others count since the manager was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// The number of keys held now.
    pub held: u64,
    /// The number of acquires that wait now.
    pub waiting: u64,
    /// The number of keys in use now: held, waited for, or with a [`Lock`](crate::Lock) handle.
    pub keys: u64,
    /// Holds acquired, without reentrant ones.
    pub acquired: u64,
    /// Releases that the server has confirmed.
    pub released: u64,
    /// Acquires that reached their timeout.
    pub timeouts: u64,
    /// Grants lost, for any cause.
    pub lost: u64,
    /// Grants lost, by cause.
    pub losses: Losses,
    /// Renewals of leases that succeeded.
    pub renewals: u64,
    /// Renewals of leases that failed. A failed renewal is retried until the lease's deadline.
    pub failed_renewals: u64,
    /// The times from the first poll of an acquire to its hold, of acquires that succeeded.
    pub wait_times: Histogram,
    /// The times from the beginning of a hold to the drop of its last guard, whether it was lost or not.
    pub hold_times: Histogram,
}

/// The number of grants lost, by [`Loss`]. [`Closed`](Loss::Closed) is not counted: closing a manager is intended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Losses {
    /// The server removed the lease or the claim.
    pub revoked: u64,
    /// The lease was not renewed in time and may have ended.
    pub expired: u64,
    /// The server could not be reached in time, and the lease may have ended.
    pub unreachable: u64,
    /// The hold reached its `max_hold`.
    pub max_hold: u64,
}

/// The live counters. With the feature `metrics`, each event is also reported to the facade.
#[derive(Debug)]
pub(crate) struct Counters {
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "the label of each metric"))]
    name: Arc<str>,
    acquired: AtomicU64,
    released: AtomicU64,
    timeouts: AtomicU64,
    renewals: AtomicU64,
    failed_renewals: AtomicU64,
    revoked: AtomicU64,
    expired: AtomicU64,
    unreachable: AtomicU64,
    max_hold: AtomicU64,
    wait_times: Recorder,
    hold_times: Recorder,
    #[cfg(feature = "metrics")]
    held: Arc<Gauge>,
    #[cfg(feature = "metrics")]
    waiting: Arc<Gauge>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Adds one to a counter of the facade.
macro_rules! emit_count {
    ($self:ident, $metric:literal $(, $label:literal => $value:expr)*) => {
        #[cfg(feature = "metrics")]
        {
            let name = $self.name.clone();
            report::run(Foreign::Recorder, move || metrics::counter!($metric, "name" => name $(, $label => $value)*).increment(1));
        }
    };
}

/// Adds a time to a histogram of the facade.
macro_rules! emit_time {
    ($self:ident, $metric:literal, $time:expr) => {
        #[cfg(feature = "metrics")]
        {
            let (name, time) = ($self.name.clone(), $time);
            report::run(Foreign::Recorder, move || metrics::histogram!($metric, "name" => name).record(time));
        }
    };
}

impl Counters {
    pub(super) fn new(name: Arc<str>) -> Self {
        #[cfg(feature = "metrics")]
        facade::describe();
        Self {
            #[cfg(feature = "metrics")]
            held: Gauge::new("leasehold_held", name.clone()),
            #[cfg(feature = "metrics")]
            waiting: Gauge::new("leasehold_waiting", name.clone()),
            name,
            acquired: AtomicU64::new(0),
            released: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            failed_renewals: AtomicU64::new(0),
            revoked: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            max_hold: AtomicU64::new(0),
            wait_times: Recorder::default(),
            hold_times: Recorder::default(),
        }
    }

    pub(crate) fn acquired_after(&self, wait: Duration) {
        count(&self.acquired);
        self.wait_times.record(wait);
        emit_count!(self, "leasehold_acquired_total");
        emit_time!(self, "leasehold_wait_seconds", wait);
        #[cfg(feature = "metrics")]
        self.held.increment();
    }

    pub(crate) fn held_for(&self, time: Duration) {
        self.hold_times.record(time);
        emit_time!(self, "leasehold_hold_seconds", time);
        #[cfg(feature = "metrics")]
        self.held.decrement();
    }

    /// An acquire waits from now on.
    pub(super) fn wait_begun(&self) {
        #[cfg(feature = "metrics")]
        self.waiting.increment();
    }

    /// It waits no longer.
    pub(super) fn wait_ended(&self) {
        #[cfg(feature = "metrics")]
        self.waiting.decrement();
    }

    pub(super) fn released(&self) {
        count(&self.released);
        emit_count!(self, "leasehold_released_total");
    }

    pub(crate) fn timed_out(&self) {
        count(&self.timeouts);
        emit_count!(self, "leasehold_timeouts_total");
    }

    pub(super) fn renewed(&self) {
        count(&self.renewals);
        emit_count!(self, "leasehold_renewals_total");
    }

    pub(super) fn renewal_failed(&self) {
        count(&self.failed_renewals);
        emit_count!(self, "leasehold_failed_renewals_total");
    }

    pub(super) fn lost(&self, cause: Loss) {
        let (counter, _cause) = match cause {
            Loss::Revoked => (&self.revoked, "revoked"),
            Loss::Expired => (&self.expired, "expired"),
            Loss::Unreachable => (&self.unreachable, "unreachable"),
            Loss::MaxHold => (&self.max_hold, "max_hold"),
            Loss::Closed => return,
        };
        count(counter);
        emit_count!(self, "leasehold_lost_total", "cause" => _cause);
    }

    /// Returns the counts, without the number of keys in use.
    pub(super) fn read(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let losses = Losses {
            revoked: read(&self.revoked),
            expired: read(&self.expired),
            unreachable: read(&self.unreachable),
            max_hold: read(&self.max_hold),
        };
        Stats {
            acquired: read(&self.acquired),
            released: read(&self.released),
            timeouts: read(&self.timeouts),
            lost: losses.revoked + losses.expired + losses.unreachable + losses.max_hold,
            losses,
            renewals: read(&self.renewals),
            failed_renewals: read(&self.failed_renewals),
            wait_times: self.wait_times.read(),
            hold_times: self.hold_times.read(),
            ..Stats::default()
        }
    }
}
