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
    Watched(Box<Watched>),
    /// The masters of the cluster that has these nodes.
    Cluster {
        nodes: Vec<Node>,
        tls: Option<Tls>,
    },
}

/// A master that sentinels watch: they know where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) sentinels: Vec<Node>,
    /// The name of the master.
    pub(crate) master: String,
    /// The account at the sentinels.
    pub(crate) account: Account,
    /// To the sentinels and to the master.
    pub(crate) tls: Option<Tls>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// What a server is, and has to be by the way in which it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerKind {
    /// It has all keys.
    Standalone,
    /// A node of a cluster has a part of the keys only: calls for locks of different slots would fail, and their holds with them.
    Node,
    /// It has no keys.
    Sentinel,
}

impl ServerKind {
    /// Reads it from `INFO`.
    pub(super) fn of(info: &str) -> Self {
        // The second name is Valkey's.
        match field(info, "redis_mode:").or_else(|| field(info, "server_mode:")) {
            Some("cluster") => Self::Node,
            Some("sentinel") => Self::Sentinel,
            _ => Self::Standalone,
        }
    }
}

/// Returns the value of a field of `INFO`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
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
        matches!(self, Self::Server(server) if server.address.tls().is_some())
    }
}

impl Address {
    /// The files for TLS, if it is used.
    pub(super) fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Tcp { tls, .. } | Self::Cluster { tls, .. } => tls.as_ref(),
            Self::Watched(watched) => watched.tls.as_ref(),
            Self::Unix(_) => None,
        }
    }
}

impl Node {
    /// Reads what a server names; `None` if that cannot be the address of another one.
    pub(super) fn named(host: &str, port: u16) -> Option<Self> {
        let is_host =
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte));
        (is_host && port > 0).then(|| Self { host: host.to_owned(), port })
    }

    /// Returns the address of this one.
    pub(super) fn address(&self, tls: Option<&Tls>) -> Address {
        Address::Tcp { host: self.host.clone(), port: self.port, tls: tls.cloned() }
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
            Self::Watched(watched) => {
                write!(f, "{:?} of the sentinels {}", watched.master, list(&watched.sentinels))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_a_server_is_one() {
        for host in ["10.0.0.1", "::1", "fe80::1%eth0", "redis-0.redis_headless.example.org"] {
            assert_eq!(Node::named(host, 1), Some(Node { host: host.into(), port: 1 }), "{host}");
        }
        for (host, port) in
            [("", 1), ("a", 0), ("a b", 1), ("a\nb", 1), ("a\u{1b}[2J", 1), ("é", 1), ("a/b", 1), ("a@b", 1)]
        {
            assert_eq!(Node::named(host, port), None, "{host:?}:{port}");
        }
    }
}
