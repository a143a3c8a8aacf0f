//! A time limit of one grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Timestamp, certain};

/// How long a grant is certain by itself, whatever its lease says, until the backend has confirmed it.
///
/// A lock that was handed over by a message, for example, is not to be trusted for longer than the hand-over is valid, though the
/// lease may be good for another minute. leasehold takes the grant for lost from this time on, unless the limit has been
/// [lifted](Self::lift) before; the backend also says [`ClaimLost`](super::Event::ClaimLost) then.
#[derive(Clone, Debug)]
pub struct Limit {
    /// As nanoseconds, the greatest number if there is none any more.
    until: Arc<AtomicU64>,
    ttl: Duration,
}

impl Limit {
    /// Limits a grant that was proven at `proven` to the certain part of `ttl`.
    pub fn new(proven: Timestamp, ttl: Duration) -> Self {
        let until = proven + certain(ttl);
        Self { until: Arc::new(AtomicU64::new(until.as_nanos())), ttl }
    }

    /// The grant was confirmed: from now on, its lease alone counts.
    pub fn lift(&self) {
        self.until.store(u64::MAX, Ordering::Release);
    }

    /// The first moment at which the grant is not certain.
    pub fn until(&self) -> Timestamp {
        Timestamp::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// Whether more than half of the time is left.
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        self.until().since(now) > self.ttl / 2
    }
}
