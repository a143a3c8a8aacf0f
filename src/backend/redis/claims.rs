//! The attempts of this manager, and the leases that they are on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::attempt::Attempt;
use super::ears::Ears;
use super::place::Won;
use crate::backend::{AttemptId, Lease, LeaseId, LeaseScope, Limit, Timestamp};

type Hasher = foldhash::fast::RandomState;

/// A lease: on Redis, only what its holds have in common.
#[derive(Debug)]
struct LeaseEntry {
    scope: LeaseScope,
    /// When its last renewal began: the lease as a whole may be considered proven at that time.
    renewed: Timestamp,
    /// It accepts no attempts any more, and stays for those that have not been given up yet.
    ended: bool,
    /// Its attempts, so that the cost of renewing or ending n leases does not grow with n times all attempts.
    attempts: HashSet<AttemptId, Hasher>,
}

/// The subject of a renewal.
#[derive(Debug)]
pub(super) struct Renewing {
    pub(super) scope: LeaseScope,
    /// The holds on the lease, with their epochs.
    pub(super) held: Vec<(Arc<Attempt>, u64)>,
    /// Whether the release of a hold on it has not been answered.
    pub(super) releasing: bool,
}

/// Everything that this manager may have on the server.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) ears: Arc<Ears>,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    last_lease: u64,
    leases: HashMap<LeaseId, LeaseEntry, Hasher>,
    attempts: HashMap<AttemptId, Arc<Attempt>, Hasher>,
}

impl Registry {
    fn live(&mut self, lease: LeaseId) -> Option<&mut LeaseEntry> {
        self.leases.get_mut(&lease).filter(|lease| !lease.ended)
    }

    fn on<'a>(&'a self, lease: &'a LeaseEntry) -> impl Iterator<Item = &'a Arc<Attempt>> {
        lease.attempts.iter().filter_map(|id| self.attempts.get(id))
    }
}

impl Claims {
    /// Opens a lease.
    pub(super) fn open(&self, ttl: Duration, scope: LeaseScope, now: Timestamp) -> Lease {
        let mut registry = self.registry.lock();
        registry.last_lease += 1;
        let id = LeaseId(registry.last_lease);
        registry.leases.insert(id, LeaseEntry { scope, renewed: now, ended: false, attempts: HashSet::default() });
        Lease::new(id, ttl, now, scope)
    }

    /// Registers an attempt. Returns it, or the one that is known by its id already; `None` if its lease has ended.
    pub(super) fn begin(&self, attempt: Attempt) -> Option<Arc<Attempt>> {
        let attempt = Arc::new(attempt);
        let mut registry = self.registry.lock();
        registry.live(attempt.lease)?.attempts.insert(attempt.id);
        Some(registry.attempts.entry(attempt.id).or_insert(attempt).clone())
    }

    pub(super) fn get(&self, id: AttemptId) -> Option<Arc<Attempt>> {
        self.registry.lock().attempts.get(&id).cloned()
    }

    /// Messages may have been lost, of any attempt and to any ear.
    pub(super) fn miss_messages(&self) {
        self.ears.ring_all();
        self.registry.lock().attempts.values().for_each(|attempt| attempt.miss_messages());
    }

    /// The grant of an attempt is returned. `None` if the attempt was given up meanwhile; else the grant's limit, if it needs one:
    /// a renewal that did not include it may promise more for the lease than the grant's TTL. Of several servers, `is_parted`, each may
    /// fail alone: then it has one in any case, which may be lifted.
    pub(super) fn hold(&self, attempt: &Attempt, won: Won, is_parted: bool) -> Option<Option<Limit>> {
        let mut registry = self.registry.lock();
        let renewed = registry.live(attempt.lease)?.renewed;
        let covered = won.dated >= renewed && won.ttl >= attempt.ttl;
        let limit = match covered {
            false => Some(Limit::new(won.dated, won.ttl)),
            true => is_parted.then(|| Limit::lifted(attempt.ttl)),
        };
        attempt.hold(won, limit.clone()).then_some(limit)
    }

    /// Returns all holds.
    pub(super) fn held(&self) -> Vec<Arc<Attempt>> {
        let registry = self.registry.lock();
        registry.attempts.values().filter(|attempt| attempt.held().is_some()).cloned().collect()
    }

    /// A renewal begins. `None` if the lease has ended.
    pub(super) fn renewing(&self, lease: LeaseId, now: Timestamp) -> Option<Renewing> {
        let mut registry = self.registry.lock();
        registry.live(lease)?.renewed = now;
        let lease = registry.leases.get(&lease)?;
        let held = registry.on(lease).filter_map(|attempt| Some((attempt.clone(), attempt.held()?))).collect();
        let releasing = registry.on(lease).any(|attempt| attempt.is_releasing());
        Some(Renewing { scope: lease.scope, held, releasing })
    }

    /// Forgets an attempt that has nothing on the server any more, and its lease if that was for this attempt only.
    pub(super) fn forget(&self, id: AttemptId) {
        let mut registry = self.registry.lock();
        let Some(attempt) = registry.attempts.remove(&id) else { return };
        if let Some(lease) = registry.leases.get_mut(&attempt.lease) {
            lease.attempts.remove(&id);
            if lease.attempts.is_empty() && (lease.ended || lease.scope == LeaseScope::Claim) {
                registry.leases.remove(&attempt.lease);
            }
        }
    }

    /// Ends a lease. Returns its attempts.
    pub(super) fn end(&self, id: LeaseId) -> Vec<Arc<Attempt>> {
        let mut registry = self.registry.lock();
        let Some(lease) = registry.leases.get_mut(&id) else { return Vec::new() };
        lease.ended = true;
        if lease.attempts.is_empty() {
            registry.leases.remove(&id);
            return Vec::new();
        }
        registry.leases.get(&id).map(|lease| registry.on(lease).cloned().collect()).unwrap_or_default()
    }

    /// How many leases and attempts there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        let registry = self.registry.lock();
        (registry.leases.len(), registry.attempts.len())
    }
}
