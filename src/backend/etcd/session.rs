//! The leases that are alive, as far as this process knows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::names::Name;
use super::numbers::Numbers;
use super::txn::Record;
use super::watch::hub::WatchId;
use crate::backend::{Lease, LeaseId, Timestamp};

/// A lease that is alive.
#[derive(Debug)]
pub(super) struct Session {
    id: LeaseId,
    requested_ttl: Duration,
    record: Name,
    value: Arc<[u8]>,
    facts: Mutex<Facts>,
    numbers: Numbers,
    /// Whether this process has begun to revoke it: its end is no loss then.
    is_revoking: AtomicBool,
    /// Turns true at the end.
    over: watch::Sender<bool>,
}

#[derive(Debug)]
struct Facts {
    ttl: Duration,
    proven: Timestamp,
    /// The highest version of the record that was seen.
    version: i64,
    /// The term of the last linearizable answer about this lease.
    term: u64,
    /// The watch on the record.
    watch: Option<WatchId>,
}

/// A keep-alive that the server has answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive {
    /// The time at which it was sent.
    pub(super) sent: Timestamp,
    /// The granted TTL.
    pub(super) ttl: Duration,
    /// The term before it, that of its answer, and that of the linearizable read after it.
    pub(super) terms: [Option<u64>; 3],
}

impl Session {
    /// Creates the session of a lease that was granted with this TTL, and whose record has just been created in this term.
    pub(super) fn new(record: Record, requested_ttl: Duration, lease: &Lease, term: u64) -> Self {
        let facts = Facts { ttl: lease.ttl, proven: lease.proven, version: 1, term, watch: None };
        Self {
            id: lease.id,
            requested_ttl,
            record: record.name,
            value: record.value,
            facts: Mutex::new(facts),
            numbers: Numbers::default(),
            is_revoking: AtomicBool::new(false),
            over: watch::Sender::new(false),
        }
    }

    /// Returns the id of the lease.
    pub(super) fn id(&self) -> LeaseId {
        self.id
    }

    /// Returns the TTL that was requested.
    pub(super) fn requested_ttl(&self) -> Duration {
        self.requested_ttl
    }

    /// Returns the numbers in the names of the claims on the lease.
    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Returns the name of the record.
    pub(super) fn record_name(&self) -> &Name {
        &self.record
    }

    /// Returns the record as a transaction should expect it.
    pub(super) fn record(&self) -> Record {
        let version = self.facts.lock().version;
        Record { name: self.record.clone(), value: self.value.clone(), lease: self.id, version }
    }

    /// Notes a version of the record.
    pub(super) fn saw_version(&self, version: i64) {
        let mut facts = self.facts.lock();
        facts.version = facts.version.max(version);
    }

    /// Returns the term of the last linearizable answer about the lease.
    pub(super) fn term(&self) -> u64 {
        self.facts.lock().term
    }

    /// Takes a keep-alive into account after which the record was still there. Returns whether it proves the lease.
    ///
    /// A leader that was stopped answers keep-alives that the current leader never sees. So no term may have begun since the read
    /// before the keep-alive.
    pub(super) fn renewed(&self, keep_alive: KeepAlive) -> bool {
        let KeepAlive { sent, ttl, terms: [before, kept, after] } = keep_alive;
        let mut facts = self.facts.lock();
        facts.term = after.unwrap_or_default();
        let is_proof = before.is_some() && kept == before && after == before;
        if is_proof {
            (facts.ttl, facts.proven) = (ttl, sent.max(facts.proven));
        }
        is_proof
    }

    /// Returns the lease with its latest proof.
    pub(super) fn proven(&self, lease: Lease) -> Lease {
        let facts = self.facts.lock();
        if facts.proven > lease.proven { Lease { ttl: facts.ttl, proven: facts.proven, ..lease } } else { lease }
    }

    /// Returns whether the lease may still be alive at `now`.
    pub(super) fn may_live(&self, now: Timestamp) -> bool {
        let facts = self.facts.lock();
        now < facts.proven + facts.ttl
    }

    /// Notes the watch on the record.
    pub(super) fn watched(&self, watch: WatchId) {
        self.facts.lock().watch = Some(watch);
    }

    /// Notes that this process revokes the lease.
    pub(super) fn revoking(&self) {
        self.is_revoking.store(true, Ordering::Release);
    }

    /// Returns whether the end of the lease is a loss.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_revoking.load(Ordering::Acquire)
    }

    /// Waits for the end of the lease.
    pub(super) async fn ended(&self) {
        let mut over = self.over.subscribe();
        // The sender lives as long as self.
        let _ = over.wait_for(|over| *over).await;
    }
}

/// The leases that are alive.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<LeaseId, Arc<Session>>>);

impl Sessions {
    /// Returns a lease that has not ended.
    pub(super) fn get(&self, id: LeaseId) -> Option<Arc<Session>> {
        self.0.lock().get(&id).cloned()
    }

    /// Returns the ids of all leases that have not ended.
    pub(super) fn ids(&self) -> Vec<LeaseId> {
        self.0.lock().keys().copied().collect()
    }

    /// Adds a lease.
    pub(super) fn add(&self, session: Arc<Session>) {
        self.0.lock().insert(session.id, session);
    }

    /// Removes a lease that has ended, and wakes those that wait for that. Returns its session and its watch.
    pub(super) fn remove(&self, id: LeaseId) -> Option<(Arc<Session>, Option<WatchId>)> {
        let session = self.0.lock().remove(&id)?;
        let watch = session.facts.lock().watch.take();
        session.over.send_replace(true);
        Some((session, watch))
    }

    /// Returns the record that a transaction has to rewrite to keep older copies of a claim from taking effect.
    ///
    /// None after the end of the lease: nothing can be put on it.
    pub(super) fn record_to_rewrite(&self, lease: LeaseId, is_unknown: bool) -> Option<Record> {
        is_unknown.then(|| self.get(lease).map(|session| session.record()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::LeaseScope;

    #[test]
    fn only_a_keep_alive_within_one_term_is_a_proof() {
        let at = Timestamp::from_nanos;
        let lease = Lease::new(LeaseId(1), Duration::from_secs(10), at(5), LeaseScope::Session);
        let record = Record { name: (*b"r").into(), value: [].into(), lease: lease.id, version: 0 };
        let cases = [
            ([Some(2), Some(2), Some(2)], true),
            ([Some(2), Some(3), Some(3)], false),
            ([Some(2), Some(2), Some(3)], false),
            ([Some(2), Some(3), Some(2)], false),
            ([Some(2), None, Some(2)], false),
            ([Some(2), Some(2), None], false),
            ([None, None, None], false),
        ];
        for (terms, is_proof) in cases {
            let session = Session::new(record.clone(), lease.ttl, &lease, 2);
            let ttl = Duration::from_secs(9);
            assert_eq!(session.renewed(KeepAlive { sent: at(7), ttl, terms }), is_proof, "{terms:?}");
            let expected = if is_proof { Lease { ttl, proven: at(7), ..lease } } else { lease };
            assert_eq!(session.proven(lease), expected, "{terms:?}");
            assert_eq!(session.term(), terms[2].unwrap_or_default(), "the next one is compared with the latest term");
        }
    }
}
