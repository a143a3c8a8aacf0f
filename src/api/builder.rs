//! Options of a manager.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::connect;
use super::manager::LockManager;
use super::pending::Pending;
use crate::backend::{Backend, Clock, SystemClock};
use crate::error::{LockError, Result};
use crate::keeper::Keeper;
use crate::settings::{Handover, Secret, Settings};

/// Builds a [`LockManager`]. What is set here goes before what the URL, or the configuration, says; without either the store is a private one in memory.
///
/// ```
/// # leasehold::doctest(async {
/// # use std::time::Duration;
/// let manager = leasehold::LockManager::builder()
///     .url("memory://jobs?ttl=10s")
///     .name("user-service.dlock")
///     .ttl(Duration::from_secs(20))
///     .build()
///     .await?;
/// # Ok(()) });
/// ```
#[must_use = "a builder does nothing until it builds"]
#[derive(Default)]
pub struct LockManagerBuilder {
    base: Base,
    changes: Vec<Change>,
    source: Source,
    clock: Option<Arc<dyn Clock>>,
}

/// What the changes are made to.
#[derive(Default)]
enum Base {
    #[default]
    Defaults,
    Url(String),
    #[cfg(feature = "config")]
    Config(Box<crate::Config>),
}

impl Base {
    fn settings(&self) -> Result<Settings> {
        match self {
            Self::Defaults => Ok(Settings::default()),
            Self::Url(url) => Settings::parse(url),
            #[cfg(feature = "config")]
            Self::Config(config) => config.settings(),
        }
    }
}

type Change = Box<dyn FnOnce(&mut Settings) + Send>;

#[derive(Default)]
enum Source {
    #[default]
    Settings,
    Backend(Arc<dyn Backend>),
    #[cfg(feature = "etcd")]
    EtcdClient(Box<etcd_client::Client>),
    #[cfg(feature = "redis")]
    RedisClient(Box<redis::Client>),
}

impl Source {
    /// Whether the user's own runtime may drive its connections.
    fn is_injected(&self) -> bool {
        match self {
            Self::Settings => false,
            Self::Backend(_) => true,
            #[cfg(feature = "etcd")]
            Self::EtcdClient(_) => true,
            // Only a description: its connections are ours.
            #[cfg(feature = "redis")]
            Self::RedisClient(_) => false,
        }
    }
}

impl LockManagerBuilder {
    /// Sets where to connect to, and options; see [`LockManager::connect`].
    pub fn url(mut self, url: impl AsRef<str>) -> Self {
        self.base = Base::Url(url.as_ref().to_owned());
        self
    }

    /// Sets where to connect to, and options, instead of a URL.
    #[cfg(feature = "config")]
    #[cfg_attr(docsrs, doc(cfg(feature = "config")))]
    pub fn config(mut self, config: crate::Config) -> Self {
        self.base = Base::Config(Box::new(config));
        self
    }

    /// Uses a backend of your own.
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.source = Source::Backend(Arc::new(backend));
        self
    }

    /// Uses a client that is connected already. It is never closed, and its own runtime drives it.
    #[cfg(feature = "etcd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
    pub fn etcd_client(mut self, client: etcd_client::Client) -> Self {
        self.source = Source::EtcdClient(Box::new(client));
        self
    }

    /// Uses what a client of yours knows of the server, for connections of its own.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn redis_client(mut self, client: redis::Client) -> Self {
        self.source = Source::RedisClient(Box::new(client));
        self
    }

    fn set(mut self, change: impl FnOnce(&mut Settings) + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Sets what comes before all keys on the server: `leasehold/` by default on etcd, `lock:` on Redis, where it may not begin
    /// with `{`. Empty means none. Prefixes that nest in one another are not supported.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.set(|settings| settings.prefix = Some(prefix))
    }

    /// Sets the name by which others see this manager, and which stands in its log lines. By default the program's name.
    pub fn name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set(|settings| settings.name = Some(name))
    }

    /// Sets the user and the password.
    pub fn credentials(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        let (username, password) = (username.into(), Secret::new(password));
        self.set(|settings| {
            settings.username = Some(username);
            settings.password = Some(password);
        })
    }

    /// Sets the file with the certificates of the authorities to trust, PEM.
    pub fn ca(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.ca = Some(file))
    }

    /// Sets the files with the client's certificate and its key, PEM.
    pub fn identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        self.set(|settings| {
            settings.cert = Some(certificate);
            settings.key = Some(key);
        })
    }

    /// Sets the TTL of the leases: 30 s by default, at most a day.
    ///
    /// It is how long a crashed holder keeps a lock, and how long a hold survives without the server. On etcd it is also how long a
    /// waiter that was killed may hold up those behind it; on Redis that is 2.6 s at most.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set(move |settings| settings.ttl = ttl)
    }

    /// Sets how long connecting, and every call without a limit of its own, may take: 5 s by default.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(move |settings| settings.timeout = limit)
    }

    /// Sets how often a waiter looks by itself where notifications cannot be trusted: 100 ms by default.
    pub fn retry_interval(self, interval: Duration) -> Self {
        self.set(move |settings| settings.retry_interval = interval)
    }

    /// Sets how many retry intervals an acquire waits: 0, no limit, by default.
    pub fn max_retries(self, times: u32) -> Self {
        self.set(move |settings| settings.max_retries = times)
    }

    /// Sets whether leases are renewed by themselves, which they are by default.
    pub fn auto_renew(self, on: bool) -> Self {
        self.set(move |settings| settings.auto_renew = on)
    }

    /// Sets the age at which any hold is lost: none by default.
    pub fn max_hold(self, age: Duration) -> Self {
        self.set(move |settings| settings.max_hold = Some(age))
    }

    /// Sets whether an owner that holds a key may lock it again at once, which it may by default.
    ///
    /// Without, every acquire is an owner of its own, as with tokio's `Mutex`: branches of a `join!` exclude each other, and so
    /// do jobs of a thread pool that runs one job while another one waits on the same thread. A nested acquire waits for itself
    /// then, unless it names an explicit [`owner`](crate::LockRequest::owner) that holds the key.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::builder().reentrant(false).build().await?;
    /// let guard = manager.lock("k").await?;
    /// assert!(manager.try_lock("k").await?.is_none());
    /// assert_eq!(manager.lock("k").owner(&guard.owner()).await?.depth(), 2);
    /// # Ok(()) });
    /// ```
    pub fn reentrant(self, on: bool) -> Self {
        self.set(move |settings| settings.reentrant = on)
    }

    /// Sets for how long since the server's grant, and how many times in a row, a lock goes to the next local waiter without
    /// a round trip: 10 ms and 1,023 times by default, which is the most; zero turns it off.
    pub fn hand_over(self, time: Duration, times: u16) -> Self {
        self.set(move |settings| settings.handover = Handover { max_time: time, max_count: times })
    }

    /// Sets how long the drop of the last manager waits for releases under way: 1 s by default.
    pub fn drop_wait(self, limit: Duration) -> Self {
        self.set(move |settings| settings.drop_wait = limit)
    }

    /// Sets how many replicas of a Redis server have to have a lock before it is returned: none by default. With too few of them
    /// in time it is released, and the request fails.
    ///
    /// Replication is asynchronous: a replica that takes the master's place may not know of a lock that was granted a moment
    /// before, and this makes that less likely. It costs two round trips for each lock.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn min_replicas(self, count: u32) -> Self {
        self.set(move |settings| settings.min_replicas = count)
    }

    /// Sets whether a lock on Redis that is free again is told to the Python package `python-redis-lock`, which is not by default.
    ///
    /// Who waits there for `lock:NAME` is woken by what is pushed to the list `lock-signal:NAME`, and looks by himself only when
    /// his own time is over, or never. It costs each release that frees a lock three commands more on the server; the prefix
    /// has to begin with `lock:`.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn signal_lists(self, on: bool) -> Self {
        self.set(move |settings| settings.signal_lists = on)
    }

    /// Sets the clock, for tests of suspend and the like.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// Those of [`LockManager::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up connecting.
    pub fn build(self) -> Pending<LockManager> {
        Pending::new(async move {
            let mut settings = self.base.settings()?;
            self.changes.into_iter().for_each(|change| change(&mut settings));
            settings.validate(Duration::ZERO)?;
            let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
            let keeper = Keeper::shared().map_err(|error| LockError::Unsupported {
                what: format!("a system that cannot start the background thread: {error}"),
            })?;
            let injected = self.source.is_injected();
            let backend = match self.source {
                Source::Backend(backend) => connect::caught(backend),
                Source::Settings => connect::connect(&settings, &clock, &keeper).await?,
                #[cfg(feature = "etcd")]
                Source::EtcdClient(client) => connect::etcd_client(*client, &settings, &clock, &keeper),
                #[cfg(feature = "redis")]
                Source::RedisClient(client) => {
                    let target = crate::backend::redis::Target::Client(client);
                    connect::redis(target, &settings, &clock, &keeper).await?
                }
            };
            settings.validate(backend.min_ttl())?;
            Ok(LockManager::start(backend, clock, keeper, &settings, injected))
        })
    }
}

impl fmt::Debug for LockManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may have a password in it.
        f.debug_struct("LockManagerBuilder").field("options", &self.changes.len()).finish_non_exhaustive()
    }
}
