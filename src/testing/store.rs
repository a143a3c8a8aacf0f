//! A lock server that fails on demand.

use std::sync::Arc;

use super::clock::ManualClock;
use super::gate::Gate;
use super::link::MemoryLink;
use crate::backend::memory::{Memory, Store};
use crate::backend::{Clock, Evict, LeaseId, SystemClock};
use crate::info::Eviction;

/// A lock server within this process, the one behind `memory://`, with faults to order.
///
/// Clones are the same store. What happens to a key happens at once, whether or not the store is paused or its links are cut.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    running: Gate,
}

impl MemoryStore {
    /// Creates a private store.
    #[allow(clippy::new_without_default, reason = "each is another store")]
    pub fn new() -> Self {
        Self::of(Store::private(), Arc::new(SystemClock))
    }

    /// Creates a private store whose leases end by `clock`.
    ///
    /// Give the same clock to the managers: a lease is dated by theirs.
    pub fn with_clock(clock: &ManualClock) -> Self {
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let store = Self::of(Store::with_clock(shared.clone()), shared);
        let (gate, weak) = (store.running.clone(), Arc::downgrade(&store.store));
        clock.watch(move || {
            let Some(store) = weak.upgrade() else { return false };
            if gate.is_open() {
                store.purge();
            }
            true
        });
        store
    }

    /// Returns the store that `memory://name` leads to.
    ///
    /// [`pause`](Self::pause) stops the links of this `MemoryStore` and its clones, not the managers that are connected by URL.
    pub fn named(name: &str) -> Self {
        Self::of(Store::named(name), Arc::new(SystemClock))
    }

    fn of(store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, running: Gate::open() }
    }

    /// Creates a link, for one manager: give it a clone, and cut the link with the other.
    pub fn link(&self) -> MemoryLink {
        let memory = Memory::new(self.store.clone(), self.clock.clone());
        MemoryLink::new(memory, self.running.clone())
    }

    /// Stops the server: no call of any link is answered until [`resume`](Self::resume), but time goes on.
    ///
    /// Leases whose time is over end when the server has resumed.
    pub fn pause(&self) {
        self.running.set_open(false);
    }

    /// Continues after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.running.set_open(true);
        self.store.purge();
    }

    /// Ends the leases of those who hold `key` as if nobody had renewed them. False if it is free.
    ///
    /// Nobody is told: the holders learn of it when they renew.
    pub fn expire(&self, key: &str) -> bool {
        self.store.expire(key)
    }

    /// Ends the leases of those who hold `key`, as an administrator would. The holders are told.
    ///
    /// Says who they were, and what else they held on the same leases.
    pub fn revoke(&self, key: &str) -> Eviction {
        self.store.evict(key, &Evict::default())
    }

    /// Takes `key` away from its holders, who are told, and gives it to a client that is not of leasehold, at once and before
    /// all who wait. It has the key until the [`Thief`] is dropped.
    pub fn steal(&self, key: &str) -> Thief {
        Thief { lease: self.store.steal(key), store: self.store.clone() }
    }
}

/// Holds a key that was [stolen](MemoryStore::steal), until it is dropped.
#[derive(Debug)]
#[must_use = "if unused the key is given back at once"]
pub struct Thief {
    store: Arc<Store>,
    lease: LeaseId,
}

impl Drop for Thief {
    fn drop(&mut self) {
        self.store.revoke(self.lease);
    }
}
