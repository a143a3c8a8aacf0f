//! [`ForceUnlock`]: revoking a lock from its holder.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;

use crate::api::pending::Pending;
use crate::backend::{Evict, EvictScope};
use crate::display::Printable;
use crate::engine::EngineHandle;
use crate::error::{LockError, Result};
use crate::info::{Eviction, LockInfo};
use crate::process::report::warn;

/// A request to revoke a lock, an administrator's last resort: `.await` it, or call [`wait`](Self::wait).
///
/// The client that holds the lock when the request reaches the server loses it. [`expecting`](Self::expecting) restricts the
/// request to a holder that was seen before. The holder's lease is revoked, which on etcd ends *all* holds of its manager with the
/// same TTL; [`Eviction`] lists them. [`key_only`](Self::key_only) revokes only this key, and holds that are
/// [`isolated`](crate::LockRequest::isolated) have a separate lease.
///
/// A holder that is connected is notified within 200 ms; one that is cut off loses the lock at its deadline. Until then the old and
/// the next holder may both consider the lock theirs, and the [`FencingToken`](crate::FencingToken) distinguishes them. Revoking a
/// free key succeeds with an empty [`Eviction`].
///
/// # Errors
///
/// - [`InvalidKey`](crate::LockError::InvalidKey), before any I/O.
/// - [`InvalidConfig`](crate::LockError::InvalidConfig) and [`Unsupported`](crate::LockError::Unsupported) for an invalid
///   [expectation](Self::expecting), before any I/O.
/// - [`Backend`](crate::LockError::Backend) if the server does not answer within the manager's timeout; the lock may or may not
///   have been revoked.
/// - [`Closed`](crate::LockError::Closed) if the manager is closed.
///
/// # Cancel safety
///
/// If the future is dropped, a request that was already sent may still take effect.
///
/// ```
/// # leasehold::doctest(async {
/// let (holder, admin) = (leasehold::LockManager::connect("memory://office").await?, leasehold::LockManager::connect("memory://office").await?);
/// let guard = holder.lock("k").await?;
/// let eviction = admin.force_unlock("k").await?;
/// assert_eq!(eviction.released, ["k"]);
/// assert_eq!(guard.lost().await, leasehold::Loss::Revoked);
/// # Ok(()) });
/// ```
#[must_use = "nothing is unlocked unless awaited or waited for"]
pub struct ForceUnlock {
    engine: Arc<EngineHandle>,
    key: Result<Arc<str>>,
    evict: Evict,
}

impl ForceUnlock {
    pub(crate) fn new(engine: Arc<EngineHandle>, key: Result<Arc<str>>) -> Self {
        Self { engine, key, evict: Evict::default() }
    }

    /// Revokes only this key's claim and leaves the holder's lease alone.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use leasehold::LockManager;
    /// let (holder, admin) = (LockManager::connect("memory://key-only").await?, LockManager::connect("memory://key-only").await?);
    /// let guards = holder.lock_all(["a", "b"]).await?;
    /// let eviction = admin.force_unlock("a").key_only().await?;
    /// assert_eq!(eviction.released, ["a"]);
    /// assert!(!guards[1].is_lost());
    /// # Ok(()) });
    /// ```
    pub fn key_only(mut self) -> Self {
        self.evict.scope = EvictScope::Claim;
        self
    }

    /// Revokes the lock only from the holders in `info`, for decisions that take a person some time.
    ///
    /// The server compares and removes in one step. If none of these holders holds the lock any more, nothing changes, even if
    /// another client holds it now, and the [`Eviction`] is empty. Holders that joined a shared lock later keep it. On etcd a lease
    /// is revoked only if its claim was still there. After a handover to another task of the same process the hold still counts as
    /// the one in `info`. On Redis this also applies to a later hold of a foreign client that always writes the same value.
    ///
    /// The request fails with [`LockError::InvalidConfig`] if `info` is about another key, and with [`LockError::Unsupported`] if
    /// `info` has no claims: what is stored at the key is not a lock, or the backend cannot identify claims.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # let (holder, admin) = (leasehold::LockManager::connect("memory://desk").await?, leasehold::LockManager::connect("memory://desk").await?);
    /// let stuck = holder.lock("k").await?;
    /// let seen = admin.info("k").await?.expect("held");
    /// // Before the decision is made, the lock gets another holder.
    /// stuck.unlock().await?;
    /// let next = holder.lock("k").await?;
    /// let eviction = admin.force_unlock("k").expecting(&seen).await?;
    /// assert!(eviction.released.is_empty() && !next.is_lost());
    /// # Ok(()) });
    /// ```
    pub fn expecting(mut self, info: &LockInfo) -> Self {
        self.key = self.key.and_then(|key| {
            if info.key != *key {
                let seen = Printable(&info.key);
                return Err(LockError::config(format!("expecting: the info is about {seen:?}, not about {key:?}")));
            }
            if info.claims.is_empty() {
                let kind = self.engine.base.backend.kind();
                let what = format!("expecting: {kind} cannot identify the claim of {key:?}");
                return Err(LockError::Unsupported { what });
            }
            Ok(key)
        });
        self.evict.only = Some(info.claims.clone());
        self
    }

    /// Sends the request, blocking this thread until the server has answered.
    ///
    /// # Errors
    ///
    /// Those of [`ForceUnlock`], and [`LockError::Unsupported`] where blocking would stall an async runtime.
    pub fn wait(self) -> Result<Eviction> {
        self.into_future().wait()
    }
}

impl IntoFuture for ForceUnlock {
    type Output = Result<Eviction>;
    type IntoFuture = Pending<Eviction>;

    fn into_future(self) -> Pending<Eviction> {
        let Self { engine, key, evict } = self;
        let key = match key {
            Ok(key) => key,
            Err(error) => return Pending::failed(error),
        };
        let (backend, evicted) = (engine.base.backend.clone(), key.clone());
        let call =
            engine.base.bounded(Some(&key), "force-unlock", async move { backend.evict(&evicted, &evict).await });
        Pending::new(call.map(move |evicted| {
            evicted.inspect(|eviction| {
                let holders = eviction.holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let (name, released) = (engine.base.name(), eviction.released.len());
                if released > 0 {
                    let holders = Printable(&holders);
                    warn!(target: "leasehold", name = name, key = key.as_ref(); "{name}: lock {key:?} force-unlocked: {released} keys of {holders}");
                }
            })
        }))
    }
}

impl fmt::Debug for ForceUnlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForceUnlock").field("key", &self.key).field("evict", &self.evict).finish_non_exhaustive()
    }
}
