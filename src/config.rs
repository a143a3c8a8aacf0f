//! [`Config`]: options from a file and the environment.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use crate::error::{LockError, Result};
use crate::process::report::warn;
use crate::settings::{self, BackendKind, Handover, Secret, Settings};

/// The options of a manager as a serde struct, for configuration files.
///
/// It has the options of a [URL](crate::LockManager::connect) and of the [builder](crate::LockManagerBuilder), with the same
/// defaults and checks, and is passed to [`LockManager::from_config`](crate::LockManager::from_config). It can be a field of a
/// program's configuration struct, as `Config` or `Option<Config>`, or be [loaded](Self::load) separately. Durations are text:
/// `"30s"`, `"100ms"`. The default is a private store in memory.
///
/// ```
/// # leasehold::doctest(async {
/// use leasehold::{Config, LockManager};
///
/// let config = Config { store: Some("jobs".into()), ttl: std::time::Duration::from_secs(10), ..Config::default() };
/// let manager = LockManager::from_config(config).await?;
/// # Ok(()) });
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kind of store: `memory` (the default), `etcd` or `redis`.
    pub backend: String,
    /// Memory only: the name of a store that managers of this process share. Without it the store is private.
    pub store: Option<String>,
    /// The servers, each `host` or `host:port`; exactly one for Redis, none for memory.
    pub endpoints: Vec<String>,
    /// Redis only: the path of a Unix socket, instead of an endpoint.
    pub socket: Option<PathBuf>,
    /// Redis only: the number of the database.
    pub database: Option<u32>,
    /// The user name, if the server requires one.
    pub username: Option<String>,
    /// The password, which `Debug` does not show. In YAML, quote a password that is a number.
    pub password: Option<String>,
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
            endpoints: Vec::new(),
            socket: None,
            database: None,
            username: None,
            password: None,
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
    /// Loads the options from a file and the environment, and validates them.
    ///
    /// Environment variables override the file, and the file overrides the defaults.
    ///
    /// The file is YAML or TOML, according to its extension. `section` is the path of the options in it, `"locks"` or
    /// `"services.locks"` for example; an empty `section` means the whole file. A missing file or section is logged as a warning.
    ///
    /// The variables are `<ENV_PREFIX>_<SECTION>_<FIELD>` in upper case, `SHOP_LOCKS_RETRY_INTERVAL=50ms` for example; lists are
    /// separated by commas. An empty `env_prefix` or `section` is omitted from the name; if both are empty, the environment is not
    /// read.
    ///
    /// ```no_run
    /// # leasehold::doctest(async {
    /// use leasehold::{Config, LockManager};
    ///
    /// let manager = LockManager::from_config(Config::load("config.yaml", "locks", "SHOP")?).await?;
    /// # Ok(()) });
    /// ```
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] if a field or a variable is unknown or has an invalid value, with its name, and if the file
    /// cannot be read.
    pub fn load(path: impl AsRef<Path>, section: &str, env_prefix: &str) -> Result<Self> {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self::layered(path.as_ref(), section, env_prefix, variables)
    }

    fn layered(
        path: &Path,
        section: &str,
        env_prefix: &str,
        variables: impl Iterator<Item = (String, std::ffi::OsString)>,
    ) -> Result<Self> {
        let mut fields = from_file(path, section)?;
        let parts: Vec<_> = [env_prefix, section].into_iter().filter(|part| !part.is_empty()).collect();
        let begin =
            format!("{}_", parts.join("_").replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_ascii_uppercase());
        for (name, value) in variables.filter(|_| !parts.is_empty()) {
            let Some(field) = name.strip_prefix(&begin) else { continue };
            let text = value.into_string().map_err(|_| LockError::config(format!("{name}: not valid UTF-8")))?;
            let field = field.to_ascii_lowercase();
            let value = match &*field {
                "endpoints" => config::ValueKind::from(list(&text)),
                _ => config::ValueKind::from(text),
            };
            fields.insert(field, config::Value::new(Some(&name), value));
        }
        let whole = config::Value::new(None, config::ValueKind::from(fields));
        let loaded = Self::deserialize(whole).map_err(|error| LockError::config(error.to_string()))?;
        loaded.settings()?.validate(Duration::ZERO)?;
        Ok(loaded)
    }

    /// The settings, the same as from a URL with these options.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let (backend, port) = match &*self.backend {
            "memory" => (BackendKind::Memory { name: some_text(&self.store) }, 0),
            "etcd" => (BackendKind::Etcd, 2379),
            "redis" => (BackendKind::Redis, 6379),
            other => {
                let reason = format!("backend: unknown backend {other:?}; known backends are memory, etcd, redis");
                return Err(LockError::config(reason));
            }
        };
        if some_text(&self.store).is_some() && self.backend != "memory" {
            return Err(LockError::config(format!("store: not supported by {}", self.backend)));
        }
        let endpoint = |text: &String| settings::endpoint(text, port, !text.contains('@'));
        let username = some_text(&self.username);
        Ok(Settings {
            backend,
            endpoints: self.endpoints.iter().map(endpoint).collect::<Result<_>>()?,
            unix_path: self.socket.clone(),
            database: self.database,
            // As in a URL, a template without values means no password.
            password: self.password.clone().filter(|text| !text.is_empty() || username.is_some()).map(Secret::new),
            username,
            tls: self.tls,
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            prefix: self.prefix.clone(),
            ttl: self.ttl,
            timeout: self.timeout,
            name: self.name.clone(),
            retry_interval: self.retry_interval,
            max_retries: self.max_retries,
            auto_renew: self.auto_renew,
            max_hold: self.max_hold,
            reentrant: self.reentrant,
            handover: Handover { max_time: self.hand_over_time, max_count: self.hand_over_times },
            drop_wait: self.drop_wait,
            min_replicas: self.min_replicas,
            signal_lists: self.signal_lists,
        })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, store, endpoints, socket, database, username, password, tls, ca, cert, key, .. } = self;
        let Self { prefix, name, ttl, timeout, retry_interval, max_retries, auto_renew, max_hold, .. } = self;
        let Self { reentrant, hand_over_time, hand_over_times, drop_wait, min_replicas, signal_lists, .. } = self;
        f.debug_struct("Config")
            .field("backend", backend)
            .field("store", store)
            .field("endpoints", endpoints)
            .field("socket", socket)
            .field("database", database)
            .field("username", username)
            .field("password", &password.as_ref().map(Secret::new))
            .field("tls", tls)
            .field("ca", ca)
            .field("cert", cert)
            .field("key", key)
            .field("prefix", prefix)
            .field("name", name)
            .field("ttl", ttl)
            .field("timeout", timeout)
            .field("retry_interval", retry_interval)
            .field("max_retries", max_retries)
            .field("auto_renew", auto_renew)
            .field("max_hold", max_hold)
            .field("reentrant", reentrant)
            .field("hand_over_time", hand_over_time)
            .field("hand_over_times", hand_over_times)
            .field("drop_wait", drop_wait)
            .field("min_replicas", min_replicas)
            .field("signal_lists", signal_lists)
            .finish()
    }
}

type Fields = config::Map<String, config::Value>;

fn from_file(path: &Path, section: &str) -> Result<Fields> {
    let refused = |error: config::ConfigError| {
        // The parser may quote a line with the password; the first line of its message has only the position.
        let text = match &error {
            config::ConfigError::FileParse { cause, .. } => cause.to_string(),
            error => error.to_string(),
        };
        LockError::config(format!("{}: {}", path.display(), text.lines().next().unwrap_or_default()))
    };
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let format = match &*extension.to_ascii_lowercase() {
        "yaml" | "yml" => config::FileFormat::Yaml,
        "toml" => config::FileFormat::Toml,
        _ => return Err(LockError::config(format!("{}: the extension must be .yaml, .yml or .toml", path.display()))),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            warn!(target: "leasehold", "the configuration file {} does not exist", path.display());
            return Ok(Fields::default());
        }
        Err(error) => return Err(LockError::config(format!("{}: {error}", path.display()))),
    };
    let source = config::File::from_str(&text, format);
    let file = config::Config::builder().add_source(source).build().map_err(refused)?;
    if section.is_empty() {
        return file.cache.into_table().map_err(refused);
    }
    match file.get::<Option<IgnoredAny>>(section) {
        Ok(Some(_)) => file.get_table(section).map_err(refused),
        Ok(None) | Err(config::ConfigError::NotFound(_)) => {
            warn!(target: "leasehold", "the section {section:?} does not exist in {}", path.display());
            Ok(Fields::default())
        }
        Err(error) => Err(refused(error)),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
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
    let wrong = || E::custom(format_args!("{text:?} is not a duration such as 30s or 100ms"));
    settings::parse_duration(text).ok_or_else(wrong)
}
