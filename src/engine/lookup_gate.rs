//! Limits the number of concurrent lookups of holders, and records the last answer.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Timestamp;

/// The number of concurrent lookups: enough for a hundred holders in the available time, too few to slow down the server or the
/// keeper.
const AT_A_TIME: usize = 8;

/// Admits lookups, which are for error texts only, to the server.
#[derive(Debug)]
pub(super) struct LookupGate {
    turns: Semaphore,
    /// As nanoseconds.
    answered: AtomicU64,
}

impl Default for LookupGate {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_A_TIME), answered: AtomicU64::new(0) }
    }
}

impl LookupGate {
    /// Waits for a permit. Never `None`: the semaphore is not closed.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Records that a lookup was answered.
    pub(super) fn answered(&self, now: Timestamp) {
        self.answered.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Whether a lookup was answered since then, so that the server is not silent.
    pub(super) fn was_answered_since(&self, then: Timestamp) -> bool {
        self.answered.load(Ordering::Relaxed) >= then.as_nanos()
    }
}
