//! The keys in use, one entry each.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;

use futures::future::{FutureExt, ready};
use parking_lot::{Mutex, MutexGuard};

use super::base::Base;
use super::hold::HeldGrant;
use super::lookup::{LastLookup, Lookup};
use super::release::release;
use crate::arbiter::{Arbiter, Effects};
use crate::backend::{AttemptId, Memo};
use crate::clock::Timestamp;
use crate::info::Loss;
use crate::process::foreign;

type KeyArbiter = Arbiter<Arc<HeldGrant>, Waker>;
type KeyEffects = Effects<Arc<HeldGrant>, Waker>;

/// One key of a manager: lives while a handle, a request, a guard or unfinished clean-up has it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    arbiter: Mutex<KeyArbiter>,
    last_lookup: LastLookup,
    /// Whether a future has asked whether a hold is wanted.
    is_listened: AtomicBool,
    derived: OnceLock<Arc<dyn Any + Send + Sync>>,
    keys: Arc<Keys>,
}

impl Memo for Entry {
    fn derived(&self) -> &OnceLock<Arc<dyn Any + Send + Sync>> {
        &self.derived
    }
}

impl Entry {
    /// Locks the arbiter. [Apply](Self::apply) the effects that its methods return once it is unlocked.
    pub(crate) fn arbiter(&self) -> ArbiterGuard<'_> {
        ArbiterGuard(Some(self.arbiter.lock()))
    }

    /// Applies the effects: releases the grant that is not needed any more, and wakes waiters.
    pub(crate) fn apply(self: &Arc<Self>, effects: KeyEffects) {
        if effects.watch {
            self.watch();
        }
        if let Some(held) = effects.release {
            drop(release(held, self.keys.base.now()));
        }
        if !effects.wake.is_empty() {
            effects.wake.into_iter().for_each(foreign::wake);
        }
    }

    /// The holds that wait to be wanted are notified from now on when a waiter joins the queue.
    pub(crate) fn listen(&self) {
        self.is_listened.store(true, Ordering::Release);
    }

    /// A waiter has joined the queue.
    pub(super) fn queued(&self) {
        if self.is_listened.load(Ordering::Acquire) {
            let grants: Vec<_> = self.arbiter().grants().cloned().collect();
            grants.iter().for_each(|held| held.wanting.notify());
        }
    }

    /// A waiter depends on a handover that may never happen: have it [nudged](Keys::nudge_contended).
    pub(super) fn watch(self: &Arc<Self>) {
        self.keys.contended.lock().push(Arc::downgrade(self));
    }

    /// Removes and reports the grants that are lost; their waiters claim at the backend.
    pub(super) fn purge(self: &Arc<Self>, now: Timestamp) {
        let (lost, effects) = self.arbiter().purge(now);
        self.apply(effects);
        for held in lost {
            held.report_loss(held.loss(now).unwrap_or(Loss::Expired));
        }
    }

    /// Removes the grants, which are lost, and wakes every waiter.
    pub(super) fn close(self: &Arc<Self>, now: Timestamp) {
        let (lost, effects) = {
            let mut arbiter = self.arbiter();
            let (lost, mut effects) = arbiter.purge(now);
            // The waker of a waiter that the purge has promoted is in its effects, and no longer among the others.
            effects.wake.extend(arbiter.wake_all());
            (lost, effects)
        };
        drop(lost);
        self.apply(effects);
    }

    /// Returns the grants of these attempts.
    pub(super) fn find(&self, attempts: &HashSet<AttemptId>) -> Vec<Arc<HeldGrant>> {
        self.arbiter().grants().filter(|held| attempts.contains(&held.grant.attempt)).cloned().collect()
    }

    /// Looks up the holder of the key: in this process, then at the backend. What is known from before `since` does not count.
    pub(crate) fn look_up(&self, since: Timestamp) -> Lookup {
        let base = &self.keys.base;
        if self.arbiter().is_held(base.now()) {
            return ready(Ok(Some((*base.holder).clone()))).boxed().shared();
        }
        self.last_lookup.ask(base, &self.key, since)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.keys.forget(self);
    }
}

/// An arbiter under its mutex. After unlocking it, drops the wakers that the arbiter does not need any more.
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
            if !dead.is_empty() {
                foreign::drop_all(dead);
            }
        }
    }
}

/// The entries by key. Unused entries are removed.
#[derive(Debug)]
pub(crate) struct Keys {
    base: Arc<Base>,
    /// Keys come from users, so the hasher has a secret.
    by_key: Mutex<HashMap<Arc<str>, Weak<Entry>, foldhash::fast::RandomState>>,
    /// Entries whose waiters may depend on a handover that never happens.
    contended: Mutex<Vec<Weak<Entry>>>,
}

impl Keys {
    pub(super) fn new(base: Arc<Base>) -> Arc<Self> {
        Arc::new(Self { base, by_key: Mutex::default(), contended: Mutex::default() })
    }

    pub(crate) fn get(self: &Arc<Self>, key: &str) -> Arc<Entry> {
        let mut by_key = self.by_key.lock();
        if let Some(entry) = by_key.get(key).and_then(Weak::upgrade) {
            return entry;
        }
        let entry = Arc::new(Entry {
            key: key.into(),
            arbiter: Mutex::new(Arbiter::new(self.base.defaults.handover)),
            last_lookup: LastLookup::default(),
            is_listened: AtomicBool::new(false),
            derived: OnceLock::new(),
            keys: self.clone(),
        });
        by_key.insert(entry.key.clone(), Arc::downgrade(&entry));
        entry
    }

    /// Returns a key's entry if it is in use.
    pub(super) fn find(&self, key: &str) -> Option<Arc<Entry>> {
        self.by_key.lock().get(key).and_then(Weak::upgrade)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        // Collected first: dropping an entry here would lock the map again.
        self.by_key.lock().values().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn is_contended(&self) -> bool {
        !self.contended.lock().is_empty()
    }

    /// Lets waiters claim whose handover will not happen.
    pub(super) fn nudge_contended(&self) {
        let contended = std::mem::take(&mut *self.contended.lock());
        let now = self.base.now();
        for entry in contended.iter().filter_map(Weak::upgrade) {
            let effects = entry.arbiter().nudge(now);
            entry.apply(effects);
        }
    }

    fn forget(&self, entry: &Entry) {
        if self.base.is_forked() {
            return;
        }
        let mut by_key = self.by_key.lock();
        // Another entry may have been inserted between the last use and this drop.
        if by_key.get(&entry.key).is_some_and(|known| std::ptr::eq(known.as_ptr(), entry)) {
            by_key.remove(&entry.key);
            if by_key.len() * 8 < by_key.capacity() {
                by_key.shrink_to_fit();
            }
        }
    }
}
