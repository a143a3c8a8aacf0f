//! [`LockManager`], the entry point: it connects to a store and makes locks on it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::builder::LockManagerBuilder;
use super::connect;
use super::force_unlock::ForceUnlock;
use super::guard::LockGuard;
use super::guards::LockGuards;
use super::lock::Lock;
use super::pending::Pending;
use super::request::{LockRequest, run_under};
use super::watch::Watch;
use crate::backend::{Backend, Clock, SystemClock};
use crate::engine::{EngineHandle, Entry, Stats, WithinKeeper, close};
use crate::error::{BackendError, LockError, Result};
use crate::info::LockInfo;
use crate::keeper::Keeper;
use crate::key;
use crate::settings::Settings;

/// A connection to one store, and the factory of its locks.
///
/// The store is an etcd cluster, a Redis server, a directory of this machine, or a store in memory. A manager is cheap to clone; clones
/// are the same manager, so a lock that was acquired through one of them is reentrant through all. A manager keeps one handle per key,
/// and one session (a lease on the server) per TTL, which it renews in the background and replaces when it is lost.
///
/// # Drop
///
/// Dropping the last clone waits until the server has confirmed the releases in flight, for at most one second
/// ([`drop_wait`](LockManagerBuilder::drop_wait)), so that a program can end right after it. If a guard is dropped after its
/// manager, the end of the thread that dropped it waits instead, within the same limit.
///
/// In these cases nothing waits, and a release that has not reached the server leaves its lock to expire with the TTL:
///
/// - a manager in a `static`, which is never dropped: call [`close`](Self::close) before the program ends;
/// - threads that are still running when `main` returns;
/// - `process::exit` called from another thread, `abort`, and signals that end the process.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let guard = manager.lock("k").await?;
/// assert!(manager.is_locked("k").await?);
/// drop(guard);
/// assert!(manager.try_lock("k").await?.is_some());
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct LockManager {
    anchor: Arc<Anchor>,
}

impl LockManager {
    /// Creates a manager on a private store in memory.
    ///
    /// To share a store with other managers of this process, [`connect`](Self::connect) to `memory://name`.
    ///
    /// # Panics
    ///
    /// If the operating system cannot start a thread.
    pub fn memory() -> Self {
        let settings = Settings::default();
        #[expect(clippy::expect_used, reason = "as std::thread::spawn does; connect() returns it as an error")]
        let keeper = Keeper::shared().expect("the background thread starts");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let backend = connect::memory(None, &clock);
        Self::start(backend, clock, keeper, &settings, false)
    }

    /// Connects to the store that the URL names, and checks that it answers.
    ///
    /// `memory://name`, `file:///directory`, `etcd://[user:pass@]host[:port][,host[:port]…]`, `etcds://…`,
    /// `redis://[[user]:pass@]host[:port][/db]`, `rediss://…`, `redis+unix:///path`,
    /// `redis+sentinel://[[user]:pass@]host[:port][,host[:port]…]/master[/db]`,
    /// `redis+cluster://[[user]:pass@]host[:port][,host[:port]…]`, `rediss+sentinel://…`, `rediss+cluster://…`. Options follow as a query,
    /// such as `?prefix=jobs/&ttl=10s`: [`guide::configuration`](crate::guide::configuration) lists all options with their defaults, and
    /// [`LockManagerBuilder`] documents each. All parts are percent-decoded. An empty `prefix=` means no prefix.
    ///
    /// Managers with equal settings share a connection: the same endpoints in any order, credentials, database, TLS files, and on
    /// etcd the same timeout. It is closed with the last of them. A changed password or new TLS files take effect at the next
    /// reconnect.
    ///
    /// # Errors
    ///
    /// - [`LockError::InvalidConfig`] names the option or the part of the URL that is invalid.
    /// - [`LockError::Unsupported`] if support for the backend is not compiled in.
    /// - [`LockError::Backend`] if the server does not answer within the timeout or refuses the credentials.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts the connection attempt.
    pub fn connect(url: impl AsRef<str>) -> Pending<Self> {
        Self::builder().url(url).build()
    }

    /// Connects with the options of a [`Config`](crate::Config); see [`connect`](Self::connect) for errors and cancel safety.
    #[cfg(feature = "serde")]
    #[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
    pub fn from_config(config: crate::config::Config) -> Pending<Self> {
        Self::builder().config(config).build()
    }

    /// Returns a builder, which takes all options, an existing client, or another backend.
    pub fn builder() -> LockManagerBuilder {
        LockManagerBuilder::default()
    }

    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        keeper: Arc<Keeper>,
        settings: &Settings,
        injected: bool,
    ) -> Self {
        let engine = EngineHandle::start(backend, clock, keeper, settings.into());
        Self { anchor: Arc::new(Anchor { engine, injected }) }
    }

    fn entry(&self, key: &str, operation: &'static str) -> Result<Arc<Entry>> {
        key::check(key)?;
        // Before any mutex, which another thread of the parent may have held at the fork.
        if self.engine().base.is_forked() {
            return Err(LockError::forked(Some(key), operation));
        }
        Ok(self.engine().keys.get(key))
    }

    fn handle_for(&self, key: &str, operation: &'static str) -> Result<Lock> {
        Ok(Lock::new(self.engine().clone(), self.entry(key, operation)?))
    }

    fn engine(&self) -> &Arc<EngineHandle> {
        &self.anchor.engine
    }

    /// Returns the handle of a key. While a handle of the key exists, every call for that key returns the same one.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidKey`] unless the key is 1 to 1,024 bytes of UTF-8 without control characters or bidirectional control
    /// characters.
    pub fn handle(&self, key: impl AsRef<str>) -> Result<Lock> {
        self.handle_for(key.as_ref(), "lock")
    }

    /// Requests the lock of a key, waiting for it when awaited; see [`LockRequest`] for options, errors and cancel safety.
    pub fn lock(&self, key: impl AsRef<str>) -> LockRequest {
        let key = key.as_ref();
        LockRequest::new(self.engine().clone(), self.entry(key, "lock"))
    }

    /// Acquires the lock of a key if it is free now, and returns `None` otherwise; see [`LockRequest::try_once`] for errors and
    /// cancel safety.
    pub fn try_lock(&self, key: impl AsRef<str>) -> Pending<Option<LockGuard>> {
        self.lock(key).try_once()
    }

    /// Requests one of the `n` slots of a key, a semaphore: the same as [`lock(key).limit(n)`](LockRequest::limit).
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let slots = [manager.semaphore("gpu", 2).await?, manager.semaphore("gpu", 2).await?];
    /// assert!(manager.semaphore("gpu", 2).try_once().await?.is_none(), "both are taken");
    /// # drop(slots);
    /// # Ok(()) });
    /// ```
    pub fn semaphore(&self, key: impl AsRef<str>, n: u32) -> LockRequest {
        self.lock(key).limit(n)
    }

    /// Requests the locks of several keys: all of them or none.
    ///
    /// Keys are acquired one by one in byte order, whatever the order in the list, so concurrent calls cannot deadlock with each
    /// other. An owner that already holds another lock can deadlock: such an owner should request all its keys in one call.
    /// A key that is listed twice is acquired once, with a depth of two; a key that the owner already holds is entered at once.
    /// The guards are in the order of the list.
    ///
    /// A [`timeout`](LockRequest::timeout) covers the whole call. If one of the locks is lost while the call waits for another,
    /// all are released and requested again.
    ///
    /// # Errors
    ///
    /// Those of [`LockRequest`], with the key that failed; [`LockError::InvalidConfig`] if the list is empty.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves nothing behind: the locks acquired so far are released.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guards = manager.lock_all(["account/7", "account/3"]).await?;
    /// assert_eq!(guards[0].key(), "account/7");
    /// assert!(!guards.is_lost());
    /// guards.unlock().await?;
    /// # Ok(()) });
    /// ```
    pub fn lock_all(&self, keys: impl IntoIterator<Item: AsRef<str>>) -> LockRequest<LockGuards> {
        let entries = keys.into_iter().map(|key| self.entry(key.as_ref(), "lock")).collect::<Result<Vec<_>>>();
        let some = entries.and_then(|entries| match entries.is_empty() {
            true => Err(LockError::config("lock_all: the list of keys is empty")),
            false => Ok(entries),
        });
        LockRequest::new(self.engine().clone(), some)
    }

    /// Acquires the lock of a key, runs `work`, releases the lock, and returns the output of `work`; see [`LockRequest::with`] for
    /// options, errors and cancel safety.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let mut balance = 100;
    /// manager.with_lock("account/7", async |_guard| balance -= 30).await?;
    /// assert_eq!(balance, 70);
    /// # Ok(()) });
    /// ```
    pub fn with_lock<K: AsRef<str>, T, F: AsyncFnOnce(&LockGuard) -> T>(
        &self,
        key: K,
        work: F,
    ) -> impl Future<Output = Result<T>> + use<K, T, F> {
        self.lock(key).with(work)
    }

    /// Runs `work` under the lock of a key if the lock is free now, and returns `None` otherwise; see [`LockRequest::with`] for
    /// errors and cancel safety.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// match manager.try_with_lock("nightly", async |_guard| "done").await? {
    ///     Some(report) => println!("{report}"),
    ///     None => println!("another process is running it"),
    /// }
    /// # Ok(()) });
    /// ```
    pub fn try_with_lock<K: AsRef<str>, T, F: AsyncFnOnce(&LockGuard) -> T>(
        &self,
        key: K,
        work: F,
    ) -> impl Future<Output = Result<Option<T>>> + use<K, T, F> {
        let mut request = self.lock(key);
        let scope = request.scoped();
        let tried = request.try_once();
        async move {
            match tried.await? {
                Some(guard) => run_under(guard, scope, work).await.map(Some),
                None => Ok(None),
            }
        }
    }

    /// Returns whether any client holds the key, by a request to the server; see [`Lock::is_locked`] for errors and cancel safety.
    ///
    /// An invalid key fails with [`LockError::InvalidKey`].
    pub fn is_locked(&self, key: impl AsRef<str>) -> Pending<bool> {
        self.handle_for(key.as_ref(), "look up").map_or_else(Pending::failed, |handle| handle.is_locked())
    }

    /// Returns the holders of a key and the number of waiters, by a request to the server; see [`Lock::info`] for errors and cancel
    /// safety.
    ///
    /// An invalid key fails with [`LockError::InvalidKey`].
    pub fn info(&self, key: impl AsRef<str>) -> Pending<Option<LockInfo>> {
        self.handle_for(key.as_ref(), "look up").map_or_else(Pending::failed, |handle| handle.info())
    }

    /// Observes the holders of a key as they change; see [`Watch`].
    ///
    /// An invalid key fails with [`LockError::InvalidKey`].
    pub fn watch(&self, key: impl AsRef<str>) -> Watch {
        Watch::new(self.engine().clone(), self.entry(key.as_ref(), "watch"))
    }

    /// Lists the held locks under this manager's prefix whose keys begin with `prefix`, in key order. An empty `prefix` lists all.
    ///
    /// # Errors
    ///
    /// - [`LockError::Backend`] if the server does not answer within the manager's timeout or refuses the request, for example
    ///   because of a missing permission.
    /// - [`LockError::Closed`] if the manager is closed.
    ///
    /// # Cancel safety
    ///
    /// Read-only: dropping the future changes nothing.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let _guards = manager.lock_all(["b/1", "a/2", "a/1"]).await?;
    /// let keys: Vec<_> = manager.list("a/").await?.into_iter().map(|info| info.key).collect();
    /// assert_eq!(keys, ["a/1", "a/2"]);
    /// # Ok(()) });
    /// ```
    pub fn list(&self, prefix: impl AsRef<str>) -> Pending<Vec<LockInfo>> {
        let (backend, prefix) = (self.engine().base.backend.clone(), prefix.as_ref().to_owned());
        self.call("list", async move { backend.list(&prefix).await })
    }

    /// Revokes the lock of a key, whichever client holds it; see [`ForceUnlock`] for errors and cancel safety.
    pub fn force_unlock(&self, key: impl AsRef<str>) -> ForceUnlock {
        let key = key.as_ref();
        ForceUnlock::new(self.engine().clone(), key::check(key).map(|()| key.into()))
    }

    /// Returns this manager's counters and gauges. No I/O.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("k").await?;
    /// let stats = manager.stats();
    /// assert_eq!((stats.held, stats.waiting, stats.acquired), (1, 0, 1));
    /// assert_eq!((stats.losses.expired, stats.wait_times.count()), (0, 1));
    /// # drop(guard);
    /// # Ok(()) });
    /// ```
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Sends one request to the server and returns the round-trip time. For health checks.
    ///
    /// # Errors
    ///
    /// - [`LockError::Backend`] if the server does not answer within the manager's timeout or refuses the request.
    /// - [`LockError::Closed`] if the manager is closed.
    ///
    /// # Cancel safety
    ///
    /// Read-only: dropping the future changes nothing.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// assert!(manager.ping().await? < Duration::from_secs(1));
    /// # Ok(()) });
    /// ```
    pub fn ping(&self) -> Pending<Duration> {
        let (backend, base) = (self.engine().base.backend.clone(), self.engine().base.clone());
        self.call("ping", async move {
            let asked = base.now();
            backend.ping().await?;
            Ok(base.now().since(asked))
        })
    }

    /// Closes the manager and all its clones.
    ///
    /// All holds are released (their guards are lost, with [`Loss::Closed`](crate::Loss::Closed)), the leases are revoked, and
    /// waiters and all later calls fail with [`LockError::Closed`]. The call returns when the server has confirmed. It can be
    /// repeated. A client that was passed to the builder stays open.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the server has not confirmed within the manager's timeout; the manager is closed in any case.
    ///
    /// # Cancel safety
    ///
    /// Once polled, closing continues in the background.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("k").await?;
    /// manager.close().await?;
    /// assert_eq!(guard.lost().await, leasehold::Loss::Closed);
    /// assert_eq!(manager.lock("k").await.unwrap_err().code(), "CLOSED");
    /// # Ok(()) });
    /// ```
    pub fn close(&self) -> Pending<()> {
        let engine = self.engine().clone();
        let keeper = engine.base.keeper.clone();
        Pending::new(WithinKeeper::new(keeper, async move {
            let base = &engine.base;
            if base.is_forked() {
                return Err(LockError::forked(None, "close"));
            }
            let limit = base.defaults.timeout;
            // On the keeper: half a close would leave its tasks and the backend without an end.
            let (reply, answer) = tokio::sync::oneshot::channel();
            let closing = engine.engine().clone();
            base.keeper.spawn(async move {
                let _ = reply.send(close(closing, limit).await);
            });
            match answer.await.unwrap_or(false) {
                true => Ok(()),
                false => Err(LockError::backend(None, "close", base.no_answer(limit))),
            }
        }))
    }

    fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, BackendError>> + Send + 'static,
    ) -> Pending<T> {
        Pending::new(self.engine().base.bounded(None, operation, call))
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("name", &self.engine().base.defaults.name)
            .field("backend", &self.engine().base.backend.kind())
            .finish_non_exhaustive()
    }
}

/// Dropped with the last clone of a manager; its drop waits for the releases in flight.
#[derive(Debug)]
struct Anchor {
    engine: Arc<EngineHandle>,
    /// Whether the backend's connections are driven by the user's own runtime.
    injected: bool,
}

impl Drop for Anchor {
    fn drop(&mut self) {
        let base = &self.engine.base;
        if base.is_forked() || base.lifecycle.is_closed() {
            return;
        }
        base.lifecycle.drop_manager();
        let bound = base.defaults.drop_wait;
        // Guards and handles may outlive the manager: the session is theirs then.
        let is_last = Arc::strong_count(&self.engine) == 1;
        if bound.is_zero()
            || base.keeper.is_current()
            || (self.injected && is_on_single_thread())
            || !(is_last || self.engine.cleanup.has_unconfirmed())
        {
            return;
        }
        let (done, all_done) = std::sync::mpsc::channel::<()>();
        let engine = self.engine.engine().clone();
        base.keeper.spawn(async move {
            if is_last {
                close(engine, bound).await;
            } else {
                // The receiver stops waiting after the bound.
                let _ = tokio::time::timeout(bound, engine.cleanup.all_confirmed()).await;
            }
            drop(done);
        });
        let _ = all_done.recv_timeout(bound);
    }
}

/// Whether this thread may be the only one that drives an injected client.
fn is_on_single_thread() -> bool {
    use tokio::runtime::{Handle, RuntimeFlavor};
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
}
