//! Renewing leases.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::base::closed;
use super::sessions::{ROUND, Sessions};
use crate::backend::Lease;
use crate::error::{BackendError, ErrorKind};
use crate::lease::LeaseCell;
use crate::process::report::debug;

/// Renews one lease, by a request that is sent after this call. Fails if the answer does not prove the lease.
///
/// Calls during another request share the next one.
pub(crate) async fn renew(sessions: &Arc<Sessions>, cell: &Arc<LeaseCell>) -> Result<(), BackendError> {
    let (reply, answer) = oneshot::channel();
    if let Some(mut turn) = sessions.asked.join(cell.id(), reply) {
        let (sessions, cell) = (sessions.clone(), cell.clone());
        let keeper = sessions.base.keeper.clone();
        // On the keeper, because other callers depend on it.
        keeper.spawn(async move {
            while let Some(waiting) = turn.next() {
                let outcome = renew_all(&sessions, vec![cell.clone()]).await.pop().unwrap_or(Ok(()));
                for reply in waiting {
                    // Some callers may not wait any more.
                    let _ = reply.send(outcome.clone());
                }
            }
        });
    }
    answer.await.unwrap_or_else(|_| Err(closed()))
}

/// Renews leases by one call of the backend. One answer for each, in their order.
pub(super) async fn renew_all(sessions: &Sessions, cells: Vec<Arc<LeaseCell>>) -> Vec<Result<(), BackendError>> {
    let base = &sessions.base;
    let leases: Vec<Lease> = cells.iter().map(|cell| cell.lease()).collect();
    let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or(ROUND);
    let limit = third.min(base.defaults.timeout);
    let answers = match tokio::time::timeout(limit, base.backend.renew(&leases)).await {
        Ok(answers) if answers.len() == leases.len() => answers,
        Ok(_) => vec![Err(BackendError::new(ErrorKind::Refused, "renewals without answers")); leases.len()],
        Err(_) => vec![Err(base.no_answer(limit)); leases.len()],
    };
    let now = base.now();
    let outcome = |(cell, answer): (&Arc<LeaseCell>, Result<Lease, BackendError>)| match answer {
        Ok(proof) => {
            base.counters.renewed();
            cell.recovered();
            cell.update(now, |renewal| renewal.renewed(proof, now));
            Ok(())
        }
        Err(error) => {
            base.counters.renewal_failed();
            let name = base.name();
            debug!(target: "leasehold", name = name, lease = &cell.id(); "{name}: renewal of {} failed: {error}", cell.id());
            cell.failed(&error);
            cell.update(now, |renewal| renewal.failed(error.kind(), now));
            Err(error)
        }
    };
    let outcomes: Vec<_> = cells.iter().zip(answers).map(outcome).collect();
    // The loss of a lease is reported elsewhere.
    let failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    sessions.outage_log.report_renewals(base, failures.clone().find(|error| error.kind() != ErrorKind::LeaseLost));
    sessions.schedule(cells.iter().map(|cell| (cell.id(), now)));
    base.check_now();
    outcomes
}
