//! Claims of this manager that it has given up, and that are on the server again: after a failover the new master may have an older
//! state. They would be held until their TTL ends, or the time of a handover, one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;

use super::attempt::Attempt;
use super::claims::Claims;
use super::inspect::Snapshot;
use super::place::Seen;
use super::router::Router;
use super::scripts::Op;
use super::value::{self, LockValue};
use crate::info::ClaimId;

/// Whether an orphan may hold the lock that this attempt waits for. The value of a shared lock does not tell by whom it is shared: in
/// `doubt` it may be.
pub(super) fn is_suspect(claims: &Claims, attempt: &Attempt, seen: &Seen, doubt: bool) -> bool {
    is_orphan(claims, attempt, &seen.value) || doubt && matches!(value::read(&seen.value), LockValue::Shared(_))
}

/// Whether a value is a claim of the manager of `attempt` which has nothing on the server, as far as the manager knows. All that may
/// have something are registered.
fn is_orphan(claims: &Claims, attempt: &Attempt, value: &[u8]) -> bool {
    attempt.claim.attempt_beside(value).is_some_and(|id| claims.get(id).is_none())
}

/// Removes them from the locks that these attempts wait for.
pub(super) async fn remove(router: &Router, claims: &Claims, waiting: &[Arc<Attempt>]) {
    let locks: HashMap<&str, &Arc<Attempt>> = waiting.iter().map(|attempt| (&*attempt.name.lock, attempt)).collect();
    let attempts: Vec<_> = locks.into_values().collect();
    let inspect = |attempt: &&Arc<Attempt>| Op::Inspect(attempt.name.clone(), None);
    let answers = join_all(router.request(attempts.iter().map(inspect).collect())).await;
    let evictions = attempts.into_iter().zip(answers).filter_map(|(attempt, answer)| {
        let orphans = orphans(claims, attempt, Snapshot::read(answer.ok()?)?);
        (!orphans.is_empty()).then(|| Op::Evict(attempt.name.clone(), Some(orphans)))
    });
    // What fails is found again.
    join_all(router.request(evictions.collect())).await;
}

fn orphans(claims: &Claims, attempt: &Attempt, snapshot: Snapshot) -> Vec<ClaimId> {
    let holders = snapshot.claims.into_iter().zip(&snapshot.values);
    holders.filter(|(_, value)| is_orphan(claims, attempt, value)).map(|(id, _)| id).collect()
}
