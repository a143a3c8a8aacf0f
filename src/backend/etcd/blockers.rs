//! Claims that blocked attempts which do not wait.
//!
//! etcd reads a whole range to find out whether it is empty. Repeated attempts at a lock with a thousand waiters would find the same
//! claim each time, so the transaction compares that one first, and etcd stops there.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::names::Directory;

/// The maximum number of locks for which a blocker is stored.
const MAX_LOCKS: usize = 1024;

/// A claim that blocked the last attempt, by lock. It may no longer exist: this only saves work, and decides nothing.
#[derive(Debug, Default)]
pub(super) struct Blockers(Mutex<HashMap<Directory, Vec<u8>>>);

impl Blockers {
    /// Returns the name of a claim that blocked the last attempt.
    pub(super) fn known(&self, directory: &Directory) -> Option<Vec<u8>> {
        self.0.lock().get(directory).cloned()
    }

    /// Stores the claim that blocked an attempt, or none.
    pub(super) fn note(&self, directory: &Directory, name: Option<Vec<u8>>) {
        let mut known = self.0.lock();
        let Some(name) = name else {
            known.remove(directory);
            return;
        };
        if known.len() >= MAX_LOCKS && !known.contains_key(directory) {
            known.clear();
        }
        known.insert(directory.clone(), name);
    }
}
