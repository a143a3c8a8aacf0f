//! What a request gives: one guard, or several that belong together.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use futures::future::join_all;

use super::guard::LockGuard;
use super::lost::{Lost, Run};
use super::pending::Pending;
use crate::engine::acquire::Acquisition;
use crate::engine::acquire_all::AllAcquisition;
use crate::engine::{EngineHandle, Entry, Options, Share};
use crate::error::Result;

/// What a [`LockRequest`](crate::LockRequest) gives: a [`LockGuard`], or [`LockGuards`]. Nothing else can be.
#[expect(private_bounds, reason = "keeps others from implementing it")]
pub trait Guards: Acquirable {}

impl Guards for LockGuard {}
impl Guards for LockGuards {}

/// The inside of [`Guards`].
pub(crate) trait Acquirable: Sized + Send + Unpin + 'static {
    /// What is known of the keys before the first poll.
    type Keys: Send + Sync;
    /// What the engine gives for them.
    type Shares;
    type Acquisition: Future<Output = Result<Option<Self::Shares>>> + Send + Unpin + 'static;

    fn acquire(engine: Arc<EngineHandle>, keys: Result<Self::Keys>, options: Options, wait: bool) -> Self::Acquisition;
    fn of(shares: Self::Shares) -> Self;
    fn names(keys: &Self::Keys) -> Vec<Arc<str>>;
    fn lost(&self) -> Lost;
    fn unlock(self) -> Pending<()>;
}

impl Acquirable for LockGuard {
    type Keys = Arc<Entry>;
    type Shares = Share;
    type Acquisition = Acquisition;

    fn acquire(engine: Arc<EngineHandle>, key: Result<Arc<Entry>>, options: Options, wait: bool) -> Acquisition {
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
        options: Options,
        wait: bool,
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

/// The guards of [`lock_all`](crate::LockManager::lock_all), in the order of the keys there.
///
/// A slice of [`LockGuard`]s, and an iterator over them for those who go separate ways. Dropping it releases all.
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
    /// Returns whether any of the holds is lost, or may be; see [`LockGuard::is_lost`].
    pub fn is_lost(&self) -> bool {
        self.iter().any(LockGuard::is_lost)
    }

    /// Returns a future that is ready when the first of the holds is lost; see [`LockGuard::lost`], also for cancel safety.
    pub fn lost(&self) -> Lost {
        Lost::of(self.0.iter().map(LockGuard::share))
    }

    /// Runs `work` and drops it if any of the holds is lost; see [`LockGuard::run`].
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`](crate::LockError::Expired) with the key and the cause of the first loss.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `work` where it awaits. The guards still hold.
    pub fn run<F: IntoFuture>(&self, work: F) -> Run<F::IntoFuture> {
        Run::new(self.lost(), work)
    }

    /// Releases all and waits until the server has confirmed; see [`LockGuard::unlock`].
    ///
    /// # Errors
    ///
    /// The first key's, in the order asked, whose release failed. All are released nevertheless.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point releases all.
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
