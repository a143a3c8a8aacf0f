//! Losses: deleted records mean ended leases, deleted claims mean lost holds.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::TxnOp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::claims::{Claims, HeldClaim};
use super::connection::Connection;
use super::granted::GrantedClaim;
use super::names::Name;
use super::position::{Freshness, keys_only};
use super::session::{Session, Sessions};
use super::watch::hub::{Notice, WatchId};
use super::watched::{Notices, Subject, Watched};
use crate::backend::backoff::Backoff;
use crate::backend::events::Events;
use crate::backend::{AttemptId, BackendError, ErrorKind, Event, LeaseId, Result};
use crate::process::report::warn;

/// The age from which a grant is watched: shorter holds are not worth it.
const WATCH_AGE: Duration = Duration::from_millis(50);

/// Finds losses and reports them.
///
/// Everything that shows a loss calls [`report`](Self::report): a watch, a check after a gap of the watch, a renewal, a claim or a
/// release whose lease has ended, a store that was restored from a backup.
#[derive(Debug)]
pub(super) struct Losses {
    connection: Arc<Connection>,
    sessions: Arc<Sessions>,
    claims: Arc<Claims>,
    watched: Watched,
    /// Grants that are not watched yet, oldest first, with the time from which they are.
    recent: Mutex<VecDeque<(Instant, AttemptId)>>,
    has_recent: Arc<Notify>,
    pub(super) events: Arc<Events>,
}

impl Losses {
    /// Creates it with its tasks, which do not keep it alive.
    pub(super) fn start(
        connection: Arc<Connection>,
        sessions: Arc<Sessions>,
        claims: Arc<Claims>,
    ) -> (Arc<Self>, [AbortHandle; 3]) {
        let (watched, notices) = Watched::new(connection.clone());
        let (recent, has_recent, events) = Default::default();
        let losses = Arc::new(Self { connection, sessions, claims, watched, recent, has_recent, events });
        let tasks = [
            losses.spawn(watch_grants(Arc::downgrade(&losses), losses.has_recent.clone())),
            losses.spawn(listen(Arc::downgrade(&losses), notices)),
            losses.spawn(follow_history(Arc::downgrade(&losses), losses.connection.restores())),
        ];
        (losses, tasks)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.connection.handle().spawn(task).abort_handle()
    }

    /// Ends all watches: nothing is reported from now on.
    pub(super) fn close(&self) {
        self.watched.close();
    }

    /// Returns whether it was not closed.
    pub(super) fn is_open(&self) -> bool {
        self.watched.is_open()
    }

    /// Reports a loss, once.
    pub(super) fn report(&self, subject: Subject) {
        let event = match subject {
            Subject::Session(lease) => {
                let ended = self.forget(lease);
                ended.is_some_and(|session| session.is_wanted()).then_some(Event::LeaseLost(lease))
            }
            Subject::Claim(attempt) => self.claims.unhold(attempt).map(|watch| {
                self.watched.remove(watch);
                if self.claims.outcome(attempt) == Some(false) {
                    self.claims.forget(attempt);
                }
                Event::ClaimLost(attempt)
            }),
        };
        if let Some(event) = event {
            self.events.push(event);
        }
    }

    /// Forgets a lease that has ended, with all claims on it. Returns its session if it was known.
    pub(super) fn forget(&self, lease: LeaseId) -> Option<Arc<Session>> {
        let removed = self.sessions.remove(lease);
        for watch in self.claims.forget_lease(lease, self.connection.endpoints()) {
            self.watched.remove(watch);
        }
        let (session, watch) = removed?;
        if let Some(watch) = watch {
            self.watched.remove(watch);
        }
        Some(session)
    }

    /// Watches the record of a lease from a revision on.
    pub(super) fn watch_session(&self, session: &Session, start: i64) {
        let subject = Subject::Session(session.id());
        session.watched(self.watched.add(subject, session.record_name().clone(), start));
    }

    /// Notes a grant that was proven at this revision. It is watched once it is old enough.
    pub(super) fn hold(&self, attempt: AttemptId, claim: Arc<GrantedClaim>, proof: i64) {
        self.claims.hold(attempt, HeldClaim { claim, proof, watch: None });
        let mut recent = self.recent.lock();
        recent.push_back((Instant::now() + WATCH_AGE, attempt));
        if recent.len() == 1 {
            self.has_recent.notify_one();
        }
    }

    /// Notes that a grant is given up: what happens to its claim from now on is no loss.
    pub(super) fn unhold(&self, attempt: AttemptId) {
        if let Some(watch) = self.claims.unhold(attempt) {
            self.watched.remove(watch);
        }
    }

    fn watch_old_grants(&self) {
        let now = Instant::now();
        loop {
            let attempt = {
                let mut recent = self.recent.lock();
                match recent.front() {
                    Some((due, _)) if *due <= now => recent.pop_front(),
                    _ => return,
                }
            };
            let Some((_, attempt)) = attempt else { return };
            let Some(HeldClaim { claim, proof, .. }) = self.claims.held(attempt) else { continue };
            let watch = self.watched.add(Subject::Claim(attempt), claim.name.clone(), proof + 1);
            if !self.claims.watched(attempt, watch) {
                self.watched.remove(watch);
            }
        }
    }

    /// Finds the subjects that were lost while their watches were down. Returns the watches that could not be checked, and why.
    async fn check(&self, ids: Vec<WatchId>) -> Option<(Vec<WatchId>, BackendError)> {
        let (mut parts, mut unchecked, mut reason) = (vec![ids], Vec::new(), None);
        while let Some(mut part) = parts.pop() {
            match self.check_together(&part).await {
                Ok(()) => {}
                // One that is refused, for missing permissions for example, must not hide the losses of the others.
                Err(error) if part.len() > 1 && error.kind() != ErrorKind::Unreachable => {
                    let half = part.len() / 2;
                    parts.push(part.split_off(half));
                    parts.push(part);
                }
                Err(error) => {
                    let is_unreachable = error.kind() == ErrorKind::Unreachable;
                    unchecked.extend(part);
                    if is_unreachable {
                        unchecked.extend(parts.drain(..).flatten());
                    }
                    reason = Some(error);
                }
            }
        }
        reason.map(|reason| (unchecked, reason))
    }

    async fn check_together(&self, ids: &[WatchId]) -> Result<()> {
        let subjects = self.watched.named(ids);
        let get = |(_, name): &(Subject, Name)| TxnOp::get(&**name, Some(keys_only(Freshness::Linearizable)));
        let found = self.connection.ranges(&subjects.iter().map(get).collect::<Vec<_>>()).await?;
        for ((subject, _), found) in subjects.into_iter().zip(found) {
            if found.kvs.is_empty() {
                self.report(subject);
            }
        }
        Ok(())
    }
}

/// Ends all sessions when the store was restored: nothing that is known of it holds any more.
async fn follow_history(losses: Weak<Losses>, mut restores: tokio::sync::watch::Receiver<u64>) {
    while restores.changed().await.is_ok() {
        let Some(losses) = losses.upgrade() else { return };
        for lease in losses.sessions.ids() {
            losses.report(Subject::Session(lease));
        }
    }
}

/// Watches grants that are old enough. Sleeps while there are none that are not watched.
async fn watch_grants(losses: Weak<Losses>, has_recent: Arc<Notify>) {
    loop {
        has_recent.notified().await;
        loop {
            let due = {
                let Some(losses) = losses.upgrade() else { return };
                losses.recent.lock().front().map(|(due, _)| *due)
            };
            let Some(due) = due else { break };
            tokio::time::sleep_until(due).await;
            match losses.upgrade() {
                Some(losses) => losses.watch_old_grants(),
                None => return,
            }
        }
    }
}

/// Reports what notices say, and checks the subjects of watches that were down.
async fn listen(losses: Weak<Losses>, mut notices: Notices) {
    while let Some(first) = notices.recv().await {
        let Some(losses) = losses.upgrade() else { return };
        let mut unchecked = Vec::new();
        let mut next = Some(first);
        while let Some((id, notice)) = next {
            match (notice, losses.watched.subject(id)) {
                (Notice::Deleted(_), Some(subject)) => losses.report(subject),
                (Notice::Recreated, Some(_)) => unchecked.push(id),
                _ => {}
            }
            next = notices.try_recv().ok();
        }
        if !unchecked.is_empty() {
            // In a separate task, so that a slow answer delays no other notice.
            losses.spawn(check(Arc::downgrade(&losses), unchecked));
        }
    }
}

/// Checks until each subject was found, reported, or is no longer watched.
async fn check(losses: Weak<Losses>, mut ids: Vec<WatchId>) {
    let mut backoff = Backoff::new();
    let mut has_warned = false;
    while let Some(losses) = losses.upgrade().filter(|losses| losses.is_open()) {
        let Some((unchecked, reason)) = losses.check(ids).await else { return };
        if reason.kind() != ErrorKind::Unreachable && !std::mem::replace(&mut has_warned, true) {
            warn!(target: "leasehold::etcd", "cannot check for losses while the watch was down, retrying: {reason}");
        }
        ids = unchecked;
        drop(losses);
        backoff.pause().await;
    }
}
