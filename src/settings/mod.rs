//! The options of a manager, from a URL, a `Config` or a builder, with one validation.

mod duration;
mod options;
#[cfg(test)]
mod tests;
mod url;
mod validation;

use std::path::PathBuf;
use std::time::Duration;

#[cfg(any(feature = "serde", feature = "cli"))]
pub(crate) use self::duration::{EXPECTED as EXPECTED_DURATION, parse as parse_duration};
pub(crate) use self::options::Bound;
#[cfg(feature = "serde")]
pub(crate) use self::options::parse_permissions;
#[cfg(all(test, feature = "config", feature = "redis"))]
pub(crate) use self::options::{OPTIONS, Place};
#[cfg(feature = "serde")]
pub(crate) use self::url::endpoint;
pub(crate) use self::validation::{check_ttl, validate};
use crate::credentials::{CredentialsSource, Secret};
use crate::error::Result;

/// The maximum that the low bits of a token can count.
const MAX_HANDOVERS: u16 = (1 << crate::token::HANDOVER_BITS) - 1;

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Memory,
    Etcd,
    Redis,
    File,
}

impl BackendKind {
    /// Its name in a `Config` and in errors.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::File => "file",
        }
    }

    /// The prefix if none is given.
    fn default_prefix(self) -> &'static str {
        match self {
            Self::Memory | Self::File => "",
            Self::Etcd => "leasehold/",
            Self::Redis => "lock:",
        }
    }
}

/// The limits of local handovers, after which the key goes back through the server's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handover {
    /// Since the backend's grant; zero turns local handovers off.
    pub(crate) max_time: Duration,
    /// In a row; zero turns local handovers off.
    pub(crate) max_count: u16,
}

impl Default for Handover {
    fn default() -> Self {
        Self { max_time: Duration::from_millis(10), max_count: MAX_HANDOVERS }
    }
}

/// The options of a manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) backend: BackendKind,
    /// Memory only: the name of a store in this process; `None` for a private one.
    pub(crate) store: Option<String>,
    /// File only: the directory, an absolute path.
    pub(crate) directory: Option<PathBuf>,
    /// File only: the permissions of the directory if it has to be made.
    pub(crate) mode: Option<u32>,
    /// Each `host:port`, IPv6 addresses in brackets.
    pub(crate) endpoints: Vec<String>,
    /// Redis only: whether the endpoints are nodes of a cluster.
    pub(crate) cluster: bool,
    /// Redis only: the name of the master that the endpoints, which are sentinels, watch.
    pub(crate) master: Option<String>,
    /// Redis only: the account at the sentinels.
    pub(crate) sentinel_username: Option<String>,
    pub(crate) sentinel_password: Option<Secret>,
    /// Redis only, instead of an endpoint.
    pub(crate) unix_path: Option<PathBuf>,
    /// Redis only.
    pub(crate) database: Option<u32>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    /// The file that has the password instead, read at each connection.
    pub(crate) password_file: Option<PathBuf>,
    /// The callback that returns the account instead, asked at each connection.
    pub(crate) credentials: Option<CredentialsSource>,
    pub(crate) tls: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// `None` is the backend's default, `Some("")` no prefix: see [`prefix`](Self::prefix).
    pub(crate) prefix: Option<String>,
    pub(crate) ttl: Duration,
    /// For connecting, and for each call that has no separate limit.
    pub(crate) timeout: Duration,
    pub(crate) name: Option<String>,
    pub(crate) retry_interval: Duration,
    /// Zero is no limit.
    pub(crate) max_retries: u32,
    pub(crate) auto_renew: bool,
    pub(crate) max_hold: Option<Duration>,
    /// Whether an owner can lock again a key that it holds.
    pub(crate) reentrant: bool,
    pub(crate) handover: Handover,
    /// How long dropping the last clone of the manager waits for its releases.
    pub(crate) drop_wait: Duration,
    /// Redis only: the number of replicas that must confirm a lock.
    pub(crate) min_replicas: u32,
    /// Redis only: whether the waiters of python-redis-lock are notified.
    pub(crate) signal_lists: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: BackendKind::Memory,
            store: None,
            directory: None,
            mode: None,
            endpoints: Vec::new(),
            cluster: false,
            master: None,
            sentinel_username: None,
            sentinel_password: None,
            unix_path: None,
            database: None,
            username: None,
            password: None,
            password_file: None,
            credentials: None,
            tls: false,
            ca: None,
            cert: None,
            key: None,
            prefix: None,
            ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            name: None,
            retry_interval: Duration::from_millis(100),
            max_retries: 0,
            auto_renew: true,
            max_hold: None,
            reentrant: true,
            handover: Handover::default(),
            drop_wait: Duration::from_secs(1),
            min_replicas: 0,
            signal_lists: false,
        }
    }
}

impl Settings {
    /// Parses a URL, without checking what a builder may still change.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` that names the invalid part and never shows a possible password.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        url::parse(url)
    }

    /// Sets the account. Empty texts are a template without values; a user with an empty password has one.
    pub(crate) fn set_account(&mut self, username: Option<String>, password: Option<Secret>) {
        self.username = username.filter(|username| !username.is_empty());
        self.password = password.filter(|password| !password.expose().is_empty() || self.username.is_some());
    }

    /// Returns the effective prefix on this backend.
    pub(crate) fn prefix(&self, backend: BackendKind) -> &str {
        self.prefix.as_deref().unwrap_or_else(|| backend.default_prefix())
    }
}
