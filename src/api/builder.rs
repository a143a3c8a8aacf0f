//! [`LockManagerBuilder`]: the options of a manager.

// Two attributes: clippy knows tests by the plain one.
#[cfg(test)]
#[cfg(all(feature = "config", feature = "redis"))]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::connect;
use super::manager::LockManager;
use super::pending::Pending;
use crate::backend::{Backend, Clock};
use crate::credentials::{CredentialsSource, Secret};
use crate::error::{LockError, Result};
use crate::keeper::Keeper;
use crate::settings::{BackendKind, Handover, Settings, check_ttl, validate};

/// A builder for a [`LockManager`].
///
/// Values set here override the URL or the `Config`. The default is a private store in memory.
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

/// Where the settings start from.
#[derive(Default)]
enum Base {
    #[default]
    Defaults,
    Url(String),
    #[cfg(feature = "serde")]
    Config(Box<crate::config::Config>),
}

impl Base {
    fn settings(&self) -> Result<Settings> {
        match self {
            Self::Defaults => Ok(Settings::default()),
            Self::Url(url) => Settings::parse(url),
            #[cfg(feature = "serde")]
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
    /// The backend in use, with settings that name this one.
    fn backend(&self, named: BackendKind) -> BackendKind {
        match self {
            Self::Settings | Self::Backend(_) => named,
            #[cfg(feature = "etcd")]
            Self::EtcdClient(_) => BackendKind::Etcd,
            #[cfg(feature = "redis")]
            Self::RedisClient(_) => BackendKind::Redis,
        }
    }

    /// Whether the user's runtime may drive its connections.
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
    /// Sets the address and options from a URL; see [`LockManager::connect`] for its form.
    pub fn url(mut self, url: impl AsRef<str>) -> Self {
        self.base = Base::Url(url.as_ref().to_owned());
        self
    }

    /// Sets the address and options from a [`Config`](crate::Config), instead of a URL.
    #[cfg(feature = "serde")]
    #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
    pub fn config(mut self, config: crate::config::Config) -> Self {
        self.base = Base::Config(Box::new(config));
        self
    }

    /// Uses another implementation of [`Backend`], instead of a URL.
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.source = Source::Backend(Arc::new(backend));
        self
    }

    /// Uses an etcd client that is already connected. The manager never closes it; the runtime that created it drives it.
    #[cfg(feature = "etcd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
    pub fn etcd_client(mut self, client: etcd_client::Client) -> Self {
        self.source = Source::EtcdClient(Box::new(client));
        self
    }

    /// Takes the server's address and credentials from a Redis client; the manager opens separate connections.
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

    /// Sets the prefix of all keys on the server: at most 1,024 bytes, empty for none.
    ///
    /// The default is `leasehold/` on etcd and `lock:` on Redis, where the prefix cannot begin with `{`. Two managers must not use
    /// different prefixes where one is the beginning of the other, such as `a` and `a/b`.
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.set(|settings| settings.prefix = Some(prefix))
    }

    /// Sets the manager's name, which other clients see as the holder's and which is in every log line: 1 to 1,024 bytes. The
    /// default is the program's name.
    pub fn name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.set(|settings| settings.name = Some(name))
    }

    /// Sets the user name and the password. On Redis the user name can be empty: then the password is that of the default user.
    pub fn credentials(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        let (username, password) = (username.into(), Secret::from(password.into()));
        self.set(|settings| settings.set_account(Some(username), Some(password)))
    }

    /// Sets the file with the password, which is read at each connection, so that a changed file takes effect at the next
    /// reconnect. A line break at its end is removed. The user name is that of the URL or the `Config`.
    ///
    /// If the file cannot be read, the manager is not built; at a reconnect it is tried again. The path is neither displayed nor
    /// logged. It cannot be combined with a password.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// use leasehold::LockManager;
    ///
    /// let builder = LockManager::builder().url("etcds://joe@10.0.0.1").password_file("/run/secrets/etcd");
    /// // The same in the URL:
    /// let builder = LockManager::builder().url("etcds://joe@10.0.0.1?password_file=/run/secrets/etcd");
    /// # drop(builder);
    /// # Ok(()) });
    /// ```
    pub fn password_file(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.password_file = Some(file))
    }

    /// Sets a callback that is asked for the user name and the password at each connection, for passwords and tokens that rotate;
    /// see [`CredentialsSource::new`]. It cannot be combined with other credentials.
    ///
    /// On etcd it is also asked when the server refuses the credentials of the connection in use.
    pub fn credentials_from(self, source: &CredentialsSource) -> Self {
        let source = source.clone();
        self.set(|settings| settings.credentials = Some(source))
    }

    /// Sets the user name and the password at the sentinels, which need not have the account of the servers. The user name can be
    /// empty. Requires the address of sentinels, `redis+sentinel://…`.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn sentinel_credentials(self, username: impl Into<String>, password: impl Into<String>) -> Self {
        let (username, password) = (username.into(), Secret::from(password.into()));
        self.set(|settings| {
            settings.sentinel_username = Some(username).filter(|username| !username.is_empty());
            settings.sentinel_password = Some(password);
        })
    }

    /// Sets the permissions of the directory, `0o700` (the default) or `0o770` for a group, which apply if it has to be made. Requires the
    /// address of a directory, `file:///…`.
    #[cfg(feature = "file")]
    #[cfg_attr(docsrs, doc(cfg(feature = "file")))]
    pub fn mode(self, permissions: u32) -> Self {
        self.set(move |settings| settings.mode = Some(permissions))
    }

    /// Sets the PEM file with the certificates of the trusted authorities. Requires TLS.
    pub fn ca(self, file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        self.set(|settings| settings.ca = Some(file))
    }

    /// Sets the PEM files with the client's certificate and its private key. Requires TLS.
    pub fn identity(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        self.set(|settings| {
            settings.cert = Some(certificate);
            settings.key = Some(key);
        })
    }

    /// Sets the TTL of the leases: 30 s by default, at most one day, at least 100 ms; on etcd at least 1 s, rounded up to whole
    /// seconds, and granted as at least 2 s with etcd's default settings.
    ///
    /// A crashed holder keeps its lock for up to one TTL, and a hold survives an unreachable server for up to one TTL. A waiter that
    /// was killed delays the waiters behind it for up to one TTL on etcd, and for up to 2.6 s on Redis.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.set(move |settings| settings.ttl = ttl)
    }

    /// Sets the time limit for connecting and for each call without a separate timeout, except `lock()`, which waits without limit:
    /// 5 s by default, longer than zero.
    pub fn timeout(self, limit: Duration) -> Self {
        self.set(move |settings| settings.timeout = limit)
    }

    /// Sets how often a waiter polls the server where notifications are not reliable: 100 ms by default, longer than zero.
    pub fn retry_interval(self, interval: Duration) -> Self {
        self.set(move |settings| settings.retry_interval = interval)
    }

    /// Limits the wait of an acquire to this many times the [`retry_interval`](Self::retry_interval). The default, 0, is no limit.
    pub fn max_retries(self, times: u32) -> Self {
        self.set(move |settings| settings.max_retries = times)
    }

    /// Sets whether leases are renewed in the background, which is the default; see
    /// [`LockRequest::auto_renew`](crate::LockRequest::auto_renew).
    pub fn auto_renew(self, on: bool) -> Self {
        self.set(move |settings| settings.auto_renew = on)
    }

    /// Sets the maximum age of a hold, at which it is lost: unlimited by default, longer than zero.
    pub fn max_hold(self, age: Duration) -> Self {
        self.set(move |settings| settings.max_hold = Some(age))
    }

    /// Sets whether an owner that holds a key can lock it again at once, which is the default.
    ///
    /// With `false` every acquire has a separate owner, as with tokio's `Mutex`: branches of a `join!` exclude each other, and so
    /// do jobs of a thread pool that runs one job while another waits on the same thread. A nested acquire then waits for its own
    /// task, for ever without a timeout, unless it names the explicit [`owner`](crate::LockRequest::owner) that holds the key.
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

    /// Limits local handovers, in which a released lock passes to the next waiter of this manager without a round trip.
    ///
    /// They end `time` after the server's grant or after `times` in a row, whichever is first; then the key goes back through the
    /// server's queue. The default is 10 ms and 1,023 times. More than 1,023 times is an error of [`build`](Self::build); zero for
    /// either turns local handovers off. In a URL and in a `Config` these are `hand_over_time` and `hand_over_times`.
    pub fn hand_over(self, time: Duration, times: u16) -> Self {
        self.set(move |settings| settings.handover = Handover { max_time: time, max_count: times })
    }

    /// Sets how long dropping the last clone of the manager waits for the releases in flight: 1 s by default. Zero does not wait.
    pub fn drop_wait(self, limit: Duration) -> Self {
        self.set(move |settings| settings.drop_wait = limit)
    }

    /// Sets how many Redis replicas must confirm a lock before it is returned: none by default. If fewer confirm in time, the lock
    /// is released; `lock()` then tries again, and other requests fail.
    ///
    /// Redis replicates asynchronously: a replica that is promoted to master may not have a lock that was granted just before.
    /// Waiting for replicas makes this less likely, at the cost of two round trips per lock. Renewals wait for them as well: one that
    /// too few replicas have does not extend the hold.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn min_replicas(self, count: u32) -> Self {
        self.set(move |settings| settings.min_replicas = count)
    }

    /// Sets whether a release on Redis notifies the waiters of the Python package `python-redis-lock`: off by default.
    ///
    /// A waiter of that package for `lock:NAME` is woken by an element of the list `lock-signal:NAME`; without one it re-checks only
    /// when its own timeout ends, or never. The notification costs three more commands on the server for each release that frees a
    /// lock. The prefix must begin with `lock:`.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn signal_lists(self, on: bool) -> Self {
        self.set(move |settings| settings.signal_lists = on)
    }

    /// Sets the clock that measures deadlines. For tests, for example of a suspended machine.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Connects, and returns the manager.
    ///
    /// # Errors
    ///
    /// Those of [`LockManager::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts the connection attempt.
    pub fn build(self) -> Pending<LockManager> {
        Pending::new(async move {
            let settings = settings(self.base, self.changes, &self.source)?;
            let clock = self.clock.unwrap_or_else(|| connect::clock(self.source.backend(settings.backend)));
            let keeper = Keeper::shared().map_err(|error| LockError::Unsupported {
                what: format!("the system cannot start the background thread: {error}"),
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
            check_ttl(settings.ttl, backend.min_ttl())?;
            Ok(LockManager::start(backend, clock, keeper, &settings, injected))
        })
    }
}

/// The valid settings of a builder.
fn settings(base: Base, changes: Vec<Change>, source: &Source) -> Result<Settings> {
    let mut settings = base.settings()?;
    changes.into_iter().for_each(|change| change(&mut settings));
    if !matches!(source, Source::Settings) && (settings.credentials.is_some() || settings.password_file.is_some()) {
        let option = if settings.credentials.is_some() { "credentials_from" } else { "password_file" };
        return Err(LockError::config(format!(
            "{option}: not supported with a client or a backend, which has its own account"
        )));
    }
    validate(&settings, source.backend(settings.backend))?;
    Ok(settings)
}

impl fmt::Debug for LockManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may have a password in it.
        f.debug_struct("LockManagerBuilder").field("options", &self.changes.len()).finish_non_exhaustive()
    }
}
