//! [`Sessions`]: chooses the lease of a claim (the session for its TTL, or a separate lease), and opens and checks leases.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::asked_renewals::AskedRenewals;
use super::base::{Base, closed};
use super::cleanup::{Cleanup, Job};
use super::leases::{Leases, Opened, Opening, Session};
use super::outage::OutageLog;
use crate::arbiter::Terms;
use crate::backend::{Lease, LeaseId, LeaseScope, Limit};
use crate::clock::Timestamp;
use crate::error::BackendError;
use crate::info::Loss;
use crate::keeper::Checked;
use crate::lease::{LeaseCell, Policy, Step};
use crate::process::report::info;

/// How often the clock is compared while there are leases: tokio's timers do not count suspend.
pub(super) const ROUND: Duration = Duration::from_millis(100);
/// How late the keeper may be with a loss before another thread notifies it. Less than the safety margin of the shortest TTL.
const GRACE: Duration = Duration::from_millis(2);

/// The leases of one manager.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) base: Arc<Base>,
    pub(super) cleanup: Arc<Cleanup>,
    leases: Mutex<Leases>,
    /// Grants that end before their leases unless they are confirmed.
    limited: Mutex<Vec<(Limit, Weak<dyn Limited>)>>,
    pub(super) asked: AskedRenewals,
    pub(super) outage_log: OutageLog,
    /// Grows with each lease that the keeper checks.
    progress: AtomicU64,
    /// The progress at the last check of the keeper.
    seen: AtomicU64,
    /// Whether a thread notifies losses in the keeper's place.
    is_rescuing: AtomicBool,
}

/// A grant that may end before its lease: a `HeldGrant`, whose file imports this one.
pub(super) trait Limited: Send + Sync {
    /// Notifies its loss if it is over by `now`.
    fn check_limit(&self, now: Timestamp);
}

/// A lease for a claim: open, or being opened.
pub(crate) enum LeaseFor {
    Ready(Opened),
    Soon(Opening),
}

/// The result of a check of the leases.
#[derive(Default)]
pub(super) struct Round {
    pub(super) renew: Vec<Arc<LeaseCell>>,
    pub(super) over: Vec<(Arc<LeaseCell>, Loss)>,
    /// The time of the next check.
    pub(super) next: Option<Timestamp>,
}

fn scope_of(terms: &Terms) -> LeaseScope {
    if terms.wants_own_lease() { LeaseScope::Claim } else { LeaseScope::Session }
}

impl Sessions {
    pub(super) fn new(base: Arc<Base>, cleanup: Arc<Cleanup>) -> Arc<Self> {
        Arc::new(Self {
            base,
            cleanup,
            leases: Mutex::default(),
            limited: Mutex::default(),
            asked: AskedRenewals::default(),
            outage_log: OutageLog::default(),
            progress: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            is_rescuing: AtomicBool::new(false),
        })
    }

    /// Returns the session for these terms, or opens a lease.
    pub(crate) fn lease_for(self: &Arc<Self>, terms: &Terms, now: Timestamp) -> LeaseFor {
        let scope = scope_of(terms);
        if scope == LeaseScope::Session {
            match self.leases.lock().session(terms.ttl) {
                Some(Session::Open(cell)) if cell.quiet_loss(now).is_none() => {
                    return LeaseFor::Ready(Ok(cell.clone()));
                }
                Some(Session::Opening(opening)) => return LeaseFor::Soon(opening.clone()),
                Some(Session::Open(_)) | None => {}
            }
        }
        let (backend, ttl) = (self.base.backend.clone(), terms.ttl);
        let mut call = async move { backend.open(ttl, scope).await }.boxed();
        let polled = self.base.keeper.enter().ok().and_then(|_within| (&mut call).now_or_never());
        match polled {
            Some(opened) => LeaseFor::Ready(opened.map(|lease| self.keep(lease, terms))),
            None => LeaseFor::Soon(self.open_on_keeper(call, terms.clone())),
        }
    }

    /// Opens a lease on the keeper, so that a cancelled caller does not leave an unknown lease.
    fn open_on_keeper(
        self: &Arc<Self>,
        call: BoxFuture<'static, Result<Lease, BackendError>>,
        terms: Terms,
    ) -> Opening {
        let scope = scope_of(&terms);
        let mut leases = self.leases.lock();
        // Another caller may have opened it by now.
        match leases.session(terms.ttl).filter(|_| scope == LeaseScope::Session) {
            Some(Session::Opening(opening)) => return opening.clone(),
            Some(Session::Open(cell)) if cell.quiet_loss(self.base.now()).is_none() => {
                return std::future::ready(Ok(cell.clone())).boxed().shared();
            }
            Some(Session::Open(_)) | None => {}
        }
        let (reply, answer) = oneshot::channel::<Opened>();
        let opening: Opening = PendingLease { sessions: self.clone(), answer }.boxed().shared();
        if scope == LeaseScope::Session {
            leases.set_session(terms.ttl, Some(Session::Opening(opening.clone())));
        }
        drop(leases);
        let sessions = self.clone();
        // A close waits for it: the lease may exist already.
        let unconfirmed = self.cleanup.count();
        self.base.keeper.spawn(async move {
            let opened = match sessions.base.answer(sessions.base.defaults.timeout, call).await {
                Ok(lease) => Ok(sessions.keep(lease, &terms)),
                Err(error) => {
                    if scope == LeaseScope::Session {
                        sessions.leases.lock().set_session(terms.ttl, None);
                    }
                    Err(error)
                }
            };
            if let Err(Ok(unwanted)) = reply.send(opened)
                && !unwanted.is_session()
            {
                sessions.end(unwanted);
            }
            drop(unconfirmed);
        });
        opening
    }

    fn keep(self: &Arc<Self>, lease: Lease, terms: &Terms) -> Arc<LeaseCell> {
        let cell = Arc::new(LeaseCell::new(lease, Policy { auto_renew: terms.auto_renew, max_hold: terms.max_hold }));
        let now = self.base.now();
        let known = {
            let mut leases = self.leases.lock();
            let known = match leases.session(terms.ttl) {
                Some(Session::Open(known)) if lease.is_session() && known.quiet_loss(now).is_none() => {
                    Some(known.clone())
                }
                _ => None,
            };
            if known.is_none() {
                leases.keep(cell.clone(), now);
                if scope_of(terms) == LeaseScope::Session {
                    // The backend's lease is for one claim only: for one of the waiters, and for no later claim.
                    leases.set_session(terms.ttl, lease.is_session().then(|| Session::Open(cell.clone())));
                }
            }
            known
        };
        if let Some(known) = known {
            // Two openings at the same time: one session is enough.
            self.cleanup.run(cell, Job::Revoke);
            return known;
        }
        if lease.is_session() {
            let name = self.base.name();
            info!(target: "leasehold", name = name, lease = &lease.id; "{name}: session {} established, TTL {:?}", lease.id, lease.ttl);
        }
        self.base.check_now();
        self.base.keeper.rouse();
        if self.base.lifecycle.is_closed() {
            // A close may have drained the table before this was in it.
            cell.lose(Loss::Closed, now);
            self.end(cell.clone());
        }
        cell
    }

    /// Stops renewing a lease. Returns the key that is held on it, if it is for one claim.
    pub(super) fn forget(&self, cell: &Arc<LeaseCell>) -> Option<Arc<str>> {
        self.leases.lock().forget(cell)
    }

    /// The same for many at once.
    pub(super) fn forget_all<'a>(&self, cells: impl Iterator<Item = &'a Arc<LeaseCell>>) -> Vec<Arc<str>> {
        let mut leases = self.leases.lock();
        cells.filter_map(|cell| leases.forget(cell)).collect()
    }

    /// Stops renewing the lease if it is for one claim; a session continues.
    pub(super) fn forget_own(&self, cell: &Arc<LeaseCell>) {
        if !cell.is_session() {
            self.forget(cell);
        }
    }

    /// Ends a lease that is not needed any more.
    pub(crate) fn end(&self, cell: Arc<LeaseCell>) {
        self.forget(&cell);
        self.cleanup.run(cell, Job::Revoke);
    }

    /// The error of the last renewal of the session for this TTL, if it failed.
    pub(super) fn failure(&self, ttl: Duration) -> Option<BackendError> {
        match self.leases.lock().session(ttl)? {
            Session::Open(cell) => cell.failure(),
            Session::Opening(_) => None,
        }
    }

    /// Removes and returns all leases.
    pub(super) fn drain(&self) -> Vec<Arc<LeaseCell>> {
        self.leases.lock().drain()
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<Arc<LeaseCell>> {
        self.leases.lock().get(id)
    }

    /// Notes the key that is held on this lease. If the lease is for one claim, its end concerns no other key.
    pub(super) fn set_key(&self, cell: &LeaseCell, key: &Arc<str>) {
        if !cell.is_session() {
            self.leases.lock().set_key(cell.id(), key.clone());
        }
    }

    /// Has the loss of this grant notified in time even if the keeper is blocked.
    pub(super) fn watch_limit(&self, limit: Limit, grant: Weak<dyn Limited>) {
        self.limited.lock().push((limit, grant));
    }

    /// Makes a lease due now, because it may end sooner.
    pub(super) fn set_due_now(&self, cell: &LeaseCell) {
        self.schedule([(cell.id(), Timestamp::from_nanos(0))]);
        self.base.check_now();
    }

    pub(super) fn schedule(&self, due: impl IntoIterator<Item = (LeaseId, Timestamp)>) {
        let mut leases = self.leases.lock();
        due.into_iter().for_each(|(id, due)| leases.schedule(id, due));
    }

    /// Checks the leases that are due, and notifies the losses among them.
    ///
    /// Costs O(log n) for each that is due.
    pub(super) fn round(&self) -> Round {
        let now = self.base.now();
        let all_due = self.leases.lock().due(now);
        let (mut round, mut later) = (Round::default(), Vec::new());
        for due in all_due {
            self.progress.fetch_add(1, Ordering::Relaxed);
            match due.cell.step(now) {
                Step::Sleep(until) => later.push((due, until)),
                Step::Renew => {
                    let deadline = due.cell.deadline();
                    round.renew.push(due.cell.clone());
                    later.push((due, deadline));
                }
                Step::Lost(cause) => round.over.push((due.cell, cause)),
            }
        }
        let mut leases = self.leases.lock();
        // Waking listeners may take long: leases scheduled meanwhile keep their schedule.
        later.iter().for_each(|(due, until)| leases.schedule_checked(due, *until));
        round.next = leases.next_due();
        round
    }

    /// The leases and limited grants that have ended without a notified loss, and the time of the next possible one: for the watchdog
    /// thread. No leases while the keeper makes progress, however late it is, and none at all while earlier ones are being notified.
    fn late_losses(&self, now: Timestamp) -> (LateLosses, Option<Timestamp>) {
        let bound = now - GRACE;
        let mut late = LateLosses::default();
        let mut next = self.leases.lock().next_due();
        let is_due = next.is_some_and(|due| due <= bound);
        let progress = self.progress.load(Ordering::Relaxed);
        let is_free = !self.is_rescuing.load(Ordering::Acquire);
        if is_free && is_due && self.seen.swap(progress, Ordering::Relaxed) == progress {
            late.leases = self.leases.lock().unnoticed(now);
        }
        self.limited.lock().retain(|(limit, grant)| {
            let until = limit.until();
            let is_over = until <= bound;
            if is_over && is_free {
                late.grants.extend(grant.upgrade());
                return false;
            }
            if limit.is_set() {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
            limit.is_set() && grant.strong_count() > 0
        });
        (late, next)
    }
}

/// Leases and grants that have ended without a notified loss.
#[derive(Default)]
struct LateLosses {
    leases: Vec<Arc<LeaseCell>>,
    grants: Vec<Arc<dyn Limited>>,
}

impl Checked for Sessions {
    fn check(self: Arc<Self>) -> Option<Duration> {
        let now = self.base.now();
        let (late, next) = self.late_losses(now);
        let is_any = !late.leases.is_empty() || !late.grants.is_empty();
        if is_any {
            self.is_rescuing.store(true, Ordering::Release);
            // On a separate thread: a waker that blocks may hold up the keeper, and be called again here.
            let sessions = self.clone();
            let fire = move || {
                late.leases.iter().for_each(|cell| _ = cell.loss(now));
                late.grants.iter().for_each(|grant| grant.check_limit(now));
                // If it is the last reference, its drop ends the manager, and waits: not on this thread.
                sessions.base.keeper.spawn(async move { drop(late.grants) });
                sessions.is_rescuing.store(false, Ordering::Release);
            };
            if std::thread::Builder::new().name("leasehold-losses".into()).spawn(fire).is_err() {
                self.is_rescuing.store(false, Ordering::Release);
            }
        }
        next.map(|next| (next + GRACE).since(now))
    }
}

/// Waits for a lease that is being opened. A lease for a single claim ends with the last of its waiters.
struct PendingLease {
    sessions: Arc<Sessions>,
    answer: oneshot::Receiver<Opened>,
}

impl Future for PendingLease {
    type Output = Opened;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Opened> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(closed())))
    }
}

impl Drop for PendingLease {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(unwanted)) = self.answer.try_recv()
            && !unwanted.is_session()
            && !self.sessions.base.is_forked()
        {
            self.sessions.end(unwanted);
        }
    }
}
