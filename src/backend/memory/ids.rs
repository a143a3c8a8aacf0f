//! Maps by ids that a user cannot choose, and the set of aborted attempts.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::backend::AttemptId;

/// A map by an id that this library generates.
pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

/// Multiplies: ids are counters or random and never chosen by an attacker, so the default hasher's protection is not needed.
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
        // The map uses the low bits for the bucket and the high ones for the tag: both must depend on the whole id.
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

/// The attempts of a lease that were aborted: the last 4,096 at least.
///
/// A call within a process cannot arrive late, so a few would be enough. There has to be a bound, since a session may live for
/// months, and each cancelled `lock()` adds an entry.
#[derive(Debug, Default)]
pub(super) struct Aborted {
    recent: IdSet<AttemptId>,
    older: IdSet<AttemptId>,
}

impl Aborted {
    const GENERATION: usize = 4096;

    pub(super) fn contains(&self, attempt: AttemptId) -> bool {
        // The usual case. The compiler does not find out that hashing can be skipped.
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
    fn aborted_attempts_are_remembered_within_bounds() {
        let mut aborted = Aborted::default();
        for id in 0..100_000 {
            aborted.insert(AttemptId(id));
            assert!(aborted.contains(AttemptId(id)));
            assert!(aborted.contains(AttemptId(id.saturating_sub(Aborted::GENERATION as u64 - 1))));
        }
        assert!(aborted.recent.len() + aborted.older.len() <= 2 * Aborted::GENERATION);
    }
}
