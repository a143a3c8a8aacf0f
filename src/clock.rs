//! [`Timestamp`] and [`Clock`]: time that includes suspend.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::process::platform;

/// A point in time on a monotonic clock that also runs while the machine is suspended.
///
/// Deadlines of leases are timestamps. `std::time::Instant` does not include suspend on Linux and macOS: after a night of suspend, a lease
/// that ended hours ago would appear valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Creates a timestamp from nanoseconds since an arbitrary start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the clock's arbitrary start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time since `earlier`, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// What is allowed for between two clocks: 1% of drift, and 5 ms for everything else.
fn margin(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(5)
}

/// How much of a TTL is certain, counted from when it was asked for.
pub(crate) fn certain(ttl: Duration) -> Duration {
    ttl.saturating_sub(margin(ttl))
}

/// A source of [`Timestamp`]s, which tests replace.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The system's clock. It includes suspend on Linux, Android, macOS, iOS and Windows; elsewhere it is the platform's monotonic clock,
/// which may not.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(platform::clock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_saturates() {
        let clock = SystemClock;
        let first = clock.now();
        assert!(clock.now() >= first);
        assert_eq!(first.since(first + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((first + Duration::from_secs(1)).since(first), Duration::from_secs(1));
        assert_eq!(Timestamp::from_nanos(5) - Duration::from_secs(1), Timestamp::from_nanos(0));
    }
}
