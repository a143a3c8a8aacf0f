//! How many lookups of holders go on at a time, and when the last one was answered.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Timestamp;

/// How many: enough to find out a hundred holders in the time that there is, too few to hold up the server or the keeper.
const AT_A_TIME: usize = 8;

/// The way to the server for lookups, which are for error texts only.
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
    /// Waits for a turn. `None` never comes: the gate is not closed.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// A lookup was answered.
    pub(super) fn answered(&self, now: Timestamp) {
        self.answered.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Whether one was answered since then, so that the server is not silent.
    pub(super) fn was_answered_since(&self, then: Timestamp) -> bool {
        self.answered.load(Ordering::Relaxed) >= then.as_nanos()
    }
}
