//! [`Lock`], the handle of one key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::guard::{LockGuard, prove};
use crate::api::force_unlock::ForceUnlock;
use crate::api::pending::Pending;
use crate::api::request::LockRequest;
use crate::api::watch::Watch;
use crate::engine::{EngineHandle, Entry};
use crate::error::{LockError, Result};
use crate::info::LockInfo;

/// A handle of one key of a manager.
///
/// While a handle of the key exists, [`LockManager::handle`](crate::LockManager::handle) returns the same object. A handle saves
/// the lookup of the key at each call; [`LockManager::lock`](crate::LockManager::lock) acquires the same lock without one.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let handle = manager.handle("k")?;
/// let guard = handle.lock().await?;
/// assert!(handle.is_held());
/// assert!(leasehold::Lock::ptr_eq(&handle, &manager.handle("k")?));
/// # drop(guard);
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Lock {
    engine: Arc<EngineHandle>,
    entry: Arc<Entry>,
}

impl Lock {
    pub(crate) fn new(engine: Arc<EngineHandle>, entry: Arc<Entry>) -> Self {
        Self { engine, entry }
    }

    /// Returns whether both are handles of the same key of the same manager.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        Arc::ptr_eq(&a.entry, &b.entry)
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.entry.key
    }

    /// Returns whether any owner of this manager holds the key. No I/O.
    pub fn is_held(&self) -> bool {
        // A forked child holds nothing, and the mutex may be locked for ever there.
        !self.engine.base.is_forked() && self.entry.arbiter().is_held(self.engine.base.now())
    }

    /// Requests the lock, waiting for it when awaited; see [`LockRequest`] for options, errors and cancel safety.
    pub fn lock(&self) -> LockRequest {
        LockRequest::new(self.engine.clone(), Ok(self.entry.clone()))
    }

    /// Acquires the lock if it is free now, and returns `None` otherwise; see [`LockRequest::try_once`] for errors and cancel safety.
    pub fn try_lock(&self) -> Pending<Option<LockGuard>> {
        self.lock().try_once()
    }

    /// Returns whether any client holds the key, by a request to the server.
    ///
    /// # Errors
    ///
    /// - [`LockError::Backend`] if the server does not answer within the manager's timeout or refuses the request, for example
    ///   because of a missing permission, or because what is stored at the key is not a compatible lock.
    /// - [`LockError::Closed`] if the manager is closed.
    ///
    /// # Cancel safety
    ///
    /// Read-only: dropping the future changes nothing.
    pub fn is_locked(&self) -> Pending<bool> {
        let info = self.info();
        Pending::new(async move { Ok(info.await?.is_some()) })
    }

    /// Returns the holders of the key and the number of waiters, by a request to the server; `None` if the key is free.
    ///
    /// # Errors
    ///
    /// - [`LockError::Backend`] if the server does not answer within the manager's timeout or refuses the request, for example
    ///   because of a missing permission, or because what is stored at the key is not a compatible lock.
    /// - [`LockError::Closed`] if the manager is closed.
    ///
    /// # Cancel safety
    ///
    /// Read-only: dropping the future changes nothing.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::builder().name("user-service").build().await?;
    /// let handle = manager.handle("k")?;
    /// assert!(handle.info().await?.is_none());
    /// let guard = handle.lock().await?;
    /// let info = handle.info().await?.expect("it is held");
    /// assert_eq!((info.mode, info.waiters), (leasehold::Mode::Exclusive, 0));
    /// assert_eq!(info.holders[0].name, "user-service");
    /// # drop(guard);
    /// # Ok(()) });
    /// ```
    pub fn info(&self) -> Pending<Option<LockInfo>> {
        let (backend, key) = (self.engine.base.backend.clone(), self.entry.key.clone());
        let call = async move { backend.inspect(&key).await };
        self.keep(self.engine.base.bounded(Some(self.key()), "look up", call))
    }

    /// Observes the holders of the key as they change; see [`Watch`].
    pub fn watch(&self) -> Watch {
        Watch::new(self.engine.clone(), Ok(self.entry.clone()))
    }

    /// Renews the lease of this manager's hold now, and returns the time until the new deadline.
    ///
    /// # Errors
    ///
    /// [`LockError::NotHeld`] if this manager does not hold the key; else those of [`LockGuard::renew`].
    ///
    /// # Cancel safety
    ///
    /// That of [`LockGuard::renew`].
    pub fn renew(&self) -> Pending<Duration> {
        let (engine, entry) = (self.engine.clone(), self.entry.clone());
        Pending::new(async move {
            engine.base.check_open(Some(&entry.key), "renew")?;
            // No share of the hold is taken: it would raise the depth that its owner's unlock() finds.
            let held = entry.arbiter().any_grant(engine.base.now()).cloned();
            match held {
                Some(held) => prove(held).await,
                None => Err(LockError::NotHeld { key: entry.key.to_string() }),
            }
        })
    }

    /// Revokes the lock, whichever client holds it; see [`ForceUnlock`] for errors and cancel safety.
    pub fn force_unlock(&self) -> ForceUnlock {
        ForceUnlock::new(self.engine.clone(), Ok(self.entry.key.clone()))
    }

    /// Keeps the entry, and so the handle's identity, for as long as the call.
    fn keep<T: Send + 'static>(&self, call: impl Future<Output = Result<T>> + Send + 'static) -> Pending<T> {
        let kept = (self.engine.clone(), self.entry.clone());
        Pending::new(async move {
            let _kept = kept;
            call.await
        })
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("key", &self.entry.key).field("held", &self.is_held()).finish_non_exhaustive()
    }
}
