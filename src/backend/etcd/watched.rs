//! What is watched to find losses, and the notices about it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::connection::Connection;
use super::names::Name;
use super::watch::hub::{Notice, Sink, WatchId};
use crate::backend::{AttemptId, LeaseId};

/// What a watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A lease, by its record.
    Session(LeaseId),
    /// A grant, by its claim.
    Claim(AttemptId),
}

/// The subject of each watch, with the name of the watched key.
type Subjects = HashMap<WatchId, (Subject, Name)>;

/// The notices about all subjects.
pub(super) type Notices = UnboundedReceiver<(WatchId, Notice)>;

/// The register of watches.
#[derive(Debug)]
pub(super) struct Watched {
    connection: Arc<Connection>,
    /// `None` after the end.
    subjects: Mutex<Option<Subjects>>,
    sink: Sink,
}

impl Watched {
    /// Creates an empty register, and returns the notices about all subjects.
    pub(super) fn new(connection: Arc<Connection>) -> (Self, Notices) {
        let (sink, notices) = unbounded_channel();
        (Self { connection, subjects: Mutex::new(Some(Subjects::new())), sink }, notices)
    }

    /// Watches the key of a subject from a revision on.
    pub(super) fn add(&self, subject: Subject, name: Name, start: i64) -> WatchId {
        let id = self.connection.hub().next_id();
        if let Some(subjects) = &mut *self.subjects.lock() {
            subjects.insert(id, (subject, name.clone()));
            self.connection.hub().watch(id, name.into(), start, self.sink.clone());
        }
        id
    }

    /// Ends a watch: what happens to its subject from now on is no loss.
    pub(super) fn remove(&self, id: WatchId) {
        if let Some(subjects) = &mut *self.subjects.lock() {
            subjects.remove(&id);
        }
        self.connection.hub().cancel(id);
    }

    /// Ends all watches, for good.
    pub(super) fn close(&self) {
        let ended = self.subjects.lock().take();
        ended.into_iter().flatten().for_each(|(id, _)| self.connection.hub().cancel(id));
    }

    /// Returns whether it was not closed.
    pub(super) fn is_open(&self) -> bool {
        self.subjects.lock().is_some()
    }

    /// Returns the subject of a watch that has not ended.
    pub(super) fn subject(&self, id: WatchId) -> Option<Subject> {
        self.subjects.lock().as_ref()?.get(&id).map(|(subject, _)| *subject)
    }

    /// Returns the subjects of the watches that have not ended, with the names of their keys.
    pub(super) fn named(&self, ids: &[WatchId]) -> Vec<(Subject, Name)> {
        let subjects = self.subjects.lock();
        ids.iter().filter_map(|id| subjects.as_ref()?.get(id).cloned()).collect()
    }
}
