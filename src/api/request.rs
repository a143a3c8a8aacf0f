//! [`LockRequest`]: the options of an acquire, and its future.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::guard::LockGuard;
use super::guards::Guards;
use super::lost::Run;
use super::pending::Pending;
use crate::backend::Wait;
use crate::engine::{Base, EngineHandle, RequestOptions};
use crate::error::{LockError, Result};
use crate::info::Mode;
use crate::owner::{Owner, OwnerSource, Scope};
use crate::process::blocking;
use crate::settings::{Bound, check_ttl};

/// A request for a lock, with its options: `.await` it, or call [`wait`](Self::wait) on a plain thread.
///
/// A request of [`lock_all`](crate::LockManager::lock_all) is for several locks; its options apply to each of them.
///
/// Nothing happens before the first poll, which also determines the place in the queue. A request implements [`IntoFuture`]:
/// tokio's `select!`, `join!` and `timeout` take it as it is; `spawn` and `block_on` need `.into_future()`.
///
/// # Errors
///
/// - [`Timeout`](LockError::Timeout) if the lock was not acquired in time.
/// - [`AlreadyHeld`](LockError::AlreadyHeld) if the owner would wait for its own hold.
/// - [`InvalidKey`](LockError::InvalidKey) and [`InvalidConfig`](LockError::InvalidConfig), before any I/O.
/// - [`Closed`](LockError::Closed) if the manager is closed.
/// - [`Backend`](LockError::Backend) for failures that a retry cannot cure, a wrong password for example. An unreachable server
///   is retried until the [`timeout`](Self::timeout), or without limit if there is none.
///
/// # Cancel safety
///
/// Dropping the future at any point leaves nothing behind, neither a claim nor a queue entry. The place in the queue is lost.
///
/// ```
/// # leasehold::doctest(async {
/// # use std::time::Duration;
/// let manager = leasehold::LockManager::memory();
/// let guard = manager.lock("k").shared().ttl(Duration::from_secs(10)).timeout(Duration::from_secs(1)).await?;
/// assert!(guard.remaining() <= Duration::from_secs(10));
/// # Ok(()) });
/// ```
#[must_use = "a request does nothing unless awaited or waited for"]
pub struct LockRequest<G: Guards = LockGuard> {
    engine: Arc<EngineHandle>,
    keys: Result<G::Keys>,
    options: RequestOptions,
}

impl<G: Guards> LockRequest<G> {
    pub(super) fn new(engine: Arc<EngineHandle>, keys: Result<G::Keys>) -> Self {
        let options = RequestOptions::new(&engine.base.defaults);
        Self { engine, keys, options }
    }

    /// Requests a shared hold, which excludes exclusive holds but not other shared ones.
    pub fn shared(mut self) -> Self {
        self.options.terms.mode = Mode::Shared;
        self
    }

    /// Makes the lock a semaphore: up to `n` requests with a limit hold the key at the same time. 1 to 1,000; it implies
    /// [`shared`](Self::shared).
    ///
    /// Requests are granted in the order in which they came. One is granted when it is the first in the queue, and fewer than *its own*
    /// `n` hold the key: if a program that is being replaced by a newer version has another limit, neither fails, and none enters above
    /// its own. Holds with a limit exclude exclusive ones, and shared ones without a limit.
    ///
    /// Each acquire is an [`Owner`] of its own, unless [`owner`](Self::owner) is set: a task that acquires a second time takes a second
    /// slot, and waits for itself if it has the last one. Only the holder of an exclusive lock enters its own hold.
    ///
    /// Fencing tokens of slots grow, but do not order the holders, which work at the same time: a resource can refuse the token of a
    /// slot that is less than that of an exclusive hold, not that of another slot.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](LockError::Unsupported) on a backend without limits.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let _first = manager.lock("gpu").limit(2).await?;
    /// let _second = manager.semaphore("gpu", 2).await?; // the same
    /// assert!(manager.semaphore("gpu", 2).try_once().await?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn limit(mut self, n: u32) -> Self {
        (self.options.terms.mode, self.options.terms.limit) = (Mode::Shared, Some(n));
        self
    }

    /// Publishes a text of at most 1,024 bytes while the lock is held, such as the address of a leader:
    /// [`LockInfo::values`](crate::LockInfo::values) has it for everybody who may look up the lock. It is not for secrets.
    ///
    /// A hold that is entered again keeps its value.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](LockError::Unsupported) on a backend without values.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("leader").value("10.0.0.7:8080").await?;
    /// assert_eq!(guard.value(), Some("10.0.0.7:8080"));
    /// let info = manager.info("leader").await?.expect("it is held");
    /// assert_eq!(info.values, [Some("10.0.0.7:8080".to_owned())]);
    /// # Ok(()) });
    /// ```
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.options.terms.value = Some(value.into().into());
        self
    }

    /// Sets the TTL of the lease: at most one day, at least 100 ms; on etcd at least 1 s, rounded up to whole seconds, and granted
    /// as at least 2 s with etcd's default settings. The default is the manager's.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.terms.ttl = ttl;
        self
    }

    /// Limits the wait, after which the request fails with [`LockError::Timeout`]. By default there is no limit.
    ///
    /// Zero is allowed, but leaves the server no time to answer: to ask only once, use [`try_once`](Self::try_once).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// Sets the owner, instead of deriving it from the task or thread that polls; see [`Owner`].
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let owner = leasehold::Owner::new();
    /// let _outer = manager.lock("k").owner(&owner).await?;
    /// assert_eq!(manager.lock("k").owner(&owner).await?.depth(), 2);
    /// # Ok(()) });
    /// ```
    pub fn owner(mut self, owner: &Owner) -> Self {
        self.options.owner = OwnerSource::Owner(owner.clone());
        self
    }

    /// Sets whether the lease is renewed in the background; the default is the manager's, which is on.
    ///
    /// With `false` the hold has a separate lease and is lost one TTL after the grant, unless [`LockGuard::renew`] is called in time.
    /// While the request waits in the queue, the library renews its claim.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("k").ttl(Duration::from_secs(10)).auto_renew(false).await?;
    /// // … a step of a few seconds …
    /// assert!(guard.renew().await? > Duration::from_secs(9));
    /// # Ok(()) });
    /// ```
    pub fn auto_renew(mut self, on: bool) -> Self {
        self.options.terms.auto_renew = on;
        self
    }

    /// Limits the age of the hold, at which it is lost and released: longer than zero. It has a separate lease. The default is the
    /// manager's.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("k").max_hold(Duration::from_millis(50)).await?;
    /// assert_eq!(guard.lost().await, leasehold::Loss::MaxHold);
    /// # Ok(()) });
    /// ```
    pub fn max_hold(mut self, age: Duration) -> Self {
        self.options.terms.max_hold = Some(age);
        self
    }

    /// Gives the hold a separate lease, so that a `force_unlock` of another key does not also release it.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let alone = manager.lock("import").isolated().await?;
    /// let _other = manager.lock("export").await?;
    /// manager.force_unlock("export").await?;
    /// assert!(!alone.is_lost());
    /// # Ok(()) });
    /// ```
    pub fn isolated(mut self) -> Self {
        self.options.terms.isolated = true;
        self
    }

    /// Sets how often the request polls the server where notifications are not reliable: longer than zero. The default is the
    /// manager's, 100 ms.
    pub fn retry_interval(mut self, interval: Duration) -> Self {
        self.options.retry_interval = interval;
        self
    }

    /// Limits the wait to this many times the [`retry_interval`](Self::retry_interval); 0 is no limit. The default is the manager's.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let _held = manager.lock("k").owner(&leasehold::Owner::new()).await?;
    /// let request = manager.lock("k").retry_interval(Duration::from_millis(10)).max_retries(3);
    /// assert_eq!(request.await.unwrap_err().code(), "LOCK_TIMEOUT"); // after 30 ms
    /// # Ok(()) });
    /// ```
    pub fn max_retries(mut self, times: u32) -> Self {
        self.options.max_retries = times;
        self
    }

    /// Acquires the lock, blocking this thread. Without an explicit owner, the owner is the thread, or the task in
    /// `block_in_place`.
    ///
    /// # Errors
    ///
    /// Those of the acquire, and [`LockError::Unsupported`] where blocking would stall an async runtime.
    pub fn wait(self) -> Result<G> {
        blocking::wait(self.into_future())
    }

    /// Acquires the lock if it is free now, and returns `None` otherwise. It never overtakes waiters.
    ///
    /// # Errors
    ///
    /// Those of the acquire. An unreachable server is an error after the manager's timeout, or after this request's if that is
    /// shorter.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves nothing behind.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// match manager.lock("prices").shared().try_once().await? {
    ///     Some(guard) => println!("reading, with token {}", guard.token()),
    ///     None => println!("a writer holds it, or waits for it"),
    /// }
    /// # Ok(()) });
    /// ```
    pub fn try_once(self) -> Pending<Option<G>> {
        let acquisition = self.acquire(Wait::Never);
        Pending::new(async move { Ok(acquisition.await?.map(G::of)) })
    }

    /// Acquires the lock, waiting in the queue for up to `time`, and returns `None` if it was not free within it. Zero is
    /// [`try_once`](Self::try_once).
    ///
    /// A [`timeout`](Self::timeout) that is shorter replaces `time`; [`max_retries`](Self::max_retries) does not count.
    ///
    /// # Errors
    ///
    /// Those of the acquire, without [`LockError::Timeout`]. `None` says that the server has answered within the time, and that the lock
    /// was not free: an unreachable server is [`LockError::Backend`], and so is one that cannot grant a free lock.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point leaves nothing behind.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let _held = manager.lock("k").owner(&leasehold::Owner::new()).await?;
    /// assert!(manager.lock("k").try_for(Duration::from_millis(20)).await?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn try_for(mut self, time: Duration) -> Pending<Option<G>> {
        if time.is_zero() {
            return self.try_once();
        }
        self.options = self.options.trying_for(time);
        let acquisition = self.acquire(Wait::UntilGranted);
        Pending::new(async move {
            match acquisition.await {
                Err(LockError::Timeout { .. }) => Ok(None),
                acquired => Ok(acquired?.map(G::of)),
            }
        })
    }

    /// Acquires the lock, runs `work`, releases the lock, and returns the output of `work`.
    ///
    /// `work` is an async closure, `async |guard| …`. It can borrow from its surroundings; its output cannot borrow from the
    /// guard. If the lock is lost, `work` is dropped at its current await point. A panic in `work` releases the lock.
    ///
    /// # Errors
    ///
    /// - Those of the acquire: `work` has not started.
    /// - [`LockError::Expired`] with the key and the cause: the lock was lost before `work` completed.
    /// - Those of [`LockGuard::unlock`]: `work` has completed, and its output is discarded.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` at its current await point and releases the lock.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let mut log = Vec::new();
    /// let lines = manager.lock("log").timeout(Duration::from_secs(1)).with(async |guard| {
    ///     log.push(format!("{} with token {}", guard.key(), guard.token()));
    ///     log.len()
    /// });
    /// assert_eq!(lines.await?, 1);
    /// # Ok(()) });
    /// ```
    pub async fn with<T, F: AsyncFnOnce(&G) -> T>(mut self, work: F) -> Result<T> {
        let scope = self.scoped();
        run_under(self.await?, scope, work).await
    }

    /// Creates the scope of a closure: the owner of its hold, unless an owner around it holds the key already.
    pub(super) fn scoped(&mut self) -> Scope {
        if let OwnerSource::Owner(owner) = &self.options.owner {
            return Scope::new(owner.clone());
        }
        let scope = Scope::new(Owner::new());
        self.options.owner = OwnerSource::Scope(scope.clone());
        scope
    }

    /// Acquires the lock, runs `work` on this plain thread, releases the lock, and returns the output of `work`.
    ///
    /// A loss cannot interrupt `work`: check [`LockGuard::is_lost`] between its steps. The loss is reported afterwards.
    ///
    /// # Errors
    ///
    /// - Those of [`wait`](Self::wait): `work` has not started.
    /// - Those of [`LockGuard::unlock`], [`LockError::Expired`] with the key and the cause if the lock was lost: `work` has
    ///   completed, and its output is discarded.
    ///
    /// ```
    /// # fn main() -> leasehold::Result<()> {
    /// let manager = leasehold::LockManager::memory();
    /// let token = manager.lock("k").wait_with(|guard| guard.token())?;
    /// assert!(token.get() > 0);
    /// # Ok(()) }
    /// ```
    pub fn wait_with<T>(self, work: impl FnOnce(&G) -> T) -> Result<T> {
        let guards = self.wait()?;
        let output = work(&guards);
        guards.unlock().wait()?;
        Ok(output)
    }

    pub(super) fn options(&self) -> &RequestOptions {
        &self.options
    }

    pub(super) fn base(&self) -> &Arc<Base> {
        &self.engine.base
    }

    /// Acquires the lock, waiting for it.
    #[cfg(feature = "tower")]
    pub(super) fn until_granted(self) -> Pending<Option<G>> {
        let acquire = self.into_future();
        Pending::new(async move { acquire.await.map(Some) })
    }

    /// The error for those who want the lock to be free at once.
    #[cfg(feature = "tower")]
    pub(super) fn busy(&self) -> LockError {
        let keys = self.keys.as_ref().map(G::names).unwrap_or_default();
        let key = keys.first().map(ToString::to_string).unwrap_or_default();
        LockError::Timeout { key, after: Duration::ZERO, holder: None, own: false, source: None }
    }

    fn acquire(self, wait: Wait) -> G::Acquisition {
        let checked = self.check();
        let keys = self.keys.and_then(|keys| checked.map(|()| keys));
        G::acquire(self.engine, keys, self.options, wait)
    }

    fn check_features(&self) -> Result<()> {
        let (terms, backend) = (&self.options.terms, &self.engine.base.backend);
        if let Some(limit) = terms.limit {
            if !(1..=MOST_SLOTS).contains(&limit) {
                return Err(LockError::config(format!("limit: {limit} is not 1 to {MOST_SLOTS}")));
            }
            if !backend.features().limits {
                return Err(LockError::Unsupported { what: format!("a limit on {}", backend.kind()) });
            }
        }
        if let Some(value) = &terms.value {
            if value.len() > LONGEST_VALUE {
                let length = value.len();
                return Err(LockError::config(format!("value: {length} bytes are more than {LONGEST_VALUE}")));
            }
            if !backend.features().values {
                return Err(LockError::Unsupported { what: format!("a value on {}", backend.kind()) });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let terms = &self.options.terms;
        self.check_features()?;
        check_ttl(terms.ttl, self.engine.base.backend.min_ttl())?;
        terms.max_hold.map_or(Ok(()), |age| Bound::AboveZero.check("max_hold", age))?;
        Bound::AboveZero.check("retry_interval", self.options.retry_interval)
    }
}

impl LockRequest {
    /// The same request once more, with a new owner.
    pub(super) fn next_term(&self) -> Acquire {
        let mut options = self.options.clone();
        options.owner = OwnerSource::Owner(Owner::new());
        Self { engine: self.engine.clone(), keys: self.keys.clone(), options }.into_future()
    }
}

/// The greatest limit of a semaphore.
const MOST_SLOTS: u32 = 1000;

/// The longest value, in bytes.
const LONGEST_VALUE: usize = 1024;

/// Runs `work` in its scope until it completes or the lock is lost.
pub(super) async fn run_under<G: Guards, T, F: AsyncFnOnce(&G) -> T>(guards: G, scope: Scope, work: F) -> Result<T> {
    let output = {
        let mut running = pin!(Run::new(guards.lost(), work(&guards)));
        poll_fn(|cx| scope.poll(cx, |cx| running.as_mut().poll(cx))).await?
    };
    guards.unlock().await?;
    Ok(output)
}

impl<G: Guards> IntoFuture for LockRequest<G> {
    type Output = Result<G>;
    type IntoFuture = Acquire<G>;

    fn into_future(self) -> Acquire<G> {
        Acquire(self.acquire(Wait::UntilGranted))
    }
}

impl<G: Guards> fmt::Debug for LockRequest<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.as_ref().map(G::names);
        f.debug_struct("LockRequest").field("keys", &keys).field("options", &self.options).finish_non_exhaustive()
    }
}

/// The future of a [`LockRequest`].
#[must_use = "futures do nothing unless polled"]
pub struct Acquire<G: Guards = LockGuard>(G::Acquisition);

impl<G: Guards> Future for Acquire<G> {
    type Output = Result<G>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.get_mut().0).poll(cx).map(|acquired| {
            acquired.and_then(|shares| {
                let refused = || LockError::Unsupported { what: "a backend that does not wait for a grant".into() };
                shares.map(G::of).ok_or_else(refused)
            })
        })
    }
}

impl<G: Guards> fmt::Debug for Acquire<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").finish_non_exhaustive()
    }
}
