//! The parts of one manager's backend, and how they are connected.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

use super::acquire::Acquirer;
use super::batch::Batcher;
use super::blockers::Blockers;
use super::claims::Claims;
use super::connection::Connection;
use super::inspect::Inspector;
use super::leases::Leases;
use super::looks::Looks;
use super::losses::Losses;
use super::names::Names;
use super::options::FOREVER;
use super::release::{Releaser, send_begun};
use super::session::Sessions;
use super::value::Writer;
use crate::backend::Clock;

/// The shortest interval at which a waiter polls.
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// The parts of one manager's backend.
pub(super) struct Parts {
    pub(super) connection: Arc<Connection>,
    pub(super) leases: Arc<Leases>,
    pub(super) acquirer: Acquirer,
    pub(super) releaser: Arc<Releaser>,
    pub(super) inspector: Inspector,
    pub(super) losses: Arc<Losses>,
    tasks: [AbortHandle; 4],
}

impl Parts {
    /// Creates the parts, and starts their tasks.
    pub(super) fn start(
        connection: Arc<Connection>,
        prefix: String,
        retry_interval: Duration,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let names = Names::new(prefix);
        let writer = Writer::new(format!("{:016x}", rand::random::<u64>()));
        let (sessions, claims) = (Arc::<Sessions>::default(), Arc::<Claims>::default());
        let (losses, tasks) = Losses::start(connection.clone(), sessions.clone(), claims.clone());
        let batcher = Arc::new(Batcher::new(connection.clone(), claims.clone()));
        let leases = Arc::new(Leases::new(connection.clone(), names.clone(), clock, writer, sessions, losses.clone()));
        let releaser = Arc::new(Releaser::new(
            connection.clone(),
            names.clone(),
            claims.clone(),
            batcher.clone(),
            leases.clone(),
            losses.clone(),
        ));
        let sending = send_begun(claims.releases().clone(), Arc::downgrade(&releaser));
        let [grants, notices, restores] = tasks;
        let tasks = [grants, notices, restores, connection.handle().spawn(sending).abort_handle()];
        let acquirer = Acquirer {
            connection: connection.clone(),
            names: names.clone(),
            retry_interval: retry_interval.clamp(MIN_RETRY_INTERVAL, FOREVER),
            claims: claims.clone(),
            batcher,
            leases: leases.clone(),
            losses: losses.clone(),
            releaser: releaser.clone(),
            blockers: Blockers::default(),
            looks: Looks::new(connection.clone()),
        };
        let inspector = Inspector::new(connection.clone(), names, claims);
        Arc::new(Self { connection, leases, acquirer, releaser, inspector, losses, tasks })
    }

    /// Ends the tasks and the watches. Other managers may share the connection, so it stays.
    pub(super) fn stop(&self) {
        self.losses.close();
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
