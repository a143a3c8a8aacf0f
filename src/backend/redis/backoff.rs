//! Delays before trying again.

use std::time::Duration;

/// None at first, then doubling up to a second, with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff(Duration);

impl Backoff {
    /// The next delay.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(rand::random_range(0.75..1.25));
        self.0 = (self.0 * 2).clamp(Duration::from_millis(20), Duration::from_secs(1));
        pause
    }

    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}
