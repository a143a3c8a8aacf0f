//! [`LockGuards`], and what one guard and several have in common.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use futures::future::join_all;

use super::guard::LockGuard;
use super::lost::{Lost, Run};
use super::pending::Pending;
use crate::backend::Wait;
use crate::engine::acquire::Acquisition;
use crate::engine::acquire_all::AllAcquisition;
use crate::engine::{EngineHandle, Entry, RequestOptions, Share};
use crate::error::Result;

/// The output of a [`LockRequest`](crate::LockRequest): a [`LockGuard`] or [`LockGuards`]. Sealed: no other type implements it.
#[expect(private_bounds, reason = "keeps others from implementing it")]
pub trait Guards: Acquirable {}

impl Guards for LockGuard {}
impl Guards for LockGuards {}

/// The private part of [`Guards`].
pub(crate) trait Acquirable: Sized + Send + Unpin + 'static {
    /// The keys of a request that was not polled yet.
    type Keys: Send + Sync;
    /// What the engine gives for them.
    type Shares;
    type Acquisition: Future<Output = Result<Option<Self::Shares>>> + Send + Unpin + 'static;

    fn acquire(
        engine: Arc<EngineHandle>,
        keys: Result<Self::Keys>,
        options: RequestOptions,
        wait: Wait,
    ) -> Self::Acquisition;
    fn of(shares: Self::Shares) -> Self;
    fn names(keys: &Self::Keys) -> Vec<Arc<str>>;
    fn lost(&self) -> Lost;
    fn unlock(self) -> Pending<()>;
}

impl Acquirable for LockGuard {
    type Keys = Arc<Entry>;
    type Shares = Share;
    type Acquisition = Acquisition;

    fn acquire(engine: Arc<EngineHandle>, key: Result<Arc<Entry>>, options: RequestOptions, wait: Wait) -> Acquisition {
        Acquisition::new(engine, key, options, wait)
    }

    fn of(share: Share) -> Self {
        Self::new(share)
    }

    fn names(key: &Arc<Entry>) -> Vec<Arc<str>> {
        vec![key.key.clone()]
    }

    fn lost(&self) -> Lost {
        self.lost()
    }

    fn unlock(self) -> Pending<()> {
        self.unlock()
    }
}

impl Acquirable for LockGuards {
    type Keys = Vec<Arc<Entry>>;
    type Shares = Vec<Share>;
    type Acquisition = AllAcquisition;

    fn acquire(
        engine: Arc<EngineHandle>,
        keys: Result<Vec<Arc<Entry>>>,
        options: RequestOptions,
        wait: Wait,
    ) -> AllAcquisition {
        AllAcquisition::new(engine, keys, options, wait)
    }

    fn of(shares: Vec<Share>) -> Self {
        Self(shares.into_iter().map(LockGuard::new).collect())
    }

    fn names(keys: &Vec<Arc<Entry>>) -> Vec<Arc<str>> {
        keys.iter().map(|entry| entry.key.clone()).collect()
    }

    fn lost(&self) -> Lost {
        self.lost()
    }

    fn unlock(self) -> Pending<()> {
        self.unlock()
    }
}

/// The guards of [`lock_all`](crate::LockManager::lock_all), in the order of its keys.
///
/// It dereferences to a slice of [`LockGuard`]s, and iterates over them to separate them. Dropping it releases all locks.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let guards = manager.lock_all(["account/7", "account/3"]).await?;
/// assert!(guards.iter().all(|guard| guard.depth() == 1));
/// for guard in guards {
///     guard.unlock().await?;
/// }
/// # Ok(()) });
/// ```
#[must_use = "if unused the locks are released at once"]
pub struct LockGuards(Vec<LockGuard>);

impl LockGuards {
    /// Returns whether any of the holds is lost or can no longer be proven; see [`LockGuard::is_lost`].
    pub fn is_lost(&self) -> bool {
        self.iter().any(LockGuard::is_lost)
    }

    /// Returns a future that completes when the first of the holds is lost; see [`LockGuard::lost`] for cancel safety.
    ///
    /// It covers all of them, also after the guards were separated by iteration. A hold that was released can no longer be lost.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guards = manager.lock_all(["a", "b"]).await?;
    /// manager.force_unlock("b").await?;
    /// assert_eq!(guards.lost().await, leasehold::Loss::Revoked);
    /// # Ok(()) });
    /// ```
    pub fn lost(&self) -> Lost {
        Lost::of(self.0.iter().map(LockGuard::share))
    }

    /// Runs `work` until it completes, and drops it if any of the holds is lost first; see [`LockGuard::run`].
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`](crate::LockError::Expired) with the key and the cause of the first loss.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` at its current await point. The guards keep the locks.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guards = manager.lock_all(["a", "b"]).await?;
    /// assert_eq!(guards.run(async { 1 + 2 }).await?, 3);
    /// # Ok(()) });
    /// ```
    pub fn run<F: IntoFuture>(&self, work: F) -> Run<F::IntoFuture> {
        Run::new(self.lost(), work)
    }

    /// Releases all locks and waits until the server has confirmed it; see [`LockGuard::unlock`].
    ///
    /// # Errors
    ///
    /// The first error in the order of the keys. All locks are released in any case.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point releases all locks.
    pub fn unlock(self) -> Pending<()> {
        Pending::new(async move { join_all(self.0.into_iter().map(LockGuard::unlock)).await.into_iter().collect() })
    }
}

impl Deref for LockGuards {
    type Target = [LockGuard];

    fn deref(&self) -> &[LockGuard] {
        &self.0
    }
}

impl IntoIterator for LockGuards {
    type Item = LockGuard;
    type IntoIter = std::vec::IntoIter<LockGuard>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a LockGuards {
    type Item = &'a LockGuard;
    type IntoIter = std::slice::Iter<'a, LockGuard>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl fmt::Debug for LockGuards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
