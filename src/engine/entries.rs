//! The keys in use, one entry each.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

use super::lookup::LastLookup;
use super::{Core, HeldGrant};
use crate::arbiter::{Arbiter, Effects, HandOver};
use crate::backend::AttemptId;
use crate::clock::Timestamp;
use crate::foreign;
use crate::fork::ForkDetector;

pub(crate) type KeyArbiter = Arbiter<Arc<HeldGrant>, Waker>;
pub(crate) type KeyEffects = Effects<Arc<HeldGrant>, Waker>;

/// One key of a manager: lives while a handle, a request, a guard or unfinished clean-up has it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    arbiter: Mutex<KeyArbiter>,
    pub(super) last_lookup: LastLookup,
    entries: Arc<Entries>,
}

impl Entry {
    /// Locks the arbiter. Carry out the effects it returns after letting go of it.
    pub(crate) fn arbiter(&self) -> ArbiterGuard<'_> {
        ArbiterGuard(Some(self.arbiter.lock()))
    }

    /// Forgets the grants that are lost. Returns them.
    pub(crate) fn purge(self: &Arc<Self>, core: &Arc<Core>, now: Timestamp) -> Vec<Arc<HeldGrant>> {
        let (lost, effects) = self.arbiter().purge(now);
        core.carry_out(self, effects);
        lost
    }

    pub(super) fn close(self: &Arc<Self>, core: &Arc<Core>, now: Timestamp) {
        let (lost, effects) = {
            let mut arbiter = self.arbiter();
            let (lost, mut effects) = arbiter.purge(now);
            // Whom the purge has promoted is in its effects, and no longer among the waiters with a waker.
            effects.wake.extend(arbiter.wake_all());
            (lost, effects)
        };
        drop(lost);
        core.carry_out(self, effects);
    }

    /// Returns the grants of these attempts.
    pub(super) fn find(&self, attempts: &HashSet<AttemptId>) -> Vec<Arc<HeldGrant>> {
        self.arbiter().grants().filter(|held| attempts.contains(&held.grant.attempt)).cloned().collect()
    }
}

/// An arbiter under its mutex. Drops what died in there after letting go of it.
#[derive(Debug)]
pub(crate) struct ArbiterGuard<'a>(Option<MutexGuard<'a, KeyArbiter>>);

#[expect(clippy::expect_used, reason = "only drop takes it")]
impl Deref for ArbiterGuard<'_> {
    type Target = KeyArbiter;
    fn deref(&self) -> &KeyArbiter {
        self.0.as_ref().expect("locked until it is dropped")
    }
}

#[expect(clippy::expect_used, reason = "only drop takes it")]
impl DerefMut for ArbiterGuard<'_> {
    fn deref_mut(&mut self) -> &mut KeyArbiter {
        self.0.as_mut().expect("locked until it is dropped")
    }
}

impl Drop for ArbiterGuard<'_> {
    fn drop(&mut self) {
        if let Some(mut arbiter) = self.0.take() {
            let dead = arbiter.take_dead();
            drop(arbiter);
            foreign::drop_all(dead);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.entries.forget(self);
    }
}

/// Finds entries by key, and lets unused keys go.
#[derive(Debug)]
pub(super) struct Entries {
    /// Keys come from users: a hasher with a secret, but a fast one.
    by_key: Mutex<HashMap<Arc<str>, Weak<Entry>, foldhash::fast::RandomState>>,
    hand_over: HandOver,
    fork: ForkDetector,
}

impl Entries {
    pub(super) fn new(hand_over: HandOver) -> Arc<Self> {
        Arc::new(Self { by_key: Mutex::default(), hand_over, fork: ForkDetector::new() })
    }

    pub(super) fn get(self: &Arc<Self>, key: &str) -> Arc<Entry> {
        let mut by_key = self.by_key.lock();
        if let Some(entry) = by_key.get(key).and_then(Weak::upgrade) {
            return entry;
        }
        let entry = Arc::new(Entry {
            key: key.into(),
            arbiter: Mutex::new(Arbiter::new(self.hand_over)),
            last_lookup: LastLookup::default(),
            entries: self.clone(),
        });
        by_key.insert(entry.key.clone(), Arc::downgrade(&entry));
        entry
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        // Collected first: an entry that is dropped here would want the lock.
        self.by_key.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn forget(&self, entry: &Entry) {
        if self.fork.is_forked() {
            return;
        }
        let mut by_key = self.by_key.lock();
        // A successor may have taken the place between the last use and this.
        if by_key.get(&entry.key).is_some_and(|known| std::ptr::eq(known.as_ptr(), entry)) {
            by_key.remove(&entry.key);
            if by_key.len() * 8 < by_key.capacity() {
                by_key.shrink_to_fit();
            }
        }
    }
}
