//! Renewals requested by callers: one in flight for each lease; requests that arrive meanwhile share the next one.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::backend::LeaseId;
use crate::error::BackendError;

type Reply = oneshot::Sender<Result<(), BackendError>>;
/// The leases with a renewal in flight, each with the callers that wait for the next one.
type Waiting = Arc<Mutex<HashMap<LeaseId, Vec<Reply>>>>;

/// The renewals requested by callers.
#[derive(Debug, Default)]
pub(super) struct AskedRenewals(Waiting);

/// Held by the task that renews one lease. After its drop, the next caller starts another task.
#[derive(Debug)]
pub(super) struct RenewalTurn {
    waiting: Waiting,
    lease: LeaseId,
    has_ended: bool,
}

impl AskedRenewals {
    /// Registers for the next renewal of the lease. Returns a `RenewalTurn` if the caller has to start it.
    pub(super) fn join(&self, lease: LeaseId, reply: Reply) -> Option<RenewalTurn> {
        let mut waiting = self.0.lock();
        let is_under_way = waiting.contains_key(&lease);
        waiting.entry(lease).or_default().push(reply);
        (!is_under_way).then(|| RenewalTurn { waiting: self.0.clone(), lease, has_ended: false })
    }
}

impl RenewalTurn {
    /// Takes the callers that wait for the next renewal. `None` if there are none, which ends the turn.
    pub(super) fn next(&mut self) -> Option<Vec<Reply>> {
        let mut waiting = self.waiting.lock();
        let callers = waiting.get_mut(&self.lease).map(std::mem::take).unwrap_or_default();
        if callers.is_empty() {
            waiting.remove(&self.lease);
            self.has_ended = true;
            return None;
        }
        Some(callers)
    }
}

impl Drop for RenewalTurn {
    fn drop(&mut self) {
        // The task has panicked, or its runtime has ended.
        if !self.has_ended {
            let callers = self.waiting.lock().remove(&self.lease);
            drop(callers);
        }
    }
}
