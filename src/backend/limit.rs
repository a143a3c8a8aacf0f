//! [`Limit`]: the time limit of one grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Timestamp, certain};

/// The time limit of an unconfirmed grant, independent of its lease.
///
/// A lock handed over by a message, for example, is valid only until the handover expires, even if its lease lasts longer. The
/// grant is considered lost from this time on, unless the limit was [lifted](Self::lift) before; the backend then also reports
/// [`ClaimLost`](super::Event::ClaimLost).
///
/// ```
/// # use std::time::Duration;
/// use leasehold::backend::{Clock, Limit, SystemClock};
///
/// let proven = SystemClock.now();
/// let limit = Limit::new(proven, Duration::from_secs(2));
/// assert!(limit.until() < proven + Duration::from_secs(2)); // less a margin for the clocks
/// limit.lift(); // the server has confirmed the grant
/// assert!(limit.until() > proven + Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct Limit {
    /// In nanoseconds; the maximum if the limit was lifted.
    until: Arc<AtomicU64>,
    ttl: Duration,
}

impl Limit {
    /// Limits a grant that was proven at `proven` to `ttl`, less 1 % and 5 ms for differences between clocks.
    pub fn new(proven: Timestamp, ttl: Duration) -> Self {
        Self { until: Arc::new(AtomicU64::new(end(proven, ttl))), ttl }
    }

    /// Lifts the limit, because the grant was confirmed: from now on only its lease applies.
    pub fn lift(&self) {
        self.until.store(u64::MAX, Ordering::Release);
    }

    /// A limit that is lifted until it is [set](Self::set).
    #[cfg(feature = "redis")]
    pub(crate) fn lifted(ttl: Duration) -> Self {
        Self { until: Arc::new(AtomicU64::new(u64::MAX)), ttl }
    }

    /// Limits the grant, which was last proven at `proven`, to `ttl`. False if it is limited already.
    #[cfg(feature = "redis")]
    pub(crate) fn set(&self, proven: Timestamp, ttl: Duration) -> bool {
        self.until.compare_exchange(u64::MAX, end(proven, ttl), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Prolongs the limit of a grant that was proven at `proven`, to `ttl`.
    #[cfg(feature = "redis")]
    pub(crate) fn prolong(&self, proven: Timestamp, ttl: Duration) {
        self.until.store(end(proven, ttl), Ordering::Release);
    }

    /// The first time at which the grant is no longer certain.
    pub fn until(&self) -> Timestamp {
        Timestamp::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// Whether it has not been lifted.
    pub(crate) fn is_set(&self) -> bool {
        self.until.load(Ordering::Acquire) != u64::MAX
    }

    /// Whether more than half of the time remains.
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        self.until().since(now) > self.ttl / 2
    }
}

/// In nanoseconds.
fn end(proven: Timestamp, ttl: Duration) -> u64 {
    (proven + certain(ttl)).as_nanos()
}
