//! [`Leases`]: the table of a manager's leases: when each is due, which are sessions, which key is held on which.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};

use crate::backend::LeaseId;
use crate::clock::Timestamp;
use crate::error::BackendError;
use crate::lease::LeaseCell;

/// An opened lease, or the error.
pub(super) type Opened = Result<Arc<LeaseCell>, BackendError>;
/// A lease that is being opened, shared by all waiters for it.
pub(super) type Opening = Shared<BoxFuture<'static, Opened>>;

/// All leases, and which of them are sessions that any claim may use.
#[derive(Debug, Default)]
pub(super) struct Leases {
    cells: HashMap<LeaseId, Kept>,
    /// The schedule of the next checks.
    due: BTreeSet<(Timestamp, LeaseId)>,
    /// Few: one for each TTL in use.
    sessions: Vec<(Duration, Session)>,
}

#[derive(Debug)]
struct Kept {
    cell: Arc<LeaseCell>,
    due: Timestamp,
    /// The number of times it was scheduled.
    scheduled: u64,
    /// The key that is held on it, if it is for one claim.
    key: Option<Arc<str>>,
}

/// A lease that is due.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) cell: Arc<LeaseCell>,
    scheduled: u64,
}

#[derive(Debug)]
pub(super) enum Session {
    Open(Arc<LeaseCell>),
    Opening(Opening),
}

impl Leases {
    pub(super) fn session(&self, ttl: Duration) -> Option<&Session> {
        self.sessions.iter().find(|(known, _)| *known == ttl).map(|(_, session)| session)
    }

    pub(super) fn set_session(&mut self, ttl: Duration, session: Option<Session>) {
        self.sessions.retain(|(known, _)| *known != ttl);
        self.sessions.extend(session.map(|session| (ttl, session)));
    }

    pub(super) fn drain(&mut self) -> Vec<Arc<LeaseCell>> {
        self.sessions.clear();
        self.due.clear();
        self.cells.drain().map(|(_, kept)| kept.cell).collect()
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<Arc<LeaseCell>> {
        self.cells.get(&id).map(|kept| kept.cell.clone())
    }

    pub(super) fn keep(&mut self, cell: Arc<LeaseCell>, due: Timestamp) {
        self.due.insert((due, cell.id()));
        self.cells.insert(cell.id(), Kept { cell, due, scheduled: 0, key: None });
    }

    /// Notes the key that is held on a lease for one claim.
    pub(super) fn set_key(&mut self, id: LeaseId, key: Arc<str>) {
        if let Some(kept) = self.cells.get_mut(&id) {
            kept.key = Some(key);
        }
    }

    /// Removes a lease. Returns the key that is held on it, if it is for one claim.
    pub(super) fn forget(&mut self, cell: &Arc<LeaseCell>) -> Option<Arc<str>> {
        let kept = self.cells.remove(&cell.id());
        let key = kept.and_then(|kept| {
            self.due.remove(&(kept.due, cell.id()));
            kept.key
        });
        if cell.is_session() {
            self.sessions.retain(|(_, session)| !matches!(session, Session::Open(open) if Arc::ptr_eq(open, cell)));
        }
        key
    }

    /// Sets when a lease is due.
    pub(super) fn schedule(&mut self, id: LeaseId, due: Timestamp) {
        if let Some(kept) = self.cells.get_mut(&id) {
            self.due.remove(&(kept.due, id));
            kept.due = due;
            kept.scheduled += 1;
            self.due.insert((due, id));
        }
    }

    /// The same after a check, unless it has been scheduled meanwhile.
    pub(super) fn schedule_checked(&mut self, checked: &Due, due: Timestamp) {
        let id = checked.cell.id();
        if self.cells.get(&id).is_some_and(|kept| kept.scheduled == checked.scheduled) {
            self.schedule(id, due);
        }
    }

    /// The time at which the first lease is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The leases that have ended by now without a notified loss.
    pub(super) fn unnoticed(&self, now: Timestamp) -> Vec<Arc<LeaseCell>> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        let cells = due.filter_map(|(_, id)| self.cells.get(id)).map(|kept| &kept.cell);
        cells.filter(|cell| now >= cell.deadline() && !cell.is_known_lost()).cloned().collect()
    }

    /// The leases that are due by now. Each stays due until it is [scheduled](Self::schedule_checked) again, or removed.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Due> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        let kept = due.filter_map(|(_, id)| self.cells.get(id));
        kept.map(|kept| Due { cell: kept.cell.clone(), scheduled: kept.scheduled }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Lease, LeaseScope};
    use crate::lease::Policy;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn table() -> (Leases, Arc<LeaseCell>) {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(30), at(0), LeaseScope::Claim);
        let cell = Arc::new(LeaseCell::new(lease, Policy { auto_renew: true, max_hold: None }));
        let mut leases = Leases::default();
        leases.keep(cell.clone(), at(1));
        (leases, cell)
    }

    /// A hold with a limited age begins while the lease is being checked without that limit.
    #[test]
    fn what_is_scheduled_during_a_check_stays() {
        let (mut leases, cell) = table();
        for soon in [at(0), at(5)] {
            let due = leases.due(at(10));
            assert_eq!(due.len(), 1);
            leases.schedule(cell.id(), soon);
            leases.schedule_checked(&due[0], at(10_000));
            assert_eq!(leases.next_due(), Some(soon));
        }
        let due = leases.due(at(10));
        leases.schedule_checked(&due[0], at(10_000));
        assert_eq!(leases.next_due(), Some(at(10_000)));
        assert!(leases.due(at(10)).is_empty());
    }

    #[test]
    fn what_is_forgotten_during_a_check_is_not_scheduled() {
        let (mut leases, cell) = table();
        let due = leases.due(at(10));
        leases.forget(&cell);
        leases.schedule_checked(&due[0], at(20));
        assert_eq!(leases.next_due(), None);
    }
}
