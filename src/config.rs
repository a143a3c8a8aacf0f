//! Settings from a file and the environment.

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

/// What a manager is told, for a program's own configuration; by default a private store in memory.
///
/// The same options as in a [URL](crate::LockManager::connect), with the same checks, for
/// [`LockManager::from_config`](crate::LockManager::from_config). It can be a field of your own serde struct, an
/// `Option<Config>` for example, or be [loaded](Self::load) by itself. Durations are written `"30s"` or `"100ms"`.
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
    /// `memory`, `etcd` or `redis`.
    pub backend: String,
    /// Of memory: the store that all managers of this process share which name it. Without, it is the manager's own.
    pub store: Option<String>,
    /// Each a host, or `host:port`; not for memory.
    pub endpoints: Vec<String>,
    /// Of Redis: a Unix socket instead of an endpoint.
    pub socket: Option<PathBuf>,
    /// Of Redis: the number of the database.
    pub database: Option<u32>,
    /// The user, if the server has users.
    pub username: Option<String>,
    /// The password. `Debug` does not show it. One that looks like a number wants quotes in YAML.
    pub password: Option<String>,
    /// Whether to use TLS.
    pub tls: bool,
    /// For TLS: the file with the certificates of the authorities to trust, PEM.
    pub ca: Option<PathBuf>,
    /// For TLS: the file with the client's certificate, PEM.
    pub cert: Option<PathBuf>,
    /// For TLS: the file with the key of the client's certificate, PEM.
    pub key: Option<PathBuf>,
    /// What comes before all keys on the server. Empty is none; left out, it is the backend's default.
    pub prefix: Option<String>,
    /// The name by which others see the manager. Left out, it is the program's.
    pub name: Option<String>,
    /// The TTL of the leases.
    #[serde(deserialize_with = "duration")]
    pub ttl: Duration,
    /// How long connecting, and each call without a limit of its own, may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often a waiter looks by itself where notifications cannot be trusted.
    #[serde(deserialize_with = "duration")]
    pub retry_interval: Duration,
    /// How many of these intervals an acquire waits; 0 is no limit.
    pub max_retries: u32,
    /// Whether leases are renewed by themselves.
    pub auto_renew: bool,
    /// At what age any hold is lost, if at all.
    #[serde(deserialize_with = "some_duration")]
    pub max_hold: Option<Duration>,
    /// Whether an owner that holds a key may lock it again at once; without, every acquire is an owner of its own.
    pub reentrant: bool,
    /// For how long since the server's grant a lock goes to the next local waiter without a round trip; zero turns it off.
    #[serde(deserialize_with = "duration")]
    pub hand_over_time: Duration,
    /// The same in times in a row, at most 1,023.
    pub hand_over_times: u16,
    /// How long the drop of the last manager waits for releases under way.
    #[serde(deserialize_with = "duration")]
    pub drop_wait: Duration,
    /// Of Redis: how many replicas must have a lock before it is held.
    pub min_replicas: u32,
    /// Of Redis: whether a lock that is free again is told to `python-redis-lock`'s waiters.
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
    /// Loads the defaults, over them the file, over that the environment, and checks the result.
    ///
    /// The file is YAML or TOML, by its name's extension. `section` is where in it the options are, `"locks"` or
    /// `"services.locks"`; empty if they are the whole file. A file or a section that is not there is a warning in the log.
    ///
    /// The variables are `<ENV_PREFIX>_<SECTION>_<FIELD>` in capitals, `SHOP_LOCKS_RETRY_INTERVAL=50ms` for example, lists with
    /// commas. Empty parts are left out; where both are empty, the environment is not looked at.
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
    /// [`LockError::InvalidConfig`] that names the field, or the variable, that is unknown or has a wrong value, and for a file
    /// that cannot be read.
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
            let text = value.into_string().map_err(|_| LockError::config(format!("{name}: it is not UTF-8")))?;
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

    /// The same as a URL with these options gives.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let (backend, port) = match &*self.backend {
            "memory" => (BackendKind::Memory { name: some_text(&self.store) }, 0),
            "etcd" => (BackendKind::Etcd, 2379),
            "redis" => (BackendKind::Redis, 6379),
            other => {
                let reason = format!("backend: unknown {other:?}, known are memory, etcd, redis");
                return Err(LockError::config(reason));
            }
        };
        if some_text(&self.store).is_some() && self.backend != "memory" {
            return Err(LockError::config(format!("store: {} has none", self.backend)));
        }
        let endpoint = |text: &String| settings::endpoint(text, port, !text.contains('@'));
        let username = some_text(&self.username);
        Ok(Settings {
            backend,
            endpoints: self.endpoints.iter().map(endpoint).collect::<Result<_>>()?,
            unix_path: self.socket.clone(),
            database: self.database,
            // As in a URL: what a template with nothing filled in gives is none.
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
        // A parser may quote the line, and the line may have the password: its first line says where.
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
        _ => return Err(LockError::config(format!("{}: neither .yaml, .yml nor .toml", path.display()))),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            warn!(target: "leasehold", "there is no file {}", path.display());
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
            warn!(target: "leasehold", "there is no section {section:?} in {}", path.display());
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
