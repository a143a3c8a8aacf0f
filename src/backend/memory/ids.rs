//! Maps by numbers that nobody can choose.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::backend::AttemptId;

/// A map by an id of our own making.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// Multiplies: ids are counters or random, never an attacker's, so the default hasher's defence would be paid for nothing.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        let product = u128::from(self.0 ^ id) * 0x9E37_79B9_7F4A_7C15;
        // The map takes its bucket from the low bits and its tag from the high ones: both must depend on all of the id.
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// The attempts of a lease that were settled, the last ones at least.
///
/// A call within a process cannot come late, so a few would do; but a session may live for months, and each cancelled lock()
/// leaves an entry, so there has to be a bound.
#[derive(Debug, Default)]
pub(super) struct Settled {
    recent: IdSet<AttemptId>,
    older: IdSet<AttemptId>,
}

impl Settled {
    const GENERATION: usize = 4096;

    pub(super) fn contains(&self, attempt: AttemptId) -> bool {
        // The usual case, and the compiler does not see that hashing can be skipped.
        if self.recent.is_empty() && self.older.is_empty() {
            return false;
        }
        self.recent.contains(&attempt) || self.older.contains(&attempt)
    }

    pub(super) fn insert(&mut self, attempt: AttemptId) {
        if self.recent.len() >= Self::GENERATION {
            std::mem::swap(&mut self.recent, &mut self.older);
            self.recent.clear();
        }
        self.recent.insert(attempt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_attempts_are_remembered_within_bounds() {
        let mut settled = Settled::default();
        for id in 0..100_000 {
            settled.insert(AttemptId(id));
            assert!(settled.contains(AttemptId(id)));
            assert!(settled.contains(AttemptId(id.saturating_sub(Settled::GENERATION as u64 - 1))));
        }
        assert!(settled.recent.len() + settled.older.len() <= 2 * Settled::GENERATION);
    }
}
