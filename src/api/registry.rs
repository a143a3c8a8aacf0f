//! Managers by name.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::RwLock;

use crate::api::force_unlock::ForceUnlock;
use crate::api::guard::LockGuard;
use crate::api::guards::LockGuards;
use crate::api::lock::Lock;
use crate::api::manager::LockManager;
use crate::api::pending::Pending;
use crate::api::request::LockRequest;
use crate::engine::Stats;
use crate::error::{LockError, Result};
use crate::info::LockInfo;

/// Managers by name, for programs that have several: one for each server or service.
///
/// Each verb of [`LockManager`] is here with the manager's name before it. All fail with [`LockError::InvalidConfig`] that names
/// the managers there are if there is none of that name; for all other errors, and for cancel safety, see the manager's.
///
/// It may be a `static`; then [`close_all`](Self::close_all) it at the end.
///
/// ```
/// # leasehold::doctest(async {
/// use leasehold::{LockManager, Registry};
///
/// static LOCKS: Registry = Registry::new();
///
/// LOCKS.register("jobs", LockManager::connect("memory://jobs").await?)?;
/// LOCKS.register("users", LockManager::connect("memory://users").await?)?;
/// let guard = LOCKS.lock("jobs", "nightly")?.await?;
/// assert!(LOCKS.get("jobs")?.is_locked("nightly").await?);
/// assert!(LOCKS.lock("job", "nightly").unwrap_err().to_string().contains("jobs, users"));
/// # drop(guard);
/// LOCKS.close_all().await?;
/// # Ok(()) });
/// ```
#[derive(Debug, Default)]
pub struct Registry {
    managers: RwLock<BTreeMap<String, LockManager>>,
}

impl Registry {
    /// Makes one without managers.
    pub const fn new() -> Self {
        Self { managers: RwLock::new(BTreeMap::new()) }
    }

    /// Adds a manager.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] if there is one of that name already.
    pub fn register(&self, name: impl Into<String>, manager: LockManager) -> Result<()> {
        let (name, mut managers) = (name.into(), self.managers.write());
        if managers.contains_key(&name) {
            return Err(LockError::config(format!("registry: there is a manager {name:?} already")));
        }
        managers.insert(name, manager);
        Ok(())
    }

    /// Takes a manager out, and returns it.
    pub fn remove(&self, name: &str) -> Option<LockManager> {
        self.managers.write().remove(name)
    }

    /// Returns the names of all managers, in order.
    pub fn names(&self) -> Vec<String> {
        self.managers.read().keys().cloned().collect()
    }

    /// Returns a manager.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] that names the managers there are.
    pub fn get(&self, name: &str) -> Result<LockManager> {
        let managers = self.managers.read();
        managers.get(name).cloned().ok_or_else(|| {
            let known = managers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "there are none".to_owned() } else { format!("known are {known}") };
            LockError::config(format!("registry: no manager {name:?}, {known}"))
        })
    }

    /// The manager's [`handle`](LockManager::handle).
    pub fn handle(&self, name: &str, key: impl AsRef<str>) -> Result<Lock> {
        self.get(name)?.handle(key)
    }

    /// The manager's [`lock`](LockManager::lock).
    pub fn lock(&self, name: &str, key: impl AsRef<str>) -> Result<LockRequest> {
        Ok(self.get(name)?.lock(key))
    }

    /// The manager's [`try_lock`](LockManager::try_lock).
    pub fn try_lock(&self, name: &str, key: impl AsRef<str>) -> Result<Pending<Option<LockGuard>>> {
        Ok(self.get(name)?.try_lock(key))
    }

    /// The manager's [`lock_all`](LockManager::lock_all).
    pub fn lock_all(&self, name: &str, keys: impl IntoIterator<Item: AsRef<str>>) -> Result<LockRequest<LockGuards>> {
        Ok(self.get(name)?.lock_all(keys))
    }

    /// The manager's [`with_lock`](LockManager::with_lock).
    pub fn with_lock<K: AsRef<str>, T, F: AsyncFnOnce(&LockGuard) -> T>(
        &self,
        name: &str,
        key: K,
        work: F,
    ) -> Result<impl Future<Output = Result<T>> + use<K, T, F>> {
        Ok(self.get(name)?.with_lock(key, work))
    }

    /// The manager's [`try_with_lock`](LockManager::try_with_lock).
    pub fn try_with_lock<K: AsRef<str>, T, F: AsyncFnOnce(&LockGuard) -> T>(
        &self,
        name: &str,
        key: K,
        work: F,
    ) -> Result<impl Future<Output = Result<Option<T>>> + use<K, T, F>> {
        Ok(self.get(name)?.try_with_lock(key, work))
    }

    /// The manager's [`is_locked`](LockManager::is_locked).
    pub fn is_locked(&self, name: &str, key: impl AsRef<str>) -> Result<Pending<bool>> {
        Ok(self.get(name)?.is_locked(key))
    }

    /// The manager's [`info`](LockManager::info).
    pub fn info(&self, name: &str, key: impl AsRef<str>) -> Result<Pending<Option<LockInfo>>> {
        Ok(self.get(name)?.info(key))
    }

    /// The manager's [`list`](LockManager::list).
    pub fn list(&self, name: &str, prefix: impl AsRef<str>) -> Result<Pending<Vec<LockInfo>>> {
        Ok(self.get(name)?.list(prefix))
    }

    /// The manager's [`force_unlock`](LockManager::force_unlock).
    pub fn force_unlock(&self, name: &str, key: impl AsRef<str>) -> Result<ForceUnlock> {
        Ok(self.get(name)?.force_unlock(key))
    }

    /// The manager's [`stats`](LockManager::stats).
    pub fn stats(&self, name: &str) -> Result<Stats> {
        Ok(self.get(name)?.stats())
    }

    /// The manager's [`ping`](LockManager::ping).
    pub fn ping(&self, name: &str) -> Result<Pending<Duration>> {
        Ok(self.get(name)?.ping())
    }

    /// The manager's [`close`](LockManager::close). It stays registered.
    pub fn close(&self, name: &str) -> Result<Pending<()>> {
        Ok(self.get(name)?.close())
    }

    /// Closes all managers, at the same time. They stay registered.
    ///
    /// # Errors
    ///
    /// The first, by name, of those of [`LockManager::close`]. All are closed nevertheless.
    ///
    /// # Cancel safety
    ///
    /// That of [`LockManager::close`].
    pub fn close_all(&self) -> Pending<()> {
        let closing: Vec<_> = self.managers.read().values().map(LockManager::close).collect();
        Pending::new(async move { join_all(closing).await.into_iter().collect() })
    }
}
