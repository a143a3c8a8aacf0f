//! [`Limit`]: the time limit of one grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Timestamp, certain};

/// The time limit of an unconfirmed grant, independent of its lease.
///
/// A lock that was handed over by a message, for example, is valid only as long as the handover is, although the lease may be valid
/// for another minute. The grant is considered lost from this time on, unless the limit was [lifted](Self::lift) before; the
/// backend then also reports [`ClaimLost`](super::Event::ClaimLost).
#[derive(Clone, Debug)]
pub struct Limit {
    /// In nanoseconds; the maximum if the limit was lifted.
    until: Arc<AtomicU64>,
    ttl: Duration,
}

impl Limit {
    /// Limits a grant that was proven at `proven` to the certain part of `ttl`.
    pub fn new(proven: Timestamp, ttl: Duration) -> Self {
        let until = proven + certain(ttl);
        Self { until: Arc::new(AtomicU64::new(until.as_nanos())), ttl }
    }

    /// Lifts the limit, because the grant was confirmed: from now on only its lease applies.
    pub fn lift(&self) {
        self.until.store(u64::MAX, Ordering::Release);
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
