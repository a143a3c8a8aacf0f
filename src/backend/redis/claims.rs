//! What this process has on the server: its attempts, and the leases that they are on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::attempt::{Attempt, Won};
use crate::backend::{AttemptId, Lease, LeaseId, Limit, Timestamp};

/// A lease: on Redis, no more than what its holds have in common.
#[derive(Debug)]
struct Held {
    session: bool,
    /// When its last renewal began, which may count for it as a whole from then on.
    renewed: Timestamp,
}

/// What a renewal is about.
#[derive(Debug)]
pub(super) struct Renewing {
    pub(super) session: bool,
    /// What is held on the lease, with its epochs.
    pub(super) held: Vec<(Arc<Attempt>, u64)>,
}

/// All that may be on the server.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    last_lease: u64,
    leases: HashMap<LeaseId, Held>,
    attempts: HashMap<AttemptId, Arc<Attempt>, foldhash::fast::RandomState>,
}

impl Claims {
    /// Makes a lease.
    pub(super) fn open(&self, ttl: Duration, session: bool, now: Timestamp) -> Lease {
        let mut registry = self.0.lock();
        registry.last_lease += 1;
        let id = LeaseId(registry.last_lease);
        registry.leases.insert(id, Held { session, renewed: now });
        Lease::new(id, ttl, now, session)
    }

    /// Returns the attempt, made by `make` if it is not known. `None` if its lease is over.
    pub(super) fn begin(&self, lease: LeaseId, id: AttemptId, make: impl FnOnce() -> Attempt) -> Option<Arc<Attempt>> {
        let mut registry = self.0.lock();
        if !registry.leases.contains_key(&lease) {
            return None;
        }
        Some(registry.attempts.entry(id).or_insert_with(|| Arc::new(make())).clone())
    }

    pub(super) fn get(&self, id: AttemptId) -> Option<Arc<Attempt>> {
        self.0.lock().attempts.get(&id).cloned()
    }

    /// The grant of an attempt is returned. `None` if it was given up meanwhile; else its limit, if it needs one: its own time
    /// ends sooner than what a renewal that did not know of it may promise for the lease.
    pub(super) fn hold(&self, attempt: &Attempt, won: Won) -> Option<Option<Limit>> {
        let registry = self.0.lock();
        let renewed = registry.leases.get(&attempt.lease)?.renewed;
        let covered = won.dated >= renewed && won.ttl >= attempt.ttl;
        let limit = (!covered).then(|| Limit::new(won.dated, won.ttl));
        attempt.hold(won.epoch, limit.clone()).then_some(limit)
    }

    /// A renewal begins. `None` if the lease is over.
    pub(super) fn renewing(&self, lease: LeaseId, now: Timestamp) -> Option<Renewing> {
        let mut registry = self.0.lock();
        let held = registry.leases.get_mut(&lease)?;
        held.renewed = now;
        let session = held.session;
        let on_it = registry.attempts.values().filter(|attempt| attempt.lease == lease);
        let held = on_it.filter_map(|attempt| Some((attempt.clone(), attempt.held()?))).collect();
        Some(Renewing { session, held })
    }

    /// Forgets an attempt of which nothing is left. Its lease goes with it, if that was for nothing else.
    pub(super) fn forget(&self, id: AttemptId) -> bool {
        let mut registry = self.0.lock();
        let Some(attempt) = registry.attempts.remove(&id) else { return false };
        if registry.leases.get(&attempt.lease).is_some_and(|lease| !lease.session) {
            registry.leases.remove(&attempt.lease);
        }
        true
    }

    /// Ends a lease. Returns all that is on it.
    pub(super) fn end(&self, lease: LeaseId) -> Vec<Arc<Attempt>> {
        let mut registry = self.0.lock();
        registry.leases.remove(&lease);
        registry.attempts.values().filter(|attempt| attempt.lease == lease).cloned().collect()
    }

    /// Those who are to look by themselves by `until`, or all who wait, and when the next one is to.
    pub(super) fn looking(&self, until: Instant, all: bool) -> (Vec<Arc<Attempt>>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for attempt in self.0.lock().attempts.values() {
            match attempt.look() {
                _ if all => due.push(attempt.clone()),
                Some(look) if look <= until => due.push(attempt.clone()),
                Some(look) => next = Some(next.map_or(look, |next| next.min(look))),
                None => {}
            }
        }
        (due, next)
    }
}
