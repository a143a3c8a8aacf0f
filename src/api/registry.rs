//! [`Registry`]: managers by name.

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

/// A map of managers by name, for programs that use several servers or services.
///
/// It has each method of [`LockManager`], with the manager's name as an additional first argument. Every method fails with
/// [`LockError::InvalidConfig`], which lists the registered names, if no manager has that name. All other errors and the cancel
/// safety are those of the manager's method.
///
/// A registry can be a `static`; then call [`close_all`](Self::close_all) before the program ends.
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
    /// Creates an empty registry.
    pub const fn new() -> Self {
        Self { managers: RwLock::new(BTreeMap::new()) }
    }

    /// Registers a manager under a name.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`] if the name is already registered.
    pub fn register(&self, name: impl Into<String>, manager: LockManager) -> Result<()> {
        let (name, mut managers) = (name.into(), self.managers.write());
        if managers.contains_key(&name) {
            return Err(LockError::config(format!("registry: the manager {name:?} is already registered")));
        }
        managers.insert(name, manager);
        Ok(())
    }

    /// Removes a manager and returns it, if the name is registered. The manager stays open.
    pub fn remove(&self, name: &str) -> Option<LockManager> {
        self.managers.write().remove(name)
    }

    /// Returns the names of all managers, sorted.
    pub fn names(&self) -> Vec<String> {
        self.managers.read().keys().cloned().collect()
    }

    /// Returns the manager of a name.
    ///
    /// # Errors
    ///
    /// [`LockError::InvalidConfig`], which lists the registered names, if the name is not registered.
    pub fn get(&self, name: &str) -> Result<LockManager> {
        let managers = self.managers.read();
        managers.get(name).cloned().ok_or_else(|| {
            let known = managers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none" } else { known.as_str() };
            LockError::config(format!("registry: unknown manager {name:?}; registered managers: {known}"))
        })
    }

    /// Calls [`LockManager::handle`] on the manager of a name.
    pub fn handle(&self, name: &str, key: impl AsRef<str>) -> Result<Lock> {
        self.get(name)?.handle(key)
    }

    /// Calls [`LockManager::lock`] on the manager of a name.
    pub fn lock(&self, name: &str, key: impl AsRef<str>) -> Result<LockRequest> {
        Ok(self.get(name)?.lock(key))
    }

    /// Calls [`LockManager::try_lock`] on the manager of a name.
    pub fn try_lock(&self, name: &str, key: impl AsRef<str>) -> Result<Pending<Option<LockGuard>>> {
        Ok(self.get(name)?.try_lock(key))
    }

    /// Calls [`LockManager::lock_all`] on the manager of a name.
    pub fn lock_all(&self, name: &str, keys: impl IntoIterator<Item: AsRef<str>>) -> Result<LockRequest<LockGuards>> {
        Ok(self.get(name)?.lock_all(keys))
    }

    /// Calls [`LockManager::with_lock`] on the manager of a name.
    pub fn with_lock<K: AsRef<str>, T, F: AsyncFnOnce(&LockGuard) -> T>(
        &self,
        name: &str,
        key: K,
        work: F,
    ) -> Result<impl Future<Output = Result<T>> + use<K, T, F>> {
        Ok(self.get(name)?.with_lock(key, work))
    }

    /// Calls [`LockManager::try_with_lock`] on the manager of a name.
    pub fn try_with_lock<K: AsRef<str>, T, F: AsyncFnOnce(&LockGuard) -> T>(
        &self,
        name: &str,
        key: K,
        work: F,
    ) -> Result<impl Future<Output = Result<Option<T>>> + use<K, T, F>> {
        Ok(self.get(name)?.try_with_lock(key, work))
    }

    /// Calls [`LockManager::is_locked`] on the manager of a name.
    pub fn is_locked(&self, name: &str, key: impl AsRef<str>) -> Result<Pending<bool>> {
        Ok(self.get(name)?.is_locked(key))
    }

    /// Calls [`LockManager::info`] on the manager of a name.
    pub fn info(&self, name: &str, key: impl AsRef<str>) -> Result<Pending<Option<LockInfo>>> {
        Ok(self.get(name)?.info(key))
    }

    /// Calls [`LockManager::list`] on the manager of a name.
    pub fn list(&self, name: &str, prefix: impl AsRef<str>) -> Result<Pending<Vec<LockInfo>>> {
        Ok(self.get(name)?.list(prefix))
    }

    /// Calls [`LockManager::force_unlock`] on the manager of a name.
    pub fn force_unlock(&self, name: &str, key: impl AsRef<str>) -> Result<ForceUnlock> {
        Ok(self.get(name)?.force_unlock(key))
    }

    /// Calls [`LockManager::stats`] on the manager of a name.
    pub fn stats(&self, name: &str) -> Result<Stats> {
        Ok(self.get(name)?.stats())
    }

    /// Calls [`LockManager::ping`] on the manager of a name.
    pub fn ping(&self, name: &str) -> Result<Pending<Duration>> {
        Ok(self.get(name)?.ping())
    }

    /// Calls [`LockManager::close`] on the manager of a name. The manager stays registered.
    pub fn close(&self, name: &str) -> Result<Pending<()>> {
        Ok(self.get(name)?.close())
    }

    /// Closes all managers concurrently. They stay registered.
    ///
    /// # Errors
    ///
    /// Those of [`LockManager::close`]: the first in the order of the names. All managers are closed in any case.
    ///
    /// # Cancel safety
    ///
    /// That of [`LockManager::close`].
    pub fn close_all(&self) -> Pending<()> {
        let closing: Vec<_> = self.managers.read().values().map(LockManager::close).collect();
        Pending::new(async move { join_all(closing).await.into_iter().collect() })
    }
}
