//! The connection for commands, which managers share.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::locator::{Located, Locator};
use super::options::{Server, ServerKind, Target};
use super::scripts::Scripts;
use super::{client, error, requirements};
use crate::backend::backoff::Backoff;
use crate::backend::shared::Pool;
use crate::backend::{ErrorKind, Result};
use crate::process::report::debug;

/// The longest time to wait for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A connection, and its generation: how often one was opened before it, from 1.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) generation: u64,
    pub(super) client: MultiplexedConnection,
    /// Where it leads to.
    pub(super) located: Located,
}

/// The current connection of all managers with one target. The first one to find it broken opens the next generation.
#[derive(Debug, Default)]
pub(super) struct SharedConnection(Mutex<Option<Connection>>);

impl SharedConnection {
    /// Returns the connection of all managers with this target, or a new one for a client that the user configured.
    pub(super) async fn of(target: &Target, handle: &Handle) -> Result<Arc<Self>> {
        static CONNECTIONS: Pool<Server, SharedConnection> = Pool::new();
        match target {
            Target::Server(server) => CONNECTIONS.get(handle.id(), server.clone(), async { Ok(Arc::default()) }).await,
            Target::Client(_) => Ok(Arc::default()),
        }
    }

    /// Returns the current connection, unless it is of generation `broken` or there is none; then `open` opens the next one.
    async fn get(
        &self,
        broken: u64,
        open: impl Future<Output = Result<(MultiplexedConnection, Located)>>,
    ) -> Result<Connection> {
        let mut current = self.0.lock().await;
        match &*current {
            Some(connection) if connection.generation != broken => Ok(connection.clone()),
            _ => {
                let (client, located) = open.await?;
                let connection = Connection { generation: broken + 1, client, located };
                *current = Some(connection.clone());
                Ok(connection)
            }
        }
    }
}

/// Opens one connection after another, and prepares each for a manager's requests.
#[derive(Debug)]
pub(super) struct Connector {
    locator: Locator,
    server: String,
    shared: Arc<SharedConnection>,
    scripts: Scripts,
    /// The id that the server has to have, in a cluster.
    node: Option<String>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(
        locator: Locator,
        shared: Arc<SharedConnection>,
        scripts: Scripts,
        node: Option<String>,
        timeout: Duration,
    ) -> Self {
        Self { server: locator.to_string(), locator, shared, scripts, node, timeout }
    }

    /// Returns the first connection. If another manager has opened it, the server must answer on it.
    pub(super) async fn open(&self) -> Result<Connection> {
        let mut broken = 0;
        match self.open_at(self.locator.locate(), &mut broken).await {
            // The other managers have not noticed yet that theirs is broken.
            Err(error) if error.kind() == ErrorKind::Unreachable && broken > 0 => {
                self.open_at(self.locator.locate(), &mut broken).await
            }
            opened => opened,
        }
    }

    /// Returns a connection of a later generation than `broken`, which is updated if that one does not work either. What leads to a
    /// server that was replaced meanwhile is given up at once.
    pub(super) async fn reopen(&self, broken: &mut u64, backoff: &mut Backoff) -> Result<Connection> {
        loop {
            let located = self.locator.locate();
            let opening = async {
                backoff.pause().await;
                self.open_at(located.clone(), broken).await
            };
            tokio::select! {
                biased;
                () = located.moved() => *backoff = Backoff::at_once(),
                opened = opening => return opened,
            }
        }
    }

    async fn open_at(&self, located: Located, broken: &mut u64) -> Result<Connection> {
        // The first connection has the whole time limit. Later ones have less: a packet that is lost now may arrive at the next try.
        let (connect_limit, prepare_limit) = match *broken {
            0 => (self.timeout, self.timeout / 2),
            _ => (self.timeout.min(PATIENCE), self.timeout),
        };
        let open = async {
            let account = located.target.credentials(self.timeout).await?;
            let connecting = client::connect(&located.target, account.as_ref());
            Ok((self.within(connect_limit, connecting).await?, located))
        };
        let connection = self.shared.get(*broken, open).await?;
        *broken = connection.generation;
        self.within(prepare_limit.min(PATIENCE), self.prepare(connection.clone())).await?;
        Ok(connection)
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(error::no_answer(&self.server, limit)))
    }

    async fn prepare(&self, Connection { mut client, located, .. }: Connection) -> Result<()> {
        let checking = async {
            if located.is_elected() {
                requirements::check_role(&located.target, &mut client).await?;
            }
            let kind = if self.node.is_some() { ServerKind::Node } else { ServerKind::Standalone };
            requirements::check(&located.target, kind, &mut client).await?;
            match &self.node {
                Some(id) => requirements::check_node(&located.target, id, &client).await,
                None => Ok(()),
            }
        };
        // The sentinels are asked once there is a connection: a master that was deposed while they were not would pass the checks.
        let (checked, is_confirmed) = tokio::join!(checking, located.is_confirmed());
        checked?;
        if !is_confirmed {
            return Err(error::deposed(&located.target.to_string()));
        }
        if let Err(error) = self.scripts.load().query_async::<()>(&mut client).await {
            // An account that may not load scripts sends each one with its first call.
            debug!(target: "leasehold::redis", "scripts not loaded: {}", error::of(&self.server, &error));
        }
        Ok(())
    }
}
