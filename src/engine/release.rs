//! Releasing a grant.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, select};

use super::base::Base;
use super::cleanup::Job;
use super::drop_wait::DropWait;
use super::hold::HeldGrant;
use super::overdue::Overdue;
use super::releasing::Going;
use crate::backend::backoff::Backoff;
use crate::backend::{Completes, Completion};
use crate::clock::Timestamp;
use crate::error::{BackendError, ErrorKind, LockError, Result};
use crate::info::Loss;
use crate::process::report::{debug, warn};

/// Releases a grant: retries until the server has confirmed or the hold's lease may have ended.
///
/// The deadline is the hold's at this moment, whatever later renewals of its session prove. After it, the release continues in the
/// background, however late.
pub(crate) fn release(held: Arc<HeldGrant>, now: Timestamp) -> InFlight {
    let sessions = &held.sessions;
    sessions.forget_own(&held.cell);
    held.wanting.end();
    let (base, deadline) = (&sessions.base, held.deadline());
    held.releasing.begin(sessions.cleanup.count(), deadline);
    let is_certain = now < deadline && held.loss(now).is_none();
    if !(is_certain && begin(&held)) {
        repeat(&held, None);
    }
    // The usual release in memory is over by now.
    if held.releasing.deadline().is_some() {
        let releases = &sessions.cleanup.releases;
        let slot = releases.add(deadline.min(now + base.defaults.timeout), held.clone());
        if !held.releasing.set_slot(slot) {
            releases.remove(slot);
        } else if !held.cell.is_session() {
            // Without a lease the keeper might not make the round that finds what is overdue.
            base.check_now();
        }
        let (awaited, at_once) = DropWait::new(base).split();
        drop(awaited.and_then(|awaited| held.releasing.set_awaited(awaited)));
        if let Some(at_once) = at_once {
            at_once.wait();
        }
    }
    InFlight(held)
}

/// A release, which continues whether this future is polled or not.
pub(crate) struct InFlight(Arc<HeldGrant>);

impl Future for InFlight {
    type Output = Result<()>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.0.is_forked() {
            return Poll::Ready(Err(LockError::forked(Some(&self.0.key), "unlock")));
        }
        self.0.releasing.poll(cx)
    }
}

/// Has the backend release the grant without a future, if it can.
fn begin(held: &Arc<HeldGrant>) -> bool {
    match held.sessions.base.backend.begin_release(&held.grant, Completion::new(held.clone())) {
        Some(declined) => {
            declined.decline();
            false
        }
        None => true,
    }
}

impl Completes for HeldGrant {
    fn complete(self: Arc<Self>, outcome: Result<(), BackendError>) {
        if let Some(error) = answered(&self, outcome) {
            repeat(&self, Some(error));
        }
    }
}

impl Overdue for HeldGrant {
    fn overdue(self: Arc<Self>) {
        let base = &self.sessions.base;
        repeat(&self, Some(base.no_answer(base.defaults.timeout)));
    }
}

/// The backend has answered. Returns the error after which the release is to be repeated.
fn answered(held: &Arc<HeldGrant>, answer: Result<(), BackendError>) -> Option<BackendError> {
    let base = &held.sessions.base;
    match answer {
        Ok(()) => {
            if let Some(going) = held.releasing.end(Ok(()), || base.counters.released()) {
                let (name, key, token) = (base.name(), held.key.as_ref(), held.first_token().get());
                debug!(
                    target: "leasehold", name = name, key = key, token = token, lease = &held.cell.id();
                    "{name}: lock {key:?} released (token {token})"
                );
                ended(held, going);
            }
        }
        Err(error) if error.kind() == ErrorKind::LeaseLost => lost(held, Loss::Revoked, None),
        Err(error) if error.kind() == ErrorKind::Unreachable => return Some(error),
        Err(error) => {
            let is_final = error.kind() == ErrorKind::Closed;
            let refused = LockError::backend(Some(&held.key), "unlock", error.clone());
            if let Some(going) = held.releasing.end(Err(refused), || ()) {
                let (name, key, token) = (base.name(), held.key.as_ref(), held.first_token().get());
                warn!(
                    target: "leasehold", name = name, key = key, token = token;
                    "{name}: lock {key:?} not released (token {token}): {error}"
                );
                if !is_final {
                    undo(held, Job::Release(held.grant.clone()));
                }
                ended(held, going);
            }
        }
    }
    None
}

/// The hold was lost before its release; `job` cleans up what is left of it.
fn lost(held: &Arc<HeldGrant>, cause: Loss, job: Option<Job>) {
    if let Some(going) = held.releasing.end(Err(held.expired(cause)), || held.count_loss(cause)) {
        held.log_loss(cause);
        if let Some(job) = job {
            undo(held, job);
        }
        ended(held, going);
    }
}

/// The release has ended.
fn ended(held: &HeldGrant, going: Going) {
    let base = &held.sessions.base;
    if let Some(slot) = going.slot() {
        held.sessions.cleanup.releases.remove(slot);
    }
    if let Some(awaited) = going.notify() {
        let base = base.clone();
        // By the time that this runs, the grant has been dropped.
        base.keeper.clone().spawn(async move { awaited.ended(&base).await });
    }
}

/// Repeats the release by a task, unless there is one. `failed` is the error of the first call.
fn repeat(held: &Arc<HeldGrant>, failed: Option<BackendError>) {
    if held.releasing.repeat() {
        let sessions = &held.sessions;
        if let Some(rest) = sessions.cleanup.poll_first(persist(held.clone(), failed)) {
            sessions.base.keeper.spawn(rest);
        }
    }
}

async fn persist(held: Arc<HeldGrant>, mut failed: Option<BackendError>) {
    let base = &held.sessions.base;
    let mut backoff = Backoff::slow();
    let mut late = Loss::Expired;
    while let Some(deadline) = held.releasing.deadline() {
        if failed.take().is_some() {
            late = Loss::Unreachable;
            within(base, deadline, base.recovery.pause(&mut backoff)).await;
        }
        let now = base.now();
        if let Some(cause) = held.loss(now).or((now >= deadline).then_some(late)) {
            // The session continues, and the claim with it.
            let job = if held.cell.is_session() { Job::Release(held.grant.clone()) } else { Job::Revoke };
            lost(&held, cause, Some(job));
            return;
        }
        let answer = within(base, deadline, base.backend.release(&held.grant)).await;
        failed = answered(&held, answer.unwrap_or_else(|| Err(base.no_answer(base.defaults.timeout))));
    }
}

fn undo(held: &HeldGrant, job: Job) {
    held.sessions.cleanup.run(held.cell.clone(), job);
}

/// Waits for `work`, at most until the deadline, and at most the manager's timeout.
async fn within<T>(base: &Base, deadline: Timestamp, work: impl Future<Output = T>) -> Option<T> {
    // The usual release in memory is over at the first poll, and needs no timer.
    let timer = async {
        let limit = deadline.since(base.now()).min(base.defaults.timeout);
        tokio::time::sleep(limit).await;
    };
    match select(pin!(work), pin!(timer)).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
