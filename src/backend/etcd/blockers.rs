//! What was in the way of claims that do not wait.
//!
//! etcd reads a whole range to find out whether it is empty. Repeated tries of a lock with a thousand waiters would find the same
//! claim each time, so the transaction compares that one first, and etcd stops there.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::names::Directory;

/// For how many locks this is known at most.
const MOST: usize = 1024;

/// A claim in the way, by lock. It may have gone since: this is no answer to anything.
#[derive(Debug, Default)]
pub(super) struct Blockers(Mutex<HashMap<Directory, Vec<u8>>>);

impl Blockers {
    /// Returns the name of a claim that was in the way of the last one.
    pub(super) fn known(&self, directory: &Directory) -> Option<Vec<u8>> {
        self.0.lock().get(directory).cloned()
    }

    /// Notes what was in the way of a claim, if anything is known to have been.
    pub(super) fn note(&self, directory: &Directory, name: Option<Vec<u8>>) {
        let mut known = self.0.lock();
        let Some(name) = name else {
            known.remove(directory);
            return;
        };
        if known.len() >= MOST && !known.contains_key(directory) {
            known.clear();
        }
        known.insert(directory.clone(), name);
    }
}
