//! Looks at the claims that waiters wait behind: many in one request.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbRangeResponse;
use etcd_client::{Txn, TxnOp};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::position::{Freshness, SeenClaim, keys_only};
use super::txn::{self};
use crate::backend::{ErrorKind, Result};

/// How long the first look waits for others.
const TOGETHER: Duration = Duration::from_millis(50);

/// The looks of one manager.
#[derive(Debug)]
pub(super) struct Looks {
    connection: Arc<Connection>,
    /// Those of the next request.
    waiting: Mutex<Vec<Look>>,
}

/// A claim that may have changed.
#[derive(Debug)]
struct Look {
    claim: SeenClaim,
    /// Receives whether it is known to have changed.
    answer: oneshot::Sender<bool>,
}

impl Looks {
    pub(super) fn new(connection: Arc<Connection>) -> Arc<Self> {
        Arc::new(Self { connection, waiting: Mutex::default() })
    }

    /// Returns whether a claim is known to have been removed, or touched if it waited. Reads no ranges: the sorted ranges of a thousand waiters would overload the
    /// server.
    pub(super) async fn has_changed(self: &Arc<Self>, claim: &SeenClaim) -> bool {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiting = self.waiting.lock();
            waiting.push(Look { claim: claim.clone(), answer });
            waiting.len() == 1
        };
        if is_first {
            let looks = self.clone();
            // On the keeper: the first caller may be dropped, or not be polled.
            self.connection.handle().spawn(async move {
                tokio::time::sleep(TOGETHER).await;
                let waiting = std::mem::take(&mut *looks.waiting.lock());
                looks.look(waiting).await;
            });
        }
        answered.await.unwrap_or(false)
    }

    /// Looks at these claims. What is not known after it is asked again by the next polls.
    async fn look(&self, mut left: Vec<Look>) {
        left.retain(|look| !look.answer.is_closed());
        let limits = self.connection.limits();
        let mut most = left.len();
        while let Some(first) = left.first() {
            let room = limits.operations().min(limits.bytes() / txn::bytes_of_deletion(&first.claim.claim.name));
            let rest = left.split_off(most.min(room).clamp(1, left.len()));
            let asked = std::mem::replace(&mut left, rest);
            match self.have_changed(&asked).await {
                Ok(changed) => {
                    most = most.saturating_mul(2);
                    for (look, changed) in asked.into_iter().zip(changed) {
                        // A caller that has left does not need it.
                        let _ = look.answer.send(changed);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => return,
                // Too large, or one of them may not be read.
                Err(_) if asked.len() > 1 => {
                    most = asked.len() / 2;
                    left = asked.into_iter().chain(left).collect();
                }
                Err(_) => {}
            }
        }
    }

    /// Returns which of these claims have changed.
    async fn have_changed(&self, looks: &[Look]) -> Result<Vec<bool>> {
        let limit = self.connection.patience(self.connection.timeout());
        let has_changed = |look: &Look, found: &PbRangeResponse| !found.kvs.iter().any(|found| look.claim.is(found));
        if let [only] = looks {
            let found = self.connection.key_once(limit, Freshness::Linearizable, &only.claim.claim.name).await?;
            return Ok(vec![has_changed(only, &found)]);
        }
        let answer = self.connection.txn_here(limit, compare(looks.iter().map(|look| &look.claim))).await?;
        if answer.succeeded {
            return Ok(vec![false; looks.len()]);
        }
        Ok(looks.iter().zip(txn::ranges(answer)).map(|(look, found)| has_changed(look, &found)).collect())
    }
}

/// Compares the claims, and reads them unless all are unchanged.
///
/// ⚠ A transaction without a read that is linearizable would be answered by the member's state, which may lag behind.
fn compare<'a>(claims: impl Iterator<Item = &'a SeenClaim> + Clone) -> Txn {
    let options = Some(keys_only(Freshness::Linearizable));
    let when: Vec<_> = claims.clone().map(SeenClaim::is_unchanged).collect();
    let or_else: Vec<_> = claims.map(|claim| TxnOp::get(&*claim.claim.name, options.clone())).collect();
    Txn::new().when(when).or_else(or_else)
}
