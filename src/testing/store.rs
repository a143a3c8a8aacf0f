//! [`MemoryStore`]: a lock server that fails on demand.

use std::sync::Arc;

use super::clock::ManualClock;
use super::gate::Gate;
use super::link::MemoryLink;
use crate::backend::memory::{Memory, Store};
use crate::backend::{Clock, Evict, LeaseId, SystemClock};
use crate::info::Eviction;

/// A lock server in this process, the same as behind `memory://`, that fails on demand.
///
/// Clones are the same store. [`expire`](Self::expire), [`revoke`](Self::revoke) and [`steal`](Self::steal) take effect at once, even
/// while the store is paused or its links are cut.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    running: Gate,
}

impl MemoryStore {
    /// Creates a private store.
    #[allow(clippy::new_without_default, reason = "each call creates a separate store")]
    pub fn new() -> Self {
        Self::of(Store::private(), Arc::new(SystemClock))
    }

    /// Creates a private store that measures TTLs by `clock`.
    ///
    /// Pass the same clock to [`LockManagerBuilder::clock`](crate::LockManagerBuilder::clock): a manager computes its deadlines by its
    /// own clock.
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

    /// Returns the store of the URL `memory://name`.
    ///
    /// [`pause`](Self::pause) stops the links of this `MemoryStore` and its clones, but not managers that are connected by URL.
    pub fn named(name: &str) -> Self {
        Self::of(Store::named(name), Arc::new(SystemClock))
    }

    fn of(store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, running: Gate::open() }
    }

    /// Creates a link for one manager: pass a clone to the manager, and keep the link to cut it.
    pub fn link(&self) -> MemoryLink {
        let memory = Memory::new(self.store.clone(), self.clock.clone());
        MemoryLink::new(memory, self.running.clone())
    }

    /// Stops the server: calls of all links are not answered until [`resume`](Self::resume). Time continues.
    ///
    /// Leases whose TTL has passed meanwhile end when the server resumes.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// # use leasehold::LockManager;
    /// # use leasehold::testing::MemoryStore;
    /// let store = MemoryStore::new();
    /// let limit = Duration::from_millis(50);
    /// let manager = LockManager::builder().backend(store.link()).timeout(limit).build().await?;
    /// store.pause();
    /// assert_eq!(manager.try_lock("k").await.unwrap_err().code(), "BACKEND");
    /// store.resume();
    /// assert!(manager.try_lock("k").await?.is_some());
    /// # Ok(()) });
    /// ```
    pub fn pause(&self) {
        self.running.set_open(false);
    }

    /// Continues after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.running.set_open(true);
        self.store.purge();
    }

    /// Ends the leases of the holders of `key` as if they had not been renewed. Returns false if the key is free.
    ///
    /// No event is sent: a holder finds the loss at its next renewal.
    pub fn expire(&self, key: &str) -> bool {
        self.store.expire(key)
    }

    /// Revokes the leases of the holders of `key`, as an administrator would. The holders are notified.
    ///
    /// Returns the holders, and the keys that they held on the same leases.
    pub fn revoke(&self, key: &str) -> Eviction {
        self.store.evict(key, &Evict::default())
    }

    /// Revokes `key` from its holders, which are notified, and grants it to a foreign client, at once and ahead of all waiters. The
    /// foreign client holds the key until the [`Thief`] is dropped.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use leasehold::LockManager;
    /// # use leasehold::testing::MemoryStore;
    /// let store = MemoryStore::new();
    /// let manager = LockManager::builder().backend(store.link()).build().await?;
    /// let guard = manager.lock("k").await?;
    /// let thief = store.steal("k");
    /// assert_eq!(guard.lost().await, leasehold::Loss::Revoked);
    /// assert!(manager.try_lock("k").await?.is_none());
    /// drop(thief);
    /// assert!(manager.try_lock("k").await?.is_some());
    /// # Ok(()) });
    /// ```
    pub fn steal(&self, key: &str) -> Thief {
        Thief { lease: self.store.steal(key), store: self.store.clone() }
    }
}

/// A [stolen](MemoryStore::steal) key. Dropping it releases the key.
#[derive(Debug)]
#[must_use = "if unused the key is released at once"]
pub struct Thief {
    store: Arc<Store>,
    lease: LeaseId,
}

impl Drop for Thief {
    fn drop(&mut self) {
        self.store.revoke(self.lease);
    }
}
