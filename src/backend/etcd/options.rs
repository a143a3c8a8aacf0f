//! The options of a connection.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "etcd-tls")]
use super::tls::Tls;
use crate::backend::Account;

/// The shortest TTL of a lease: etcd counts in seconds.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(1);

/// The upper bound of all durations: longer than any wait, and short enough to be added to a time.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The options of a connection to etcd.
#[derive(Clone)]
pub(crate) struct Options {
    /// The endpoints, each `host:port`.
    pub(crate) endpoints: Vec<String>,
    /// The account, if authentication is used.
    pub(crate) account: Account,
    /// The prefix of all names on the server.
    pub(crate) prefix: String,
    /// The time limit of a request, including its retries.
    pub(crate) timeout: Duration,
    /// The interval at which a waiter polls the server while its watch is down.
    pub(crate) retry_interval: Duration,
    /// The files for TLS. `None` is plain HTTP.
    #[cfg(feature = "etcd-tls")]
    pub(crate) tls: Option<Tls>,
}

/// Without secrets.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
