//! The clock of leases in a directory.

use rustix::time::{ClockId, clock_gettime};

use crate::clock::{Clock, Timestamp};

/// `CLOCK_MONOTONIC`, which does not run while the machine is suspended: the waiters sleep with the holder, so no time passes for
/// either.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AwakeClock;

impl Clock for AwakeClock {
    fn now(&self) -> Timestamp {
        let time = clock_gettime(ClockId::Monotonic);
        Timestamp::from_nanos(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
    }
}
