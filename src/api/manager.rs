//! The factory of locks.

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
use crate::backend::{Backend, Clock, SystemClock};
use crate::engine::{EngineHandle, Entry, Stats, WithinKeeper, close};
use crate::error::{BackendError, LockError, Result};
use crate::info::LockInfo;
use crate::keeper::Keeper;
use crate::key;
use crate::settings::Settings;

/// Makes locks on one store: etcd, Redis, or a store in memory.
///
/// A manager is cheap to clone, and its clones are the same manager: reentrancy goes through any of them. It has one handle for
/// each key, and one session (a lease on the server) for each TTL, which it renews in the background, and replaces when it is lost.
///
/// The drop of the last clone waits for the releases that are under way, for at most a second
/// ([`drop_wait`](LockManagerBuilder::drop_wait)), so that a program may end right after. A guard that is dropped after its
/// manager is waited for where the thread that dropped it ends, and everything that the main thread has dropped where that ends,
/// within the same limit. A manager in a `static` is never dropped: [`close`](Self::close) it, or the guards that other
/// threads drop at the end may leave their locks to the TTL. Threads that have not ended when `main` returns, `process::exit`
/// in another thread, `abort` and signals that end the process do so too.
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
    /// Makes a manager on a store in memory that is its own.
    ///
    /// For one that other managers of this process share, [`connect`](Self::connect) to `memory://name`.
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

    /// Connects to the store that the URL names, and verifies that it answers.
    ///
    /// `memory://name`, `etcd://[user:pass@]host:port[,host:port…]`, `etcds://…`, `redis://[user:pass@]host:port[/db]`,
    /// `rediss://…`, `redis+unix:///path`; then options as a query:
    /// `?prefix=…&ttl=30s&timeout=5s&name=…&retry_interval=100ms&max_retries=0&auto_renew=true&reentrant=true`, `signal_lists=false` for Redis,
    /// and `ca`, `cert` and `key` files for TLS. All parts are percent-decoded. An empty `prefix=` means none.
    ///
    /// Managers of one process share their connections if these have equal settings: the same endpoints in any order, credentials,
    /// database, TLS files, and on etcd the same timeout. They end when the last of these managers is closed or
    /// dropped. So a password that was changed, or new TLS files at the same place, are used from the next time on that a
    /// connection is made.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] naming the word that is wrong, [`LockError::Unsupported`] for a backend that is not built
    /// in, [`LockError::Backend`] if the server does not answer within the timeout or refuses the password.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up connecting.
    pub fn connect(url: impl AsRef<str>) -> Pending<Self> {
        Self::builder().url(url).build()
    }

    /// Connects as a configuration says; see [`Config`](crate::Config), and [`connect`](Self::connect) for errors and cancel safety.
    #[cfg(feature = "config")]
    #[cfg_attr(docsrs, doc(cfg(feature = "config")))]
    pub fn from_config(config: crate::Config) -> Pending<Self> {
        Self::builder().config(config).build()
    }

    /// Returns a builder, for options and for a client or a backend of your own.
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

    fn entry(&self, key: &str) -> Result<Arc<Entry>> {
        key::check(key)?;
        // Before any mutex, which another thread of the parent may have held at the fork.
        if self.engine().base.is_forked() {
            return Err(LockError::closed(Some(key), "lock"));
        }
        Ok(self.engine().keys.get(key))
    }

    fn engine(&self) -> &Arc<EngineHandle> {
        &self.anchor.engine
    }

    /// Returns the handle of a key: the same object as long as one of them lives.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidKey`] unless the key is 1 to 1,024 bytes of UTF-8 without control characters, those of bidirectional text
    /// included.
    pub fn handle(&self, key: impl AsRef<str>) -> Result<Lock> {
        let key = key.as_ref();
        Ok(Lock::new(self.engine().clone(), self.entry(key)?))
    }

    /// Asks for the lock of a key; see [`LockRequest`] for options, errors and cancel safety.
    pub fn lock(&self, key: impl AsRef<str>) -> LockRequest {
        let key = key.as_ref();
        LockRequest::new(self.engine().clone(), self.entry(key))
    }

    /// Tries once: `None` if the lock is not free now; see [`LockRequest::try_once`] for errors and cancel safety.
    pub fn try_lock(&self, key: impl AsRef<str>) -> Pending<Option<LockGuard>> {
        self.lock(key).try_once()
    }

    /// Asks for the locks of several keys: all of them or none.
    ///
    /// The keys are locked one after another in the order of their bytes, whatever the order asked, so calls cannot deadlock
    /// among each other if their owners hold nothing else. One that holds a lock already, and asks for more, can: let it ask for
    /// everything at once. A key that is named twice is locked once and gets a depth of two; one that the owner holds already
    /// is taken at once. The guards are in the order asked.
    ///
    /// A [`timeout`](LockRequest::timeout) is for all together. If a lock is lost while others are waited for, all are given
    /// back and asked for again.
    ///
    /// # Errors
    ///
    /// Those of [`LockRequest`], with the key in question; [`LockError::InvalidConfig`] for an empty list.
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any point leaves nothing behind: what it has by then is released.
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
        let entries = keys.into_iter().map(|key| self.entry(key.as_ref())).collect::<Result<Vec<_>>>();
        let some = entries.and_then(|entries| match entries.is_empty() {
            true => Err(LockError::config("lock_all: no keys")),
            false => Ok(entries),
        });
        LockRequest::new(self.engine().clone(), some)
    }

    /// Runs `work` under the lock of a key and returns what it returns; see [`LockRequest::with`] for errors and cancel safety, and
    /// for options.
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

    /// Runs `work` under the lock of a key if that is free now: `None` if it is not; see [`LockRequest::with`] for errors and cancel
    /// safety.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// match manager.try_with_lock("nightly", async |_guard| "done").await? {
    ///     Some(report) => println!("{report}"),
    ///     None => println!("somebody else is at it"),
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

    /// Asks the server whether anybody holds the key; see [`Lock::is_locked`] for errors and cancel safety.
    ///
    /// A key that is not valid is [`LockError::InvalidKey`].
    pub fn is_locked(&self, key: impl AsRef<str>) -> Pending<bool> {
        self.handle(key).map_or_else(Pending::failed, |handle| handle.is_locked())
    }

    /// Asks the server who holds the key; see [`Lock::info`] for errors and cancel safety.
    ///
    /// A key that is not valid is [`LockError::InvalidKey`].
    pub fn info(&self, key: impl AsRef<str>) -> Pending<Option<LockInfo>> {
        self.handle(key).map_or_else(Pending::failed, |handle| handle.info())
    }

    /// Lists all locks under this manager's prefix that are held and whose keys begin with `prefix`, in the order of their
    /// keys. An empty `prefix` means all.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the server does not answer within the manager's timeout.
    ///
    /// # Cancel safety
    ///
    /// It only looks: dropping it changes nothing.
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

    /// Takes the lock away from whoever holds it; see [`ForceUnlock`] for errors and cancel safety.
    pub fn force_unlock(&self, key: impl AsRef<str>) -> ForceUnlock {
        let key = key.as_ref();
        ForceUnlock::new(self.engine().clone(), key::check(key).map(|()| key.into()))
    }

    /// Returns what this manager has done and has. No I/O.
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

    /// Asks the server for a sign of life; returns how long that took. For health checks.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the server does not answer within the manager's timeout.
    ///
    /// # Cancel safety
    ///
    /// It only looks: dropping it changes nothing.
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

    /// Ends the manager and all its clones: releases all holds (their guards are lost, with [`Loss::Closed`](crate::Loss::Closed)),
    /// revokes the leases, fails waiters and all later calls with [`LockError::Closed`].
    ///
    /// Returns when the server has confirmed. May be called again. A client that was given to the builder stays open.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the server has not confirmed within the manager's timeout; the manager is closed all the same.
    ///
    /// # Cancel safety
    ///
    /// What has begun goes on in the background.
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
                return Err(LockError::closed(None, "close"));
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

/// Goes with the last clone of a manager, and waits for what is under way then.
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
