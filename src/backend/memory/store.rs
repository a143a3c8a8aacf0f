//! The server of memory locks: leases, queues and the epoch, behind one mutex.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::state::{Answer, State};
use super::wakes::Wakes;
#[cfg(feature = "testing")]
use crate::backend::Lease;
use crate::backend::events::Events;
use crate::backend::{AttemptId, Claim, Clock, Evict, LeaseId, LeaseScope, SystemClock, Timestamp, Wait};
use crate::info::{Eviction, LockInfo};
#[cfg(feature = "testing")]
use crate::info::{Holder, Mode};

/// A lock server within this process.
#[derive(Debug)]
pub(crate) struct Store {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl Store {
    /// Creates a store without a name.
    pub(crate) fn private() -> Arc<Self> {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// Returns the process's store of that name, created on first use.
    ///
    /// It lives as long as the process, because the tokens of its keys must keep growing.
    pub(crate) fn named(name: &str) -> Arc<Self> {
        static STORES: LazyLock<Mutex<HashMap<String, Arc<Store>>>> = LazyLock::new(Mutex::default);
        let mut stores = STORES.lock();
        match stores.get(name) {
            Some(store) => store.clone(),
            None => stores.entry(name.into()).or_insert(Self::private()).clone(),
        }
    }

    /// Creates a store without a name whose leases end by this clock.
    pub(crate) fn with_clock(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::new(clock.clone())), clock })
    }

    /// Ends the expired leases.
    pub(crate) fn purge(&self) {
        self.step(|_, _, _| ());
    }

    pub(super) fn open(&self, ttl: Duration, scope: LeaseScope, events: &Arc<Events>) -> LeaseId {
        self.step(|state, now, _| state.open(now, ttl, scope, events.clone()))
    }

    /// Renews the leases, and returns for each whether it was alive.
    pub(super) fn renew(&self, leases: impl IntoIterator<Item = LeaseId>) -> Vec<bool> {
        self.step(|state, now, _| leases.into_iter().map(|lease| state.renew(now, lease)).collect())
    }

    /// Ends a lease without notifying its link, which has asked for it or, in a test, should find out at its next renewal.
    pub(crate) fn revoke(&self, lease: LeaseId) {
        self.step(|state, _, wakes| state.end(lease, wakes));
    }

    pub(super) fn acquire(&self, claim: &Claim, wait: Wait) -> Answer {
        self.step(|state, now, wakes| state.acquire(now, claim, wait, wakes))
    }

    /// Removes a claim, and refuses it from now on.
    pub(super) fn abort(&self, lease: LeaseId, attempt: AttemptId) {
        self.step(|state, _, wakes| state.abort(lease, attempt, wakes));
    }

    /// Removes a claim, and returns whether it existed.
    pub(super) fn release(&self, lease: LeaseId, attempt: AttemptId) -> bool {
        // Does not read the clock: the next call that does ends the expired leases.
        let mut wakes = Wakes::default();
        let existed = self.state.lock().give_up(lease, attempt, &mut wakes);
        wakes.send();
        existed
    }

    /// The time until one of the leases that this claim waits for may end, or its own. `None` if it does not wait.
    pub(super) fn patience(&self, claim: &Claim) -> Option<Duration> {
        self.step(|state, now, _| state.soonest_end(claim).map(|end| end.since(now)))
    }

    pub(super) fn subscribe(&self, key: &str) -> watch::Receiver<()> {
        self.state.lock().observed.subscribe(key)
    }

    /// The receiver of an observer was dropped.
    pub(super) fn unsubscribe(&self, key: &str) {
        self.state.lock().observed.forget(key);
    }

    /// The time until one of the leases of a key's claims may end.
    pub(super) fn next_end(&self, key: &str) -> Option<Duration> {
        self.step(|state, now, _| state.next_end(key).map(|end| end.since(now)))
    }

    /// Whether a claim waits for the key that this one holds. `None` if it does not hold it.
    pub(super) fn is_wanted(&self, key: &str, lease: LeaseId, attempt: AttemptId) -> Option<bool> {
        self.step(|state, _, _| state.is_wanted(key, lease, attempt))
    }

    pub(super) fn inspect(&self, key: &str) -> Option<LockInfo> {
        self.step(|state, now, _| state.inspect(now, key))
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<LockInfo> {
        let mut found = self.step(|state, now, _| state.list(now, prefix));
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// Evicts the holders of a key: ends their leases with all their claims, or removes just this key's. Their links are notified.
    pub(crate) fn evict(&self, key: &str, evict: &Evict) -> Eviction {
        self.step(|state, _, wakes| state.evict(key, evict, wakes))
    }

    #[cfg(test)]
    pub(super) fn leases(&self) -> usize {
        self.step(|state, _, _| state.leases())
    }

    /// Performs a step at the present time, after ending the leases that have expired before.
    fn step<R>(&self, work: impl FnOnce(&mut State, Timestamp, &mut Wakes) -> R) -> R {
        let mut wakes = Wakes::default();
        let result = {
            let mut state = self.state.lock();
            let now = self.clock.now();
            state.purge(now, &mut wakes);
            work(&mut state, now, &mut wakes)
        };
        wakes.send();
        result
    }
}

/// The faults of [`testing::MemoryStore`](crate::testing::MemoryStore).
#[cfg(feature = "testing")]
impl Store {
    /// Ends the leases of the holders of `key`, as if they had expired: their links are not notified. False if the key is free.
    pub(crate) fn expire(&self, key: &str) -> bool {
        self.step(|state, _, wakes| state.expire(key, wakes))
    }

    /// Grants the key to another client library, before all waiters; the links of its holders are notified. Returns the new lease,
    /// which never expires.
    pub(crate) fn steal(&self, key: &str) -> LeaseId {
        self.step(|state, now, wakes| {
            let lease = state.open(now, Duration::MAX, LeaseScope::Claim, Arc::default());
            let attempt = AttemptId(lease.0);
            let lease = Lease::new(lease, Duration::MAX, now, LeaseScope::Claim);
            let thief = Arc::new(Holder::new("thief", "", 0));
            state.steal(now, &Claim::new(attempt, key.into(), Mode::Exclusive, lease, thief), wakes);
            lease.id
        })
    }
}
