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

/// The address of a server, or of the servers from which it is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp {
        host: String,
        port: u16,
        tls: Option<Tls>,
    },
    Unix(PathBuf),
    /// The master that these sentinels name.
    Sentinel {
        sentinels: Vec<Node>,
        master: String,
        /// The account at the sentinels.
        account: Account,
        /// To the sentinels and to the master.
        tls: Option<Tls>,
    },
    /// The masters of the cluster that has these nodes.
    Cluster {
        nodes: Vec<Node>,
        tls: Option<Tls>,
    },
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
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
        let Self::Server(server) = self else { return false };
        match &server.address {
            Address::Tcp { tls, .. } | Address::Sentinel { tls, .. } | Address::Cluster { tls, .. } => tls.is_some(),
            Address::Unix(_) => false,
        }
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
            Self::Server(server) => write!(f, "{}", server.address),
            Self::Client(client) => write!(f, "{}", client.get_connection_info().addr()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Sentinel { sentinels, master, .. } => write!(f, "{}, master {master}", list(sentinels)),
            Self::Cluster { nodes, .. } => write!(f, "{}", list(nodes)),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn list(nodes: &[Node]) -> String {
    nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(",")
}
