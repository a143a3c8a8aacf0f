//! The options of a manager, from a URL, a `Config` or a builder, with one validation.

mod duration;
mod url;

#[cfg(test)]
mod tests;

#[cfg(feature = "config")]
pub(crate) use self::duration::parse as parse_duration;
#[cfg(feature = "config")]
pub(crate) use self::url::endpoint;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::display::has_control;
use crate::error::{LockError, Result};

/// The maximum TTL.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum that the low bits of a token can count.
const MAX_HANDOVERS: u16 = (1 << crate::token::HANDOVER_BITS) - 1;
/// The maximum length of prefixes and names, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// The kind of store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// In this process: one store per name, or a private one without a name.
    Memory {
        name: Option<String>,
    },
    Etcd,
    Redis,
}

impl BackendKind {
    /// Its name in errors.
    fn word(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
        }
    }

    /// The prefix if none is given.
    fn default_prefix(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "",
            Self::Etcd => "leasehold/",
            Self::Redis => "lock:",
        }
    }

    fn check_prefix(&self, prefix: &str, signal_lists: bool) -> Result<()> {
        if *self != Self::Redis {
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

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[cfg(any(test, feature = "etcd", feature = "redis"))]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
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
            backend: BackendKind::Memory { name: None },
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
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` that names the invalid part and never shows a possible password; `Unsupported` for Redis Cluster and
    /// Sentinel.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let settings = url::parse(url)?;
        // The minimum TTL depends on the backend, and a builder may still change the TTL.
        settings.validate(Duration::ZERO)?;
        Ok(settings)
    }

    /// The effective prefix.
    pub(crate) fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_else(|| self.backend.default_prefix())
    }

    /// The effective prefix for a backend that is not the one of these settings.
    #[cfg(feature = "redis")]
    pub(crate) fn prefix_for(&self, backend: &BackendKind) -> Result<&str> {
        let prefix = self.prefix.as_deref().unwrap_or_else(|| backend.default_prefix());
        backend.check_prefix(prefix, self.signal_lists)?;
        Ok(prefix)
    }

    /// Checks all options, from whichever source.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` that names the option.
    pub(crate) fn validate(&self, min_ttl: Duration) -> Result<()> {
        check_ttl(self.ttl, min_ttl)?;
        check_timeout(self.timeout)?;
        check_retry_interval(self.retry_interval)?;
        if let Some(max_hold) = self.max_hold {
            check_max_hold(max_hold)?;
        }
        if self.handover.max_count > MAX_HANDOVERS {
            return Err(LockError::config(format!("hand_over_times: at most {MAX_HANDOVERS}")));
        }
        if let Some(prefix) = &self.prefix {
            check_text("prefix", prefix)?;
        }
        if let Some(name) = &self.name {
            if name.is_empty() {
                return Err(LockError::config("name: must not be empty"));
            }
            check_text("name", name)?;
        }
        self.check_address()?;
        self.check_credentials()?;
        self.check_tls()
    }

    fn check_address(&self) -> Result<()> {
        let word = self.backend.word();
        let (endpoints, unix) = (self.endpoints.len(), self.unix_path.is_some());
        let fits = match self.backend {
            BackendKind::Memory { .. } => endpoints == 0 && !unix,
            BackendKind::Etcd => endpoints > 0 && !unix,
            BackendKind::Redis => endpoints + usize::from(unix) == 1,
        };
        if !fits {
            let wants = match self.backend {
                BackendKind::Memory { .. } => "no host",
                BackendKind::Etcd => "at least one host",
                BackendKind::Redis => "exactly one host or socket",
            };
            return Err(LockError::config(format!("{word}: expects {wants}")));
        }
        if self.database.is_some() && self.backend != BackendKind::Redis {
            return Err(LockError::config(format!("database: not supported by {word}")));
        }
        self.backend.check_prefix(self.prefix(), self.signal_lists)
    }

    fn check_credentials(&self) -> Result<()> {
        match (&self.backend, &self.username, &self.password) {
            (_, None, None) => Ok(()),
            (BackendKind::Memory { .. }, ..) => Err(LockError::config("username: not supported by memory")),
            (_, Some(_), None) => Err(LockError::config("password: required with a username")),
            (BackendKind::Etcd, None, Some(_)) => Err(LockError::config("username: required with a password")),
            (_, _, Some(_)) => Ok(()),
        }
    }

    fn check_tls(&self) -> Result<()> {
        if self.tls && (self.unix_path.is_some() || matches!(self.backend, BackendKind::Memory { .. })) {
            return Err(LockError::config("tls: requires a network connection"));
        }
        for (option, file) in [("ca", &self.ca), ("cert", &self.cert), ("key", &self.key)] {
            if let Some(file) = file {
                if !self.tls {
                    return Err(LockError::config(format!(
                        "{option}: requires TLS (etcds://, rediss://, or tls in a Config)"
                    )));
                }
                if file.as_os_str().is_empty() {
                    return Err(LockError::config(format!("{option}: must not be empty")));
                }
            }
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => Err(LockError::config("key: required with cert")),
            (None, Some(_)) => Err(LockError::config("cert: required with key")),
            _ => Ok(()),
        }
    }
}

/// Checks a TTL against the backend's minimum.
pub(crate) fn check_ttl(ttl: Duration, min: Duration) -> Result<()> {
    if ttl.is_zero() {
        Err(LockError::config("ttl: must be longer than zero"))
    } else if ttl > MAX_TTL {
        Err(LockError::config(format!("ttl: {ttl:?} is longer than the maximum, one day")))
    } else if ttl < min {
        Err(LockError::config(format!("ttl: {ttl:?} is shorter than the backend's minimum, {min:?}")))
    } else {
        Ok(())
    }
}

/// Checks the time limit for connecting and for calls that have no separate limit.
pub(crate) fn check_timeout(timeout: Duration) -> Result<()> {
    check_not_zero("timeout", timeout)
}

/// Checks the polling interval of a waiter.
pub(crate) fn check_retry_interval(interval: Duration) -> Result<()> {
    check_not_zero("retry_interval", interval)
}

/// Checks the maximum age of a hold.
pub(crate) fn check_max_hold(age: Duration) -> Result<()> {
    check_not_zero("max_hold", age)
}

fn check_not_zero(option: &str, duration: Duration) -> Result<()> {
    if duration.is_zero() { Err(LockError::config(format!("{option}: must be longer than zero"))) } else { Ok(()) }
}

fn check_text(option: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT_BYTES {
        Err(LockError::config(format!("{option}: at most {MAX_TEXT_BYTES} bytes")))
    } else if has_control(text) {
        Err(LockError::config(format!("{option}: must not contain control characters")))
    } else {
        Ok(())
    }
}
