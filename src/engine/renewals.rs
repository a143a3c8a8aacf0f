//! Renewing leases.

use std::sync::Arc;

use super::sessions::{ROUND, Sessions};
use crate::backend::Lease;
use crate::error::{BackendError, ErrorKind};
use crate::lease::LeaseCell;
use crate::process::report::debug;

/// Renews one lease now. Fails if there was no proof of its life.
pub(crate) async fn renew(sessions: &Sessions, cell: &Arc<LeaseCell>) -> Result<(), BackendError> {
    renew_all(sessions, vec![cell.clone()]).await.into_iter().next().unwrap_or(Ok(()))
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
            debug!(target: "leasehold", name = name, lease:% = cell.id(); "{name}: renewal of {} failed: {error}", cell.id());
            cell.failed(&error);
            cell.update(now, |renewal| renewal.failed(error.kind(), now));
            Err(error)
        }
    };
    let outcomes: Vec<_> = cells.iter().zip(answers).map(outcome).collect();
    // A lease that was lost is reported by its loss.
    let failures = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    sessions.outage_log.report_renewals(base, failures.clone().find(|error| error.kind() != ErrorKind::LeaseLost));
    sessions.schedule(cells.iter().map(|cell| (cell.id(), now)));
    sessions.check_now();
    outcomes
}
