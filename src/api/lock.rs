//! The handle of one key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::guard::{LockGuard, prove};
use crate::api::force_unlock::ForceUnlock;
use crate::api::pending::Pending;
use crate::api::request::LockRequest;
use crate::engine::{EngineHandle, Entry};
use crate::error::{LockError, Result};
use crate::info::LockInfo;

/// The handle of one key: one object per key and manager while any of its clones lives.
///
/// Having one saves looking the key up each time, no more; [`LockManager::lock`](crate::LockManager::lock) locks the same lock.
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

    /// Returns whether both are the same handle.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        Arc::ptr_eq(&a.entry, &b.entry)
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.entry.key
    }

    /// Returns whether this manager holds the key, whoever the owner. No I/O.
    pub fn is_held(&self) -> bool {
        // A forked child holds nothing, and the mutex may be locked for ever there.
        !self.engine.base.is_forked() && self.entry.arbiter().is_held(self.engine.base.now())
    }

    /// Asks for the lock; see [`LockRequest`] for options, errors and cancel safety.
    pub fn lock(&self) -> LockRequest {
        LockRequest::new(self.engine.clone(), Ok(self.entry.clone()))
    }

    /// Tries once: `None` if the lock is not free now; see [`LockRequest::try_once`] for errors and cancel safety.
    pub fn try_lock(&self) -> Pending<Option<LockGuard>> {
        self.lock().try_once()
    }

    /// Asks the server whether anybody holds the key.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`] if the server does not answer within the manager's timeout.
    ///
    /// # Cancel safety
    ///
    /// It only looks: dropping it changes nothing.
    pub fn is_locked(&self) -> Pending<bool> {
        let info = self.info();
        Pending::new(async move { Ok(info.await?.is_some()) })
    }

    /// Asks the server who holds the key. `None` if nobody does.
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

    /// Proves this manager's hold now; returns for how long it is certain then.
    ///
    /// # Errors
    ///
    /// [`LockError::NotHeld`] where this manager holds nothing; else those of [`LockGuard::renew`].
    ///
    /// # Cancel safety
    ///
    /// That of [`LockGuard::renew`].
    pub fn renew(&self) -> Pending<Duration> {
        let (engine, entry) = (self.engine.clone(), self.entry.clone());
        Pending::new(async move {
            engine.base.check_open(Some(&entry.key), "renew")?;
            // No share of the hold: its owner's unlock() shall not find a guard more.
            let held = entry.arbiter().any_grant(engine.base.now());
            match held {
                Some(held) => prove(held).await,
                None => Err(LockError::NotHeld { key: entry.key.to_string() }),
            }
        })
    }

    /// Takes the lock away from whoever holds it; see [`ForceUnlock`] for errors and cancel safety.
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
