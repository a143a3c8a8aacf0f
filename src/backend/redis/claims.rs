//! What this process has on the server: its attempts, and the leases that they are on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::attempt::{Attempt, Won};
use crate::backend::{AttemptId, Lease, LeaseId, Limit, Timestamp};

type Hasher = foldhash::fast::RandomState;

/// A lease: on Redis, no more than what its holds have in common.
#[derive(Debug)]
struct Held {
    session: bool,
    /// When its last renewal began, which may count for it as a whole from then on.
    renewed: Timestamp,
    /// It takes no attempts any more, and is here for those that have not been given up yet.
    ended: bool,
    /// What is on it, so that n leases end or are renewed in a time of n, not of n times all attempts.
    attempts: HashSet<AttemptId, Hasher>,
}

/// What a renewal is about.
#[derive(Debug)]
pub(super) struct Renewing {
    pub(super) session: bool,
    /// What is held on the lease, with its epochs.
    pub(super) held: Vec<(Arc<Attempt>, u64)>,
    /// Whether the release of something on it has not been answered.
    pub(super) releasing: bool,
}

/// All that may be on the server.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    last_lease: u64,
    leases: HashMap<LeaseId, Held, Hasher>,
    attempts: HashMap<AttemptId, Arc<Attempt>, Hasher>,
}

impl Registry {
    fn live(&mut self, lease: LeaseId) -> Option<&mut Held> {
        self.leases.get_mut(&lease).filter(|lease| !lease.ended)
    }

    fn on<'a>(&'a self, held: &'a Held) -> impl Iterator<Item = &'a Arc<Attempt>> {
        held.attempts.iter().filter_map(|id| self.attempts.get(id))
    }
}

impl Claims {
    /// Makes a lease.
    pub(super) fn open(&self, ttl: Duration, session: bool, now: Timestamp) -> Lease {
        let mut registry = self.0.lock();
        registry.last_lease += 1;
        let id = LeaseId(registry.last_lease);
        registry.leases.insert(id, Held { session, renewed: now, ended: false, attempts: HashSet::default() });
        Lease::new(id, ttl, now, session)
    }

    /// Returns the attempt, made by `make` if it is not known. `None` if its lease is over.
    pub(super) fn begin(&self, lease: LeaseId, id: AttemptId, make: impl FnOnce() -> Attempt) -> Option<Arc<Attempt>> {
        let mut registry = self.0.lock();
        registry.live(lease)?.attempts.insert(id);
        Some(registry.attempts.entry(id).or_insert_with(|| Arc::new(make())).clone())
    }

    pub(super) fn get(&self, id: AttemptId) -> Option<Arc<Attempt>> {
        self.0.lock().attempts.get(&id).cloned()
    }

    /// The grant of an attempt is returned. `None` if it was given up meanwhile; else its limit, if it needs one: its own time
    /// ends sooner than what a renewal that did not know of it may promise for the lease.
    pub(super) fn hold(&self, attempt: &Attempt, won: Won) -> Option<Option<Limit>> {
        let mut registry = self.0.lock();
        let renewed = registry.live(attempt.lease)?.renewed;
        let covered = won.dated >= renewed && won.ttl >= attempt.ttl;
        let limit = (!covered).then(|| Limit::new(won.dated, won.ttl));
        attempt.hold(won.epoch, limit.clone()).then_some(limit)
    }

    /// A renewal begins. `None` if the lease is over.
    pub(super) fn renewing(&self, lease: LeaseId, now: Timestamp) -> Option<Renewing> {
        let mut registry = self.0.lock();
        registry.live(lease)?.renewed = now;
        let lease = registry.leases.get(&lease)?;
        let held = registry.on(lease).filter_map(|attempt| Some((attempt.clone(), attempt.held()?))).collect();
        let releasing = registry.on(lease).any(|attempt| attempt.is_releasing());
        Some(Renewing { session: lease.session, held, releasing })
    }

    /// Forgets an attempt of which nothing is left. Its lease goes with it, if that was for nothing else.
    pub(super) fn forget(&self, id: AttemptId) {
        let mut registry = self.0.lock();
        let Some(attempt) = registry.attempts.remove(&id) else { return };
        if let Some(lease) = registry.leases.get_mut(&attempt.lease) {
            lease.attempts.remove(&id);
            if lease.attempts.is_empty() && (lease.ended || !lease.session) {
                registry.leases.remove(&attempt.lease);
            }
        }
    }

    /// Ends a lease. Returns all that is on it.
    pub(super) fn end(&self, lease: LeaseId) -> Vec<Arc<Attempt>> {
        let mut registry = self.0.lock();
        let Some(held) = registry.leases.get_mut(&lease) else { return Vec::new() };
        held.ended = true;
        if held.attempts.is_empty() {
            registry.leases.remove(&lease);
            return Vec::new();
        }
        registry.leases.get(&lease).map(|held| registry.on(held).cloned().collect()).unwrap_or_default()
    }

    /// How many leases and attempts there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        let registry = self.0.lock();
        (registry.leases.len(), registry.attempts.len())
    }
}
