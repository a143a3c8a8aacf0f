//! Asking for a lock.

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
use crate::engine::{EngineHandle, Options};
use crate::error::{LockError, Result};
use crate::info::Mode;
use crate::owner::{Owner, OwnerSource, Scope};
use crate::process::blocking;
use crate::settings;

/// A lock to be acquired, with the options for it. `.await` it, or [`wait`](Self::wait) for it on a plain thread.
///
/// Of [`lock_all`](crate::LockManager::lock_all), several locks; then all options are for all of them.
///
/// Nothing happens before the first poll; a place in the queue dates from then. It is an [`IntoFuture`]: `select!`, `join!` and
/// `timeout` of tokio take it as it is, `spawn` and `block_on` want `.into_future()`.
///
/// # Errors
///
/// Of the acquire: [`Timeout`](LockError::Timeout); [`AlreadyHeld`](LockError::AlreadyHeld) where the owner would wait for
/// itself; [`InvalidKey`](LockError::InvalidKey) and [`InvalidConfig`](LockError::InvalidConfig) before any I/O;
/// [`Closed`](LockError::Closed); [`Backend`](LockError::Backend) where trying again is no use, a wrong password for example. A
/// server that cannot be reached is tried again until the [`timeout`](Self::timeout), without one for ever.
///
/// # Cancel safety
///
/// Dropping it at any point leaves nothing behind: no claim, no queue entry. It costs the place in the queue.
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
    options: Options,
}

impl<G: Guards> LockRequest<G> {
    pub(super) fn new(engine: Arc<EngineHandle>, keys: Result<G::Keys>) -> Self {
        let options = Options::new(&engine.base.defaults);
        Self { engine, keys, options }
    }

    /// Asks for a shared hold: together with others, but with no exclusive one.
    pub fn shared(mut self) -> Self {
        self.options.terms.mode = Mode::Shared;
        self
    }

    /// Sets the TTL of the lease, instead of the manager's. At most a day; etcd has whole seconds, from one on, others at
    /// least 100 ms.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.options.terms.ttl = ttl;
        self
    }

    /// Waits no longer than this.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options.timeout = Some(limit);
        self
    }

    /// Locks for this owner instead of the one who polls.
    pub fn owner(mut self, owner: &Owner) -> Self {
        self.options.owner = OwnerSource::Owner(owner.clone());
        self
    }

    /// Sets whether the lease is renewed by itself. If not, the hold is lost after one TTL, unless
    /// [`LockGuard::renew`] is called in time; it has a separate lease. The TTL counts from the grant: while the request waits,
    /// its claim is kept alive.
    pub fn auto_renew(mut self, on: bool) -> Self {
        self.options.terms.auto_renew = on;
        self
    }

    /// Loses the hold at this age. It has a lease of its own.
    pub fn max_hold(mut self, age: Duration) -> Self {
        self.options.terms.max_hold = Some(age);
        self
    }

    /// Gives the hold a lease of its own, so that a `force_unlock` of another key does not take it along.
    pub fn isolated(mut self) -> Self {
        self.options.terms.isolated = true;
        self
    }

    /// Sets how often a waiter looks by itself where notifications cannot be trusted.
    pub fn retry_interval(mut self, interval: Duration) -> Self {
        self.options.retry_interval = interval;
        self
    }

    /// Waits no longer than this many times the [`retry_interval`](Self::retry_interval); 0 is no limit.
    pub fn max_retries(mut self, times: u32) -> Self {
        self.options.max_retries = times;
        self
    }

    /// Acquires the lock and blocks this thread meanwhile. The thread is the owner.
    ///
    /// # Errors
    ///
    /// Those of the acquire, and [`LockError::Unsupported`] where blocking would stop an async runtime.
    pub fn wait(self) -> Result<G> {
        blocking::wait(self.into_future())
    }

    /// Tries once: `None` if the lock is not free now. Never overtakes a queue.
    ///
    /// # Errors
    ///
    /// Those of the acquire; a server that cannot be reached is an error after the manager's timeout, or this request's if
    /// that is shorter.
    ///
    /// # Cancel safety
    ///
    /// Dropping it at any point leaves nothing behind.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// match manager.lock("prices").shared().try_once().await? {
    ///     Some(guard) => println!("reading, by token {}", guard.token()),
    ///     None => println!("somebody writes"),
    /// }
    /// # Ok(()) });
    /// ```
    pub fn try_once(self) -> Pending<Option<G>> {
        let acquisition = self.acquire(false);
        Pending::new(async move { Ok(acquisition.await?.map(G::of)) })
    }

    /// Runs `work` under the lock and returns what it returns. The lock is renewed for as long as that takes, and released
    /// before this returns.
    ///
    /// `work` is an async closure, `async |guard| …`, which may borrow from around it; what it returns cannot borrow from the
    /// guard. If the lock is lost, `work` is dropped where it awaits. A panic in it releases the lock.
    ///
    /// # Errors
    ///
    /// Those of the acquire, then `work` has not begun; [`LockError::Expired`] with key and cause if the lock was lost before
    /// `work` was done; those of [`LockGuard::unlock`], then `work` is done, and what it returned is lost.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `work` where it awaits, and releases.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let mut log = Vec::new();
    /// let lines = manager.lock("log").timeout(Duration::from_secs(1)).with(async |guard| {
    ///     log.push(format!("{} by token {}", guard.key(), guard.token()));
    ///     log.len()
    /// });
    /// assert_eq!(lines.await?, 1);
    /// # Ok(()) });
    /// ```
    pub async fn with<T, F: AsyncFnOnce(&G) -> T>(mut self, work: F) -> Result<T> {
        let scope = self.scoped();
        run_under(self.await?, scope, work).await
    }

    /// Makes the scope of a closure: the owner of what it holds, unless that is held around it.
    pub(super) fn scoped(&mut self) -> Scope {
        if let OwnerSource::Owner(owner) = &self.options.owner {
            return Scope::new(owner.clone());
        }
        let scope = Scope::new(Owner::new());
        self.options.owner = OwnerSource::Scope(scope.clone());
        scope
    }

    /// Runs `work` under the lock on this plain thread; see [`with`](Self::with).
    ///
    /// A loss cannot stop it: look at [`LockGuard::is_lost`] in between. It is reported afterwards.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait), then `work` has not begun; those of [`LockGuard::unlock`], then `work` is done, and what
    /// it returned is lost: [`LockError::Expired`] with key and cause if the lock was lost meanwhile.
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

    fn acquire(self, wait: bool) -> G::Acquisition {
        let checked = self.check();
        let keys = self.keys.and_then(|keys| checked.map(|()| keys));
        G::acquire(self.engine, keys, self.options, wait)
    }

    fn check(&self) -> Result<()> {
        let terms = &self.options.terms;
        settings::check_ttl(terms.ttl, self.engine.base.backend.min_ttl())?;
        if terms.max_hold.is_some_and(|age| age.is_zero()) {
            return Err(LockError::config("max_hold must be longer than zero"));
        }
        if self.options.retry_interval.is_zero() {
            return Err(LockError::config("retry_interval must be longer than zero"));
        }
        Ok(())
    }
}

/// Runs `work` in its scope until it is done or the lock is lost.
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
        Acquire(self.acquire(true))
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
                let refused = || LockError::Unsupported { what: "a backend that does not wait".into() };
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
