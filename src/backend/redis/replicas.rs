//! Waiting for replicas, on a separate connection: the server delays everything else on it meanwhile.
//!
//! One task on the keeper asks, for all grants that meet. A caller only waits for its answer, so a caller that is not polled delays
//! no other.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use redis::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::attempt::Attempt;
use super::batch::Batch;
use super::place::Won;
use super::scripts::Op;
use super::{answers, error};
use crate::backend::{Clock, ErrorKind, Result};

/// The longest time to wait for replicas: less than the connection's patience.
const LIMIT: Duration = Duration::from_secs(1);

/// A hold that replicas have to confirm.
#[derive(Debug)]
struct Unconfirmed {
    attempt: Arc<Attempt>,
    epoch: u64,
    reply: oneshot::Sender<Result<Won>>,
}

/// Confirms that enough replicas have a lock.
#[derive(Clone, Debug)]
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

    /// Renews a hold, and waits until enough replicas have the renewal.
    ///
    /// # Errors
    ///
    /// [`Unreachable`](ErrorKind::Unreachable) if there are too few in time: a master that was deposed may go on answering.
    pub(super) async fn confirm(&self, attempt: &Arc<Attempt>, epoch: u64) -> Result<Won> {
        let (reply, answer) = oneshot::channel();
        // The task ends only with the manager.
        let _ = self.unconfirmed.send(Unconfirmed { attempt: attempt.clone(), epoch, reply });
        answer.await.unwrap_or_else(|_| Err(error::closed()))
    }

    /// The same. Returns whether the attempt still held the lock.
    pub(super) async fn renew(&self, attempt: &Arc<Attempt>, epoch: u64) -> Result<bool> {
        match self.confirm(attempt, epoch).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(false),
            renewed => renewed.map(|_| true),
        }
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
        together.retain(|hold| !hold.reply.is_closed());
        let (dated, reconnects) = (clock.now(), batch.reconnects());
        let ops = together.iter().map(|hold| Op::Renew(hold.attempt.clone(), hold.epoch)).collect();
        let answers = join_all(batch.request(ops)).await;
        let mut renewed = Vec::with_capacity(together.len());
        for (Unconfirmed { attempt, epoch, reply }, answer) in together.into_iter().zip(answers) {
            let refused = match answer {
                Ok(answer) if answers::found(&answer) => {
                    renewed.push((Won { epoch, dated, ttl: attempt.ttl }, reply));
                    continue;
                }
                Ok(_) => error::lost(batch.server()),
                Err(error) => error,
            };
            // A caller that has left does not need it.
            let _ = reply.send(Err(refused));
        }
        let Some(longest) = renewed.iter().map(|(won, ..)| won.ttl).max() else { continue };
        let found = wait(&batch, count, limit.min(longest / 4)).await;
        // Another master knows nothing of these renewals, and its replicas have all that it has.
        let found = if batch.reconnects() == reconnects { found } else { Err(error::broken(batch.server())) };
        for (won, reply) in renewed {
            let confirmed = match &found {
                Ok(found) if *found >= i64::from(count) => Ok(won),
                Ok(found) => Err(error::too_few(batch.server(), *found, count)),
                Err(error) => Err(error.clone()),
            };
            let _ = reply.send(confirmed);
        }
    }
}

/// `WAIT` is about the writes of its own connection: it waits for the renewals before it, which are later than the grants. Returns how
/// many replicas have them.
async fn wait(batch: &Batch, count: u32, limit: Duration) -> Result<i64> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(count).arg(u64::try_from(limit.as_millis()).unwrap_or_default().max(1));
    match batch.command(wait).await? {
        Value::Int(found) => Ok(found),
        _ => Err(error::malformed(batch.server())),
    }
}
