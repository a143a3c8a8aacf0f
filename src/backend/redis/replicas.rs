//! Waiting for replicas, on a separate connection: the server delays everything else on it meanwhile.
//!
//! One task on the keeper asks, for all grants that meet. A caller only waits for its answer, so a caller that is not polled delays
//! no other.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::attempt::{Attempt, Won};
use super::batch::Batch;
use super::scripts::Op;
use super::{answers, error};
use crate::backend::{BackendError, Clock, Result};

/// The longest time to wait for replicas: less than the connection's patience.
const LIMIT: Duration = Duration::from_secs(1);

/// A grant that replicas have to confirm.
#[derive(Debug)]
struct Unconfirmed {
    attempt: Arc<Attempt>,
    won: Won,
    reply: oneshot::Sender<Result<Won>>,
}

/// Confirms that enough replicas have a lock.
#[derive(Debug)]
pub(super) struct Replicas {
    unconfirmed: UnboundedSender<Unconfirmed>,
}

impl Replicas {
    /// Also returns the future that confirms, to be run on the keeper. `batch` is for this only.
    pub(super) fn new(
        batch: Arc<Batch>,
        count: u32,
        limit: Duration,
        clock: Arc<dyn Clock>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (unconfirmed, receiver) = unbounded_channel();
        (Self { unconfirmed }, serve(receiver, batch, count, limit.min(LIMIT), clock))
    }

    /// Renews the hold, and waits until enough replicas have the renewal. Fails if there are too few in time.
    pub(super) async fn confirm(&self, attempt: &Arc<Attempt>, won: Won) -> Result<Won> {
        let (reply, answer) = oneshot::channel();
        // The task ends only with the manager.
        let _ = self.unconfirmed.send(Unconfirmed { attempt: attempt.clone(), won, reply });
        answer.await.unwrap_or_else(|_| Err(error::closed()))
    }
}

/// One `WAIT` after another: the server would delay a second one as well, and its answer would seem overdue.
async fn serve(
    mut queue: UnboundedReceiver<Unconfirmed>,
    batch: Arc<Batch>,
    count: u32,
    limit: Duration,
    clock: Arc<dyn Clock>,
) {
    while let Some(first) = queue.recv().await {
        let mut together = vec![first];
        while let Ok(more) = queue.try_recv() {
            together.push(more);
        }
        // The callers of these have left.
        together.retain(|grant| !grant.reply.is_closed());
        let dated = clock.now();
        let ops = together.iter().map(|grant| Op::Renew(grant.attempt.clone(), grant.won.epoch)).collect();
        let answers = batch.request(ops).await;
        let mut renewed = Vec::with_capacity(together.len());
        for (Unconfirmed { attempt, won, reply }, answer) in together.into_iter().zip(answers) {
            let refused = match answer {
                Ok(answer) if answers::found(&answer) => {
                    renewed.push((Won { dated, ttl: attempt.ttl, ..won }, reply));
                    continue;
                }
                Ok(_) => error::lost(batch.server()),
                Err(error) => error,
            };
            // A caller that has left does not need it.
            let _ = reply.send(Err(refused));
        }
        let Some(longest) = renewed.iter().map(|(won, _)| won.ttl).max() else { continue };
        let confirmed = wait(&batch, count, limit.min(longest / 4)).await;
        for (won, reply) in renewed {
            let _ = reply.send(confirmed.clone().map(|()| won));
        }
    }
}

/// `WAIT` is about the writes of its own connection: it waits for the renewals before it, which are later than the grants.
async fn wait(batch: &Batch, count: u32, limit: Duration) -> std::result::Result<(), BackendError> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(count).arg(u64::try_from(limit.as_millis()).unwrap_or_default().max(1));
    match batch.command(wait).await? {
        Value::Int(found) if found >= i64::from(count) => Ok(()),
        Value::Int(found) => Err(error::too_few(batch.server(), found, count)),
        _ => Err(error::malformed(batch.server())),
    }
}
