//! Losses that the server tells of: deleted records mean ended leases, deleted claims mean lost holds.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::TxnOp;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::txn::{Freshness, keys_only};
use super::watch::hub::{Hub, Notice, Sink, WatchId};
use super::{Shared, claims::Held};
use crate::backend::backoff::Backoff;
use crate::backend::{AttemptId, BackendError, ErrorKind, Event, LeaseId, Result};

/// Shorter holds are not worth a watch of their own.
const AGE: Duration = Duration::from_millis(50);

/// What a watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The record of a lease.
    Session(LeaseId),
    /// The claim of a grant.
    Claim(AttemptId),
}

/// What each watch is about, and its key.
type Subjects = HashMap<WatchId, (Subject, Vec<u8>)>;

/// What is watched, and what will be.
#[derive(Debug)]
pub(super) struct Losses {
    /// `None` after the end.
    subjects: Mutex<Option<Subjects>>,
    /// Grants that are too young for a watch, oldest first.
    young: Mutex<VecDeque<(Instant, AttemptId)>>,
    grown: Arc<Notify>,
    sink: Sink,
}

impl Losses {
    /// Creates the register, whose notices go to `sink`.
    pub(super) fn new(sink: Sink) -> Self {
        let subjects = Mutex::new(Some(Subjects::new()));
        Self { subjects, young: Mutex::default(), grown: Arc::default(), sink }
    }

    /// Watches the key of a subject from a revision on.
    pub(super) fn watch(&self, hub: &Hub, subject: Subject, name: Vec<u8>, start: i64) -> WatchId {
        let id = hub.next_id();
        if let Some(subjects) = &mut *self.subjects.lock() {
            subjects.insert(id, (subject, name.clone()));
            hub.watch_as(id, name, start, self.sink.clone());
        }
        id
    }

    /// Ends a watch: what happens to its subject from now on is no loss.
    pub(super) fn unwatch(&self, hub: &Hub, id: WatchId) {
        if let Some(subjects) = &mut *self.subjects.lock() {
            subjects.remove(&id);
        }
        hub.cancel(id);
    }

    /// Ends all watches, for good.
    pub(super) fn end(&self, hub: &Hub) {
        let ended = self.subjects.lock().take();
        ended.into_iter().flatten().for_each(|(id, _)| hub.cancel(id));
    }

    /// Takes note of a grant, which will be watched if it gets old enough.
    pub(super) fn granted(&self, attempt: AttemptId) {
        let mut young = self.young.lock();
        young.push_back((Instant::now() + AGE, attempt));
        if young.len() == 1 {
            self.grown.notify_one();
        }
    }

    fn subject(&self, id: WatchId) -> Option<Subject> {
        self.subjects.lock().as_ref()?.get(&id).map(|(subject, _)| *subject)
    }
}

/// Starts the tasks. They end with `shared`, which they do not keep.
pub(super) fn start(
    shared: &Arc<Shared>,
    notices: UnboundedReceiver<(WatchId, Notice)>,
    handle: &Handle,
) -> [AbortHandle; 3] {
    let sweeper = sweep(Arc::downgrade(shared), shared.losses.grown.clone());
    let listener = listen(Arc::downgrade(shared), notices);
    let historian = follow_history(Arc::downgrade(shared), shared.connection.restores());
    [
        handle.spawn(sweeper).abort_handle(),
        handle.spawn(listener).abort_handle(),
        handle.spawn(historian).abort_handle(),
    ]
}

/// Ends all sessions when the store was restored: nothing that is known of it holds any more.
async fn follow_history(shared: Weak<Shared>, mut restores: watch::Receiver<u64>) {
    while restores.changed().await.is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        for lease in shared.sessions.ids() {
            shared.lost(Subject::Session(lease));
        }
    }
}

/// Puts watches on grants that have reached the age for it. Sleeps while there are none.
async fn sweep(shared: Weak<Shared>, grown: Arc<Notify>) {
    loop {
        grown.notified().await;
        loop {
            let due = {
                let Some(shared) = shared.upgrade() else { return };
                shared.losses.young.lock().front().map(|(due, _)| *due)
            };
            let Some(due) = due else { break };
            tokio::time::sleep_until(due).await;
            match shared.upgrade() {
                Some(shared) => shared.watch_old_ones(),
                None => return,
            }
        }
    }
}

impl Shared {
    fn watch_old_ones(&self) {
        let now = Instant::now();
        loop {
            let attempt = {
                let mut young = self.losses.young.lock();
                match young.front() {
                    Some((due, _)) if *due <= now => young.pop_front(),
                    _ => return,
                }
            };
            let Some((_, attempt)) = attempt else { return };
            let Some(Held { claim, proof, .. }) = self.claims.held(attempt) else { continue };
            let watch = self.losses.watch(self.connection.hub(), Subject::Claim(attempt), claim.name, proof + 1);
            if !self.claims.watched(attempt, watch) {
                self.losses.unwatch(self.connection.hub(), watch);
            }
        }
    }

    /// Reports a loss, once.
    pub(super) fn lost(&self, subject: Subject) {
        let event = match subject {
            Subject::Session(lease) => {
                let wanted = self.sessions.get(lease).is_some_and(|session| session.is_wanted());
                (self.forget(lease) && wanted).then_some(Event::LeaseLost(lease))
            }
            Subject::Claim(attempt) => self.claims.let_go(attempt).map(|watch| {
                self.losses.unwatch(self.connection.hub(), watch);
                if self.claims.outcome(attempt) == Some(false) {
                    self.claims.forget(attempt);
                }
                Event::ClaimLost(attempt)
            }),
        };
        if let Some(event) = event {
            self.tell(event);
        }
    }

    /// Finds which of these subjects have gone while their watches were down. Returns those that could not be checked, and why.
    async fn check(&self, ids: Vec<WatchId>) -> Option<(Vec<WatchId>, BackendError)> {
        let (mut parts, mut unchecked, mut reason) = (vec![ids], Vec::new(), None);
        while let Some(mut part) = parts.pop() {
            match self.check_together(&part).await {
                Ok(()) => {}
                // One that is refused, for its permissions say, must not hide what has become of the others.
                Err(error) if part.len() > 1 && error.kind() != ErrorKind::Unreachable => {
                    let half = part.len() / 2;
                    parts.push(part.split_off(half));
                    parts.push(part);
                }
                Err(error) => {
                    let unreachable = error.kind() == ErrorKind::Unreachable;
                    unchecked.extend(part);
                    if unreachable {
                        unchecked.extend(parts.drain(..).flatten());
                    }
                    reason = Some(error);
                }
            }
        }
        reason.map(|reason| (unchecked, reason))
    }

    async fn check_together(&self, ids: &[WatchId]) -> Result<()> {
        let subjects: Vec<_> = {
            let known = self.losses.subjects.lock();
            ids.iter().filter_map(|id| known.as_ref()?.get(id).cloned()).collect()
        };
        let get = |(_, name): &(Subject, Vec<u8>)| TxnOp::get(name.clone(), Some(keys_only(Freshness::Linearizable)));
        let found = self.connection.ranges(&subjects.iter().map(get).collect::<Vec<_>>()).await?;
        for ((subject, _), found) in subjects.into_iter().zip(found) {
            if found.kvs.is_empty() {
                self.lost(subject);
            }
        }
        Ok(())
    }
}

/// Turns notices into events.
async fn listen(shared: Weak<Shared>, mut notices: UnboundedReceiver<(WatchId, Notice)>) {
    while let Some(first) = notices.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        let mut unsure = Vec::new();
        let mut next = Some(first);
        while let Some((id, notice)) = next {
            match (notice, shared.losses.subject(id)) {
                (Notice::Deleted(_), Some(subject)) => shared.lost(subject),
                (Notice::Recreated, Some(_)) => unsure.push(id),
                _ => {}
            }
            next = notices.try_recv().ok();
        }
        if !unsure.is_empty() {
            // Apart, so that a slow answer delays no other notice.
            let weak = Arc::downgrade(&shared);
            shared.connection.handle().spawn(check(weak, unsure));
        }
    }
}

/// Checks until each subject was seen, or is watched no more.
async fn check(shared: Weak<Shared>, mut ids: Vec<WatchId>) {
    let mut backoff = Backoff::new();
    let mut warned = false;
    while let Some(shared) = shared.upgrade().filter(|shared| shared.is_open()) {
        let Some((unchecked, reason)) = shared.check(ids).await else { return };
        if reason.kind() != ErrorKind::Unreachable && !std::mem::replace(&mut warned, true) {
            crate::process::report::warn!(target: "leasehold::etcd", "cannot check what was lost while the watch was down, trying on: {reason}");
        }
        ids = unchecked;
        drop(shared);
        backoff.pause().await;
    }
}
