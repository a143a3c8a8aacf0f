//! [`Histogram`]: a distribution of durations.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BUCKETS: usize = 32;

/// A distribution of durations, in buckets whose upper bounds double: 1 µs, 2 µs, 4 µs and so on. The last bucket counts durations
/// of 18 minutes or more.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// drop(manager.lock("k").await?);
/// let waits = manager.stats().wait_times;
/// println!("{} acquires, {:?} on average, 99 % within {:?}", waits.count(), waits.mean(), waits.quantile(0.99));
/// assert!(waits.mean() <= waits.quantile(1.0));
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Histogram {
    counts: [u64; BUCKETS],
    total: Duration,
}

impl Histogram {
    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of the durations.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Returns the average duration; zero if the histogram is empty.
    pub fn mean(&self) -> Duration {
        let nanos = self.total.as_nanos().checked_div(u128::from(self.count())).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns an upper bound of a quantile, 0.99 for the 99th percentile: at most twice the exact value. Zero if the histogram is
    /// empty, [`Duration::MAX`] if the exact value is 18 minutes or more.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0);
        let mut counted = 0;
        let below = |(bound, count)| {
            counted += count;
            (counted as f64 >= wanted).then_some(bound)
        };
        self.buckets().find_map(below).unwrap_or_default()
    }

    /// Returns the upper bound of each bucket, and the number of durations below it that are not below the previous bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bound = |bucket| if bucket + 1 < BUCKETS { Duration::from_micros(1_u64 << bucket) } else { Duration::MAX };
        self.counts.into_iter().enumerate().map(move |(bucket, count)| (bound(bucket), count))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("mean", &self.mean())
            .field("median", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish()
    }
}

/// A histogram that is being filled.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    counts: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Recorder {
    pub(super) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - (nanos / 1000).leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Histogram {
        Histogram {
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed)),
            total: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[Duration]) -> Histogram {
        let recorder = Recorder::default();
        times.iter().for_each(|time| recorder.record(*time));
        recorder.read()
    }

    #[test]
    fn each_time_is_below_its_bound_and_no_less_than_the_one_before() {
        let hour = Duration::from_secs(3600);
        for nanos in [0, 1, 999, 1000, 1001, 1999, 2000, 3999, 4000, 65_535_999, 65_536_000, 1_073_741_823_999] {
            let time = Duration::from_nanos(nanos);
            let found = of(&[time]).buckets().position(|(_, count)| count == 1).unwrap();
            let bounds: Vec<_> = Histogram::default().buckets().map(|(bound, _)| bound).collect();
            assert!(time < bounds[found] && (found == 0 || time >= bounds[found - 1]), "{time:?} in {found}");
        }
        assert_eq!(of(&[hour]).buckets().last(), Some((Duration::MAX, 1)));
        assert_eq!(of(&[Duration::MAX]).count(), 1);
    }

    #[test]
    fn means_and_quantiles() {
        let micros = |micros| Duration::from_micros(micros);
        let times = of(&[micros(1), micros(3), micros(3), micros(100)]);
        assert_eq!((times.count(), times.total(), times.mean()), (4, micros(107), Duration::from_nanos(26_750)));
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|share| times.quantile(share)), [2, 2, 4, 4, 128].map(micros));
        let none = Histogram::default();
        assert_eq!((none.count(), none.mean(), none.quantile(0.5)), (0, Duration::ZERO, Duration::ZERO));
    }
}
