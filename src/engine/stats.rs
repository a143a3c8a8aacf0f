//! Counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a manager has done and has, see [`LockManager::stats`](crate::LockManager::stats). Counts are since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Stats {
    /// Keys that are held now.
    pub held: u64,
    /// Acquires that wait now.
    pub waiting: u64,
    /// Keys in use now: held, waited for, or with a [`Lock`](crate::Lock) handle.
    pub keys: u64,
    /// Holds acquired, reentrant ones not counted.
    pub acquired: u64,
    /// Grants given back to the server.
    pub released: u64,
    /// Acquires that ran into their timeout.
    pub timeouts: u64,
    /// Grants lost.
    pub lost: u64,
    /// Leases renewed.
    pub renewals: u64,
    /// Renewals that failed; each is tried again until the deadline.
    pub failed_renewals: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) acquired: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) renewals: AtomicU64,
    pub(crate) failed_renewals: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl super::Core {
    pub(crate) fn stats(&self) -> Stats {
        let now = self.now();
        let entries = self.entries_in_use();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Stats {
            held: entries.iter().filter(|entry| entry.arbiter().is_held(now)).count() as u64,
            waiting: entries.iter().map(|entry| entry.arbiter().waiting() as u64).sum(),
            keys: entries.len() as u64,
            acquired: read(&counters.acquired),
            released: read(&counters.released),
            timeouts: read(&counters.timeouts),
            lost: read(&counters.lost),
            renewals: read(&counters.renewals),
            failed_renewals: read(&counters.failed_renewals),
        }
    }
}
