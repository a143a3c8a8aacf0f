//! [`ManualClock`]: a clock that tests can move.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::{Clock, SystemClock, Timestamp};

type Watcher = Box<dyn Fn() -> bool + Send + Sync>;

/// The system's clock plus an offset that can be increased, which simulates a suspended machine.
///
/// The clock continues to run between moves. Clones are the same clock.
///
/// ```
/// use leasehold::backend::Clock;
/// use leasehold::testing::ManualClock;
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert!(clock.now().since(before) >= Duration::from_secs(60));
/// ```
#[derive(Clone, Default)]
pub struct ManualClock(Arc<Inner>);

#[derive(Default)]
struct Inner {
    offset: AtomicU64,
    /// Called after each move. A watcher that returns false is removed.
    watchers: Mutex<Vec<Watcher>>,
}

impl ManualClock {
    /// Creates a clock without an offset.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock forward. In stores that use it and are not paused, leases whose TTL has passed end at once.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.offset.fetch_add(nanos, Ordering::SeqCst);
        self.0.watchers.lock().retain(|watcher| watcher());
    }

    pub(super) fn watch(&self, watcher: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.watchers.lock().push(Box::new(watcher));
    }

    fn offset(&self) -> Duration {
        Duration::from_nanos(self.0.offset.load(Ordering::SeqCst))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.offset()
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock").field("offset", &self.offset()).finish_non_exhaustive()
    }
}
