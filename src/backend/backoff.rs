//! Delays before trying again.

use std::time::Duration;

/// Delays that double from one try to the next, each ± 25 %, so that callers that failed together do not retry together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    shortest: Duration,
    longest: Duration,
}

impl Backoff {
    /// From 0.1 s to 5 s, for work that is not urgent, or whose delay can be ended early.
    pub(crate) fn slow() -> Self {
        let shortest = Duration::from_millis(100);
        Self { next: shortest, shortest, longest: Duration::from_secs(5) }
    }

    /// From 0.1 s to `longest`.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { longest, ..Self::slow() }
    }

    /// From 0.1 s to 1 s, so that no caller is much later than the end of an outage.
    #[cfg(feature = "etcd")]
    pub(crate) fn new() -> Self {
        Self::up_to(Duration::from_secs(1))
    }

    /// None at first, then from 20 ms to 1 s.
    pub(crate) fn at_once() -> Self {
        Self { next: Duration::ZERO, shortest: Duration::from_millis(20), longest: Duration::from_secs(1) }
    }

    /// Returns the next delay.
    pub(crate) fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).clamp(self.shortest, self.longest);
        jittered(delay)
    }

    /// Waits for the next delay.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.delay()).await;
    }
}

/// Returns `about` ± 25 %.
pub(crate) fn jittered(about: Duration) -> Duration {
    about.mul_f64(rand::random_range(0.75..1.25))
}
