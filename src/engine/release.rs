//! Releasing a grant.

use std::pin::pin;
use std::sync::Arc;

use futures::future::{Either, select};

use super::base::Base;
use super::cleanup::{InFlight, Job};
use super::hold::HeldGrant;
use crate::backend::backoff::Backoff;
use crate::clock::Timestamp;
use crate::error::{ErrorKind, LockError};
use crate::info::Loss;
use crate::process::report::{debug, warn};

/// Releases a grant: retries until the server has confirmed or the hold's lease may have ended.
///
/// The deadline is the hold's at this moment, whatever later renewals of its session prove. After it, the release continues in the
/// background, however late.
pub(crate) fn release(held: Arc<HeldGrant>, now: Timestamp) -> InFlight {
    held.sessions.forget_own(&held.cell);
    held.sessions.cleanup.clone().start(async move {
        let base = &held.sessions.base;
        let deadline = held.deadline();
        let (mut backoff, mut now) = (Backoff::slow(), Some(now));
        let mut late = Loss::Expired;
        loop {
            let checked = now.take().unwrap_or_else(|| base.now());
            if let Some(cause) = held.loss(checked).or((checked >= deadline).then_some(late)) {
                held.report_loss(cause);
                // The session continues, and the claim with it.
                undo(&held, if held.cell.is_session() { Job::Release(held.grant.clone()) } else { Job::Revoke });
                return Err(held.expired(cause));
            }
            let answer = within(base, deadline, base.backend.release(&held.grant)).await;
            match answer.unwrap_or_else(|| Err(base.no_answer(base.defaults.timeout))) {
                Ok(()) => {
                    base.counters.released();
                    let (name, key, token) = (base.name(), held.key.as_ref(), held.first_token().get());
                    debug!(
                        target: "leasehold", name = name, key = key, token = token, lease:% = held.cell.id();
                        "{name}: lock {key:?} released (token {token})"
                    );
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    held.report_loss(Loss::Revoked);
                    return Err(held.expired(Loss::Revoked));
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    late = Loss::Unreachable;
                    within(base, deadline, base.recovery.pause(&mut backoff)).await;
                }
                Err(error) => {
                    let (name, key, token) = (base.name(), held.key.as_ref(), held.first_token().get());
                    warn!(
                        target: "leasehold", name = name, key = key, token = token;
                        "{name}: lock {key:?} not released (token {token}): {error}"
                    );
                    if error.kind() != ErrorKind::Closed {
                        undo(&held, Job::Release(held.grant.clone()));
                    }
                    return Err(LockError::backend(Some(key), "unlock", error));
                }
            }
        }
    })
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
