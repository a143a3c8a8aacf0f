//! The table of a manager's leases: when each is due, which are sessions, which key is held on which.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};

use crate::backend::LeaseId;
use crate::clock::Timestamp;
use crate::error::BackendError;
use crate::lease::LeaseCell;

/// A lease, or why there is none.
pub(super) type Opened = Result<Arc<LeaseCell>, BackendError>;
/// A lease that is being opened, for all that wait for it.
pub(super) type Opening = Shared<BoxFuture<'static, Opened>>;

/// All leases, and which of them are sessions that any claim may use.
#[derive(Debug, Default)]
pub(super) struct Leases {
    cells: HashMap<LeaseId, Kept>,
    /// When to check which of them next.
    due: BTreeSet<(Timestamp, LeaseId)>,
    /// Few: one for each TTL in use.
    sessions: Vec<(Duration, Session)>,
}

#[derive(Debug)]
struct Kept {
    cell: Arc<LeaseCell>,
    due: Timestamp,
    /// The key that is held on it, where it is for one claim.
    key: Option<Arc<str>>,
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

    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<Arc<LeaseCell>> {
        self.cells.get(&id).map(|kept| kept.cell.clone())
    }

    pub(super) fn keep(&mut self, cell: Arc<LeaseCell>, due: Timestamp) {
        self.due.insert((due, cell.id()));
        self.cells.insert(cell.id(), Kept { cell, due, key: None });
    }

    /// Notes the key that is held on a lease for one claim.
    pub(super) fn set_key(&mut self, id: LeaseId, key: Arc<str>) {
        if let Some(kept) = self.cells.get_mut(&id) {
            kept.key = Some(key);
        }
    }

    /// Removes a lease. Returns the key that is held on it, where it is for one claim and holds.
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
            self.due.insert((due, id));
        }
    }

    /// When the first of them is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes those that are due by now; each has to be [scheduled](Self::schedule) again, or forgotten.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Arc<LeaseCell>> {
        let mut taken = Vec::new();
        while let Some((_, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.pop_first();
            taken.extend(self.get(id));
        }
        taken
    }

    /// All that are over by now, whatever their due times.
    pub(super) fn past_deadline(&self, now: Timestamp) -> Vec<Arc<LeaseCell>> {
        self.cells.values().filter(|kept| now >= kept.cell.deadline()).map(|kept| kept.cell.clone()).collect()
    }
}
