//! Waiting for replicas, on a connection apart: the server holds up all else that comes on it.
//!
//! One task on the keeper asks, for all grants that meet at once. A caller only waits for its answer, so a caller that is not
//! polled holds nothing up.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::attempt::{Attempt, Won};
use super::batch::Batch;
use super::error;
use super::scripts::{self, Op};
use crate::backend::{BackendError, Clock, Result};

/// The longest that replicas are waited for: less than the connection's patience.
const LIMIT: Duration = Duration::from_secs(1);

/// A grant that replicas have to confirm.
#[derive(Debug)]
struct Wanted {
    attempt: Arc<Attempt>,
    won: Won,
    reply: oneshot::Sender<Result<Won>>,
}

/// Asks how many replicas have a lock.
#[derive(Debug)]
pub(super) struct Replicas {
    wanted: UnboundedSender<Wanted>,
}

impl Replicas {
    /// Also returns what has to run on the keeper.
    pub(super) fn new(
        connection: Arc<Batch>,
        count: u32,
        limit: Duration,
        clock: Arc<dyn Clock>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = unbounded_channel();
        (Self { wanted: sender }, serve(receiver, connection, count, limit.min(LIMIT), clock))
    }

    /// Renews the hold, and waits until that has got to as many replicas as are wanted. Fails if there are too few in time.
    pub(super) async fn confirm(&self, attempt: &Arc<Attempt>, won: Won) -> Result<Won> {
        let (reply, answer) = oneshot::channel();
        // The task ends only with the manager.
        let _ = self.wanted.send(Wanted { attempt: attempt.clone(), won, reply });
        answer.await.unwrap_or_else(|_| Err(error::closed()))
    }
}

/// One after another: the server would keep the second `WAIT` waiting as well, and its answer would seem overdue.
async fn serve(
    mut queue: UnboundedReceiver<Wanted>,
    connection: Arc<Batch>,
    count: u32,
    limit: Duration,
    clock: Arc<dyn Clock>,
) {
    while let Some(first) = queue.recv().await {
        let mut together = vec![first];
        while let Ok(more) = queue.try_recv() {
            together.push(more);
        }
        // Nobody waits for these any more.
        together.retain(|wanted| !wanted.reply.is_closed());
        let dated = clock.now();
        let parts = together.iter().map(|wanted| Op::Renew(wanted.attempt.clone(), wanted.won.epoch)).collect();
        let answers = connection.request(parts).await;
        let mut renewed = Vec::with_capacity(together.len());
        for (Wanted { attempt, won, reply }, answer) in together.into_iter().zip(answers) {
            let refused = match answer {
                Ok(answer) if scripts::text(&answer) == Some("1") => {
                    renewed.push((Won { dated, ttl: attempt.ttl, ..won }, reply));
                    continue;
                }
                Ok(_) => error::lost(connection.server()),
                Err(error) => error,
            };
            // A caller that has gone does not need it.
            let _ = reply.send(Err(refused));
        }
        let Some(longest) = renewed.iter().map(|(won, _)| won.ttl).max() else { continue };
        let confirmed = wait(&connection, count, limit.min(longest / 4)).await;
        for (won, reply) in renewed {
            let _ = reply.send(confirmed.clone().map(|()| won));
        }
    }
}

/// `WAIT` is about what its own connection has written, so it is the renewals before it that it waits for: later than the grants.
async fn wait(connection: &Batch, count: u32, limit: Duration) -> std::result::Result<(), BackendError> {
    let mut wait = redis::cmd("WAIT");
    wait.arg(count).arg(u64::try_from(limit.as_millis()).unwrap_or_default().max(1));
    match connection.command(wait).await? {
        Value::Int(found) if found >= i64::from(count) => Ok(()),
        Value::Int(found) => Err(error::too_few(connection.server(), found, count)),
        _ => Err(error::malformed(connection.server())),
    }
}
