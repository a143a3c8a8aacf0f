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
use super::redirect::Redirect;
use super::reports::Report;
use super::requests::{MOST_REDIRECTS, NotServed, Way};
use super::scripts::Op;
use super::unconfirmed::Unconfirmed;
use super::{answers, error};
use crate::backend::{Clock, ErrorKind, Result};

/// The longest time to wait for replicas: less than the connection's patience.
const LIMIT: Duration = Duration::from_secs(1);

/// Another node has the lock, whose replicas have to confirm it.
fn follow(mut hold: Unconfirmed, redirect: Redirect, batch: &Batch) {
    hold.way = if matches!(redirect, Redirect::Ask(_)) { Way::Asking } else { Way::Together };
    hold.redirects += 1;
    match batch.membership().filter(|_| hold.redirects <= MOST_REDIRECTS) {
        Some(membership) => membership.report(Report::Confirm(redirect, hold)),
        None => hold.fail(error::broken(batch.server())),
    }
}

/// Confirms that enough replicas have a lock.
#[derive(Clone, Debug)]
pub(super) struct Replicas {
    server: String,
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
        let server = batch.server().to_owned();
        (Self { server, unconfirmed }, serve(receiver, batch, count, limit.min(LIMIT), clock))
    }

    /// Renews a hold, and waits until enough replicas have the renewal.
    ///
    /// # Errors
    ///
    /// [`Unreachable`](ErrorKind::Unreachable) if there are too few in time: a master that was deposed may go on answering.
    pub(super) async fn confirm(&self, attempt: &Arc<Attempt>, epoch: u64) -> Result<Won> {
        let (reply, answer) = oneshot::channel();
        self.request(Unconfirmed { attempt: attempt.clone(), epoch, reply, way: Way::Together, redirects: 0 });
        // The task ends with the manager, or when the node leaves its cluster.
        answer.await.unwrap_or_else(|_| Err(error::broken(&self.server)))
    }

    /// The same. Returns whether the attempt still held the lock.
    pub(super) async fn renew(&self, attempt: &Arc<Attempt>, epoch: u64) -> Result<bool> {
        match self.confirm(attempt, epoch).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(false),
            renewed => renewed.map(|_| true),
        }
    }

    /// Has a hold confirmed.
    pub(super) fn request(&self, hold: Unconfirmed) {
        // Otherwise the task has ended, and the reply is dropped.
        let _ = self.unconfirmed.send(hold);
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
        let renewal = |hold: &Unconfirmed| (Op::Renew(hold.attempt.clone(), hold.epoch), hold.way);
        let answers = join_all(batch.request_bound(together.iter().map(renewal))).await;
        let mut renewed = Vec::with_capacity(together.len());
        for (hold, answer) in together.into_iter().zip(answers) {
            match answer.unwrap_or_else(|_| Err(NotServed::Failed(error::closed()))) {
                Ok(answer) if answers::found(&answer) => renewed.push(hold),
                Ok(_) => hold.fail(error::lost(batch.server())),
                Err(NotServed::Elsewhere(redirect)) => follow(hold, redirect, &batch),
                Err(NotServed::Failed(error)) => hold.fail(error),
            }
        }
        let Some(longest) = renewed.iter().map(|hold| hold.attempt.ttl).max() else { continue };
        let found = wait(&batch, count, limit.min(longest / 4)).await;
        // Another master knows nothing of these renewals, and its replicas have all that it has.
        let found = if batch.reconnects() == reconnects { found } else { Err(error::broken(batch.server())) };
        for hold in renewed {
            let confirmed = match &found {
                Ok(found) if *found >= i64::from(count) => Ok(Won { epoch: hold.epoch, dated, ttl: hold.attempt.ttl }),
                Ok(found) => Err(error::too_few(batch.server(), *found, count)),
                Err(error) => Err(error.clone()),
            };
            let _ = hold.reply.send(confirmed);
        }
    }
}

/// `WAIT` is about the writes of its own connection: it waits for the renewals before it, which are later than the grants. Returns how
/// many replicas have them.
async fn wait(batch: &Batch, count: u32, limit: Duration) -> Result<i64> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(count).arg(u64::try_from(limit.as_millis()).unwrap_or_default().max(1));
    match batch.command(wait).await {
        Ok(Value::Int(found)) => Ok(found),
        Ok(_) => Err(error::malformed(batch.server())),
        // It has become a replica since.
        Err(error) if error.kind() == ErrorKind::Refused => Err(error::deposed(batch.server())),
        Err(error) => Err(error),
    }
}
