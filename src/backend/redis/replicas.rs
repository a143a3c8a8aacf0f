//! Waiting for replicas, on a connection apart: the server holds up all else that comes on it.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::Mutex;

use super::attempt::{Attempt, Won};
use super::connection::Connection;
use super::failure;
use super::scripts::{self, Part};
use crate::backend::{Clock, Result};

/// The longest that replicas are waited for: less than the connection's patience.
const LIMIT: Duration = Duration::from_secs(1);

/// Asks how many replicas have a lock.
#[derive(Debug)]
pub(super) struct Replicas {
    connection: Arc<Connection>,
    wanted: u32,
    limit: Duration,
    /// One after another: the server would keep the second one waiting as well, and its answer would seem overdue.
    turn: Mutex<()>,
}

impl Replicas {
    pub(super) fn new(connection: Arc<Connection>, wanted: u32, limit: Duration) -> Self {
        Self { connection, wanted, limit: limit.min(LIMIT), turn: Mutex::new(()) }
    }

    /// Renews the hold, and waits until that has got to as many replicas as are wanted. Fails if there are too few in time.
    ///
    /// `WAIT` is about what its own connection has written, so it is this renewal that it waits for, which is later than the grant.
    pub(super) async fn confirm(&self, attempt: &Arc<Attempt>, won: Won, clock: &dyn Clock) -> Result<Won> {
        let dated = clock.now();
        let limit = self.limit.min(attempt.ttl / 4);
        let renewed = self.connection.request_one(Part::Renew(attempt.clone(), won.epoch)).await?;
        if scripts::text(&renewed) != Some("1") {
            return Err(failure::lost(self.connection.server()));
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.wanted).arg(u64::try_from(limit.as_millis()).unwrap_or_default().max(1));
        let _turn = self.turn.lock().await;
        match self.connection.command(wait).await? {
            Value::Int(found) if found >= i64::from(self.wanted) => Ok(Won { dated, ttl: attempt.ttl, ..won }),
            Value::Int(found) => Err(failure::too_few(self.connection.server(), found, self.wanted)),
            _ => Err(failure::nonsense(self.connection.server())),
        }
    }
}
