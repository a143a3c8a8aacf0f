//! [`Config`]: options as a serde struct.

#[cfg(feature = "config")]
mod load;
// Two attributes: clippy knows tests by the plain one.
#[cfg(test)]
#[cfg(feature = "config")]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use crate::credentials::Secret;
use crate::error::{LockError, Result};
use crate::settings::{self, BackendKind, Handover, Settings};

/// The options of a manager as a serde struct, for configuration files.
///
/// It has the options of a [URL](crate::LockManager::connect) and of the [builder](crate::LockManagerBuilder), with the same
/// defaults and checks, and is passed to [`LockManager::from_config`](crate::LockManager::from_config). It can be a field of a
/// program's configuration struct, as `Config` or `Option<Config>`; with the feature `config` it can also be loaded separately, by
/// `Config::load`. Durations are text: `"30s"`, `"100ms"`. The default is a private store in memory.
///
/// ```
/// # leasehold::doctest(async {
/// use leasehold::{Config, LockManager};
///
/// let config = Config { store: Some("jobs".into()), ttl: std::time::Duration::from_secs(10), ..Config::default() };
/// let manager = LockManager::from_config(config).await?;
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kind of store: `memory` (the default), `file`, `etcd` or `redis`.
    pub backend: String,
    /// Memory only: the name of a store that managers of this process share. Without it the store is private.
    pub store: Option<String>,
    /// File only: the directory of the locks, an absolute path.
    pub directory: Option<PathBuf>,
    /// File only: the octal permissions of the directory if it has to be made, `"0700"` (the default) or `"0770"` for a group.
    pub mode: Option<String>,
    /// The servers, each `host` or `host:port`; exactly one for Redis without `cluster` and `master`, none for memory.
    #[serde(deserialize_with = "hosts")]
    pub endpoints: Vec<String>,
    /// Redis only: whether the endpoints are nodes of a cluster.
    pub cluster: bool,
    /// Redis only: the name of the master that sentinels watch. The endpoints are then the sentinels.
    pub master: Option<String>,
    /// Redis only: the path of a Unix socket, instead of an endpoint.
    pub socket: Option<PathBuf>,
    /// Redis only: the number of the database.
    pub database: Option<u32>,
    /// The user name, if the server requires one.
    pub username: Option<String>,
    /// The password. In YAML, quote a password that is a number.
    pub password: Option<Secret>,
    /// The file that has the password instead; see
    /// [`LockManagerBuilder::password_file`](crate::LockManagerBuilder::password_file).
    pub password_file: Option<PathBuf>,
    /// With `master`: the user name at the sentinels, if they require one.
    pub sentinel_username: Option<String>,
    /// With `master`: the password at the sentinels.
    pub sentinel_password: Option<Secret>,
    /// Whether to use TLS.
    pub tls: bool,
    /// With TLS: the PEM file with the certificates of the trusted authorities.
    pub ca: Option<PathBuf>,
    /// With TLS: the PEM file with the client's certificate.
    pub cert: Option<PathBuf>,
    /// With TLS: the PEM file with the private key of the client's certificate.
    pub key: Option<PathBuf>,
    /// The prefix of all keys on the server; see [`LockManagerBuilder::prefix`](crate::LockManagerBuilder::prefix). An empty text
    /// means no prefix; if absent, the backend's default applies.
    pub prefix: Option<String>,
    /// The manager's name; if absent, the program's. See [`LockManagerBuilder::name`](crate::LockManagerBuilder::name).
    pub name: Option<String>,
    /// The TTL of the leases; see [`LockManagerBuilder::ttl`](crate::LockManagerBuilder::ttl).
    #[serde(deserialize_with = "duration")]
    pub ttl: Duration,
    /// The limit for connecting and for each call without a separate timeout, except `lock()`, which waits without limit.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often a waiter polls the server where notifications are not reliable.
    #[serde(deserialize_with = "duration")]
    pub retry_interval: Duration,
    /// Limits the wait of an acquire to this many times `retry_interval`; 0 is no limit.
    pub max_retries: u32,
    /// Whether leases are renewed in the background.
    pub auto_renew: bool,
    /// The maximum age of a hold, at which it is lost; if absent, unlimited.
    #[serde(deserialize_with = "some_duration")]
    pub max_hold: Option<Duration>,
    /// Whether an owner that holds a key can lock it again at once; if `false`, every acquire has a separate owner.
    pub reentrant: bool,
    /// How long after the server's grant a lock can pass to the next local waiter without a round trip; zero turns this off.
    #[serde(deserialize_with = "duration")]
    pub hand_over_time: Duration,
    /// The same as a number of consecutive handovers, at most 1,023; zero turns this off.
    pub hand_over_times: u16,
    /// How long dropping the last clone of the manager waits for the releases in flight; zero does not wait.
    #[serde(deserialize_with = "duration")]
    pub drop_wait: Duration,
    /// Redis only: the number of replicas that must confirm a lock before it is returned.
    pub min_replicas: u32,
    /// Redis only: whether a release notifies the waiters of the Python package `python-redis-lock`.
    pub signal_lists: bool,
}

impl Default for Config {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            backend: "memory".into(),
            store: None,
            directory: None,
            mode: None,
            endpoints: Vec::new(),
            cluster: false,
            master: None,
            socket: None,
            database: None,
            username: None,
            password: None,
            password_file: None,
            sentinel_username: None,
            sentinel_password: None,
            tls: false,
            ca: None,
            cert: None,
            key: None,
            prefix: None,
            name: None,
            ttl: settings.ttl,
            timeout: settings.timeout,
            retry_interval: settings.retry_interval,
            max_retries: settings.max_retries,
            auto_renew: settings.auto_renew,
            max_hold: settings.max_hold,
            reentrant: settings.reentrant,
            hand_over_time: settings.handover.max_time,
            hand_over_times: settings.handover.max_count,
            drop_wait: settings.drop_wait,
            min_replicas: settings.min_replicas,
            signal_lists: settings.signal_lists,
        }
    }
}

impl Config {
    /// The settings, the same as from a URL with these options.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let Self { backend, store, directory, mode, endpoints, socket, database, username, password, .. } = self;
        let Self { cluster, master, sentinel_username, sentinel_password, password_file, tls, ca, cert, key, .. } =
            self;
        let Self { prefix, name, ttl, timeout, retry_interval, max_retries, auto_renew, max_hold, .. } = self;
        let Self { reentrant, hand_over_time, hand_over_times, drop_wait, min_replicas, signal_lists, .. } = self;
        let (backend, port) = match &**backend {
            "memory" => (BackendKind::Memory, 0),
            "file" => (BackendKind::File, 0),
            "etcd" => (BackendKind::Etcd, 2379),
            "redis" if master.is_some() => (BackendKind::Redis, 26379),
            "redis" => (BackendKind::Redis, 6379),
            other => {
                // A URL in the wrong field may contain a password.
                let is_word = other.len() <= 20 && other.bytes().all(|byte| byte.is_ascii_alphanumeric());
                let shown = if is_word { format!(" {other:?}") } else { String::new() };
                let reason = format!("backend: unknown backend{shown}; known backends are memory, file, etcd, redis");
                return Err(LockError::config(reason));
            }
        };
        let endpoint = |text: &String| settings::endpoint(text, port, !text.contains('@'));
        let mut settings = Settings {
            backend,
            store: some_text(store),
            directory: directory.clone(),
            mode: mode.as_deref().map(settings::parse_permissions).transpose()?,
            endpoints: endpoints.iter().map(endpoint).collect::<Result<_>>()?,
            cluster: *cluster,
            master: master.clone(),
            sentinel_username: some_text(sentinel_username),
            sentinel_password: sentinel_password.clone().filter(|password| !password.expose().is_empty()),
            unix_path: socket.clone(),
            database: *database,
            username: None,
            password: None,
            password_file: password_file.clone(),
            credentials: None,
            tls: *tls,
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
            prefix: prefix.clone(),
            ttl: *ttl,
            timeout: *timeout,
            name: name.clone(),
            retry_interval: *retry_interval,
            max_retries: *max_retries,
            auto_renew: *auto_renew,
            max_hold: *max_hold,
            reentrant: *reentrant,
            handover: Handover { max_time: *hand_over_time, max_count: *hand_over_times },
            drop_wait: *drop_wait,
            min_replicas: *min_replicas,
            signal_lists: *signal_lists,
        };
        // Beside a file, an empty password is a template without a value.
        let is_given = |password: &Secret| !password.expose().is_empty() || password_file.is_none();
        settings.set_account(username.clone(), password.clone().filter(is_given));
        Ok(settings)
    }
}

/// A list of hosts. What is no list, a URL with a password for example, is not quoted.
fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    struct Hosts;

    impl<'de> Visitor<'de> for Hosts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of hosts")
        }

        fn visit_str<E: serde::de::Error>(self, _: &str) -> std::result::Result<Self::Value, E> {
            Err(E::custom("endpoints: expects a list of hosts, not a text"))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Self::Value, A::Error> {
            let mut hosts = Vec::new();
            while let Some(host) = list.next_element()? {
                hosts.push(host);
            }
            Ok(hosts)
        }
    }

    deserializer.deserialize_any(Hosts)
}

fn some_text(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Duration, D::Error> {
    parsed(&String::deserialize(deserializer)?)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(deserializer)?.as_deref().map(parsed).transpose()
}

fn parsed<E: serde::de::Error>(text: &str) -> std::result::Result<Duration, E> {
    let wrong = || E::custom(format_args!("{text:?} is not {}", settings::EXPECTED_DURATION));
    settings::parse_duration(text).ok_or_else(wrong)
}
