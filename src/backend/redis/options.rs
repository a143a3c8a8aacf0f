//! How to reach a Redis server, and what is required of it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis::Client;

use super::tls::Tls;
use crate::backend::{Account, Result};
use crate::credentials::Credentials;

/// The options of one manager's backend.
#[derive(Debug)]
pub(crate) struct Options {
    /// The server.
    pub(crate) target: Target,
    /// The prefix of all names of locks.
    pub(crate) prefix: String,
    /// The time limit of connecting.
    pub(crate) timeout: Duration,
    /// The number of replicas that must have a lock before it is returned; 0 for none.
    pub(crate) min_replicas: u32,
    /// Whether to wake the waiters of python-redis-lock.
    pub(crate) signal_lists: bool,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16, tls: Option<Tls> },
    Unix(PathBuf),
}

/// A server and an account there.
#[derive(Clone)]
pub(crate) enum Target {
    Server(Server),
    /// A client that the user configured.
    Client(Box<Client>),
}

/// A server and an account there, from settings. Managers with equal ones share their connections.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) account: Account,
    pub(crate) database: u32,
}

impl Target {
    /// Returns the credentials for the next connection, except for a client that the user configured, which has its own.
    pub(super) async fn credentials(&self, limit: Duration) -> Result<Option<Credentials>> {
        match self {
            Self::Server(server) => server.account.credentials(limit).await,
            Self::Client(_) => Ok(None),
        }
    }

    pub(super) fn uses_tls(&self) -> bool {
        matches!(self, Self::Server(Server { address: Address::Tcp { tls: Some(_), .. }, .. }))
    }
}

/// Without secrets.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.to_string()).finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(Server { address: Address::Tcp { host, port, .. }, .. }) => write!(f, "{host}:{port}"),
            Self::Server(Server { address: Address::Unix(path), .. }) => write!(f, "{}", path.display()),
            Self::Client(client) => write!(f, "{}", client.get_connection_info().addr()),
        }
    }
}
