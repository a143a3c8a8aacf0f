//! The options of a manager, from a URL, a `Config` or a builder, with one validation.

mod duration;
mod options;
#[cfg(test)]
mod tests;
mod url;

use std::path::PathBuf;
use std::time::Duration;

#[cfg(any(feature = "serde", feature = "cli"))]
pub(crate) use self::duration::{EXPECTED as EXPECTED_DURATION, parse as parse_duration};
pub(crate) use self::options::{Bound, OPTIONS, Opt, Place};
#[cfg(feature = "serde")]
pub(crate) use self::url::endpoint;
use crate::credentials::Secret;
use crate::error::{LockError, Result};

/// The maximum TTL.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum that the low bits of a token can count.
const MAX_HANDOVERS: u16 = (1 << crate::token::HANDOVER_BITS) - 1;
/// The maximum length of prefixes and names, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    Memory,
    Etcd,
    Redis,
}

impl BackendKind {
    /// Its name in a `Config` and in errors.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
        }
    }

    /// The prefix if none is given.
    fn default_prefix(self) -> &'static str {
        match self {
            Self::Memory => "",
            Self::Etcd => "leasehold/",
            Self::Redis => "lock:",
        }
    }

    fn check_prefix(self, prefix: &str, signal_lists: bool) -> Result<()> {
        if self != Self::Redis {
            return Ok(());
        }
        // Side keys begin with a hash tag; keys with such a prefix could not be distinguished from them.
        if prefix.starts_with('{') {
            return Err(LockError::config("prefix: cannot begin with \"{\" on redis"));
        }
        // No other lock has such a list.
        if signal_lists && !prefix.starts_with("lock:") {
            return Err(LockError::config("signal_lists: requires a prefix that begins with \"lock:\""));
        }
        Ok(())
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
    /// Each `host:port`, IPv6 addresses in brackets.
    pub(crate) endpoints: Vec<String>,
    /// Redis only, instead of an endpoint.
    pub(crate) unix_path: Option<PathBuf>,
    /// Redis only.
    pub(crate) database: Option<u32>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
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
            endpoints: Vec::new(),
            unix_path: None,
            database: None,
            username: None,
            password: None,
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
    /// `InvalidConfig` that names the invalid part and never shows a possible password; `Unsupported` for Redis Cluster and
    /// Sentinel.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        url::parse(url)
    }

    /// Returns the effective prefix on this backend.
    pub(crate) fn prefix(&self, backend: BackendKind) -> &str {
        self.prefix.as_deref().unwrap_or_else(|| backend.default_prefix())
    }

    /// Checks all options, from whichever source, except the minimum of the TTL, which the backend determines: see [`check_ttl`].
    ///
    /// `backend` is the one in use, which may be that of a client that was passed to the builder.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` that names the option.
    pub(crate) fn validate(&self, backend: BackendKind) -> Result<()> {
        for option in OPTIONS {
            if option.is_set(self) {
                option.check_backend(if option.place == Place::Address { self.backend } else { backend })?;
            }
            option.check(self)?;
        }
        self.check_address()?;
        backend.check_prefix(self.prefix(backend), self.signal_lists)?;
        self.check_credentials()?;
        self.check_tls()
    }

    fn check_address(&self) -> Result<()> {
        let (endpoints, unix) = (self.endpoints.len(), self.unix_path.is_some());
        let (fits, expected) = match self.backend {
            BackendKind::Memory => (endpoints == 0, "no host"),
            BackendKind::Etcd => (endpoints > 0, "at least one host"),
            BackendKind::Redis => (endpoints + usize::from(unix) == 1, "exactly one host or socket"),
        };
        if fits { Ok(()) } else { Err(LockError::config(format!("{}: expects {expected}", self.backend.word()))) }
    }

    fn check_credentials(&self) -> Result<()> {
        match (self.backend, &self.username, &self.password) {
            (_, Some(_), None) => Err(LockError::config("password: required with a username")),
            (BackendKind::Etcd, None, Some(_)) => Err(LockError::config("username: required with a password")),
            _ => Ok(()),
        }
    }

    fn check_tls(&self) -> Result<()> {
        if self.tls && (self.unix_path.is_some() || self.backend == BackendKind::Memory) {
            return Err(LockError::config("tls: requires a network connection"));
        }
        for (option, file) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            if file.is_some() && !self.tls {
                return Err(LockError::config(format!(
                    "{option}: requires TLS (etcds://, rediss://, or tls in a Config)"
                )));
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => Err(LockError::config("key: required with cert")),
            (None, Some(_)) => Err(LockError::config("cert: required with key")),
            _ => Ok(()),
        }
    }
}

/// Checks a TTL, also against the backend's minimum.
pub(crate) fn check_ttl(ttl: Duration, min: Duration) -> Result<()> {
    Bound::Ttl.check("ttl", ttl)?;
    if ttl < min {
        return Err(LockError::config(format!("ttl: {ttl:?} is shorter than the backend's minimum, {min:?}")));
    }
    Ok(())
}
