//! Locks that were not free at the last attempt.
//!
//! What is not free will hardly be free the next time, so the lean form of a claim is sent only where the last one was first at once.
//! And etcd reads a whole range to find out whether it is empty. Repeated attempts at a lock with a thousand waiters would find the same
//! claim each time, so the transaction compares that one first, and etcd stops there.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::names::{Directory, Name};

/// The maximum number of locks that are remembered.
const MAX_LOCKS: usize = 1024;

/// The locks that were not free at the last attempt, each with a claim that blocked it, if that is known. All of this may have changed
/// since: it only saves work, and decides nothing.
#[derive(Debug, Default)]
pub(super) struct Blockers(Mutex<HashMap<Directory, Option<Name>>>);

impl Blockers {
    /// Returns whether the lock was free at the last attempt, or is not known.
    pub(super) fn was_free(&self, directory: &Directory) -> bool {
        !self.0.lock().contains_key(directory)
    }

    /// Returns the name of a claim that blocked the last attempt.
    pub(super) fn known(&self, directory: &Directory) -> Option<Name> {
        self.0.lock().get(directory).cloned().flatten()
    }

    /// Notes that the lock was free.
    pub(super) fn free(&self, directory: &Directory) {
        self.0.lock().remove(directory);
    }

    /// Notes that the lock was not free, and what blocked it.
    pub(super) fn blocked(&self, directory: &Directory, by: Option<Name>) {
        let mut known = self.0.lock();
        if known.len() >= MAX_LOCKS && !known.contains_key(directory) {
            known.clear();
        }
        known.insert(directory.clone(), by);
    }
}
