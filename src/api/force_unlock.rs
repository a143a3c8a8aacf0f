//! Taking a lock away.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;

use crate::api::pending::Pending;
use crate::backend::Evict;
use crate::display::Printable;
use crate::engine::EngineHandle;
use crate::error::{LockError, Result};
use crate::info::{Eviction, LockInfo};
use crate::process::report::warn;

/// A lock to be taken away from whoever holds it: an administrator's last resort. `.await` it, or [`wait`](Self::wait) for it.
///
/// Whatever holds the lock when the call reaches the server loses it; [`expecting`](Self::expecting) takes it only from the holder that
/// was seen before. The holder's lease is revoked. On etcd that ends *all* holds of its manager that have the same TTL:
/// [`Eviction`] names them.
/// [`key_only`](Self::key_only) takes away just this key; holds that are [`isolated`](crate::LockRequest::isolated) have a
/// lease of their own anyway. The holder learns of it within 200 ms; until then both may believe that they hold the lock, and
/// the [`FencingToken`](crate::FencingToken) tells who is right. A free key is no error.
///
/// # Errors
///
/// [`InvalidKey`](crate::LockError::InvalidKey), and [`InvalidConfig`](crate::LockError::InvalidConfig) and
/// [`Unsupported`](crate::LockError::Unsupported) for what is [expected](Self::expecting), before any I/O; [`Backend`](crate::LockError::Backend) if the server does not answer
/// within the manager's timeout, then the lock may have been taken away or not; [`Closed`](crate::LockError::Closed).
///
/// # Cancel safety
///
/// What was sent may take effect all the same.
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

    /// Takes away just this key's claim, if it is still the one that was seen.
    pub fn key_only(mut self) -> Self {
        self.evict.key_only = true;
        self
    }

    /// Takes the lock away only from those who held it when `info` was asked for, who were shown to somebody who has decided since.
    ///
    /// The server compares and removes in one step. If none of them holds the lock any more, nothing happens, whoever holds it now, and
    /// the [`Eviction`] is empty; of those who share a lock, the ones that came later stay. On etcd, a lease is only revoked if its
    /// claim was still there. A hold that was handed over to another task of the same process is still the one that was seen, and so
    /// is, on Redis, one of a foreign client that always writes the same value.
    ///
    /// It fails with [`LockError::InvalidConfig`] if `info` is about another key, and with [`LockError::Unsupported`] if it names no
    /// claims, since what is there is no lock, or the backend cannot tell one claim from another.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # let (holder, admin) = (leasehold::LockManager::connect("memory://desk").await?, leasehold::LockManager::connect("memory://desk").await?);
    /// let stuck = holder.lock("k").await?;
    /// let seen = admin.info("k").await?.expect("held");
    /// // While somebody thinks about it, the lock gets another holder.
    /// stuck.unlock().await?;
    /// let next = holder.lock("k").await?;
    /// let eviction = admin.force_unlock("k").expecting(&seen).await?;
    /// assert!(eviction.released.is_empty() && !next.is_lost());
    /// # Ok(()) });
    /// ```
    pub fn expecting(mut self, info: &LockInfo) -> Self {
        self.key = self.key.and_then(|key| {
            if info.key != *key {
                return Err(LockError::config(format!("expecting: {:?} is not {key:?}", Printable(&info.key))));
            }
            if info.claims.is_empty() {
                let what =
                    format!("expecting: {} does not say which claim holds {key:?}", self.engine.base.backend.kind());
                return Err(LockError::Unsupported { what });
            }
            Ok(key)
        });
        self.evict.only = Some(info.claims.clone());
        self
    }

    /// Does it and blocks this thread meanwhile.
    ///
    /// # Errors
    ///
    /// [`LockError::Backend`](crate::LockError::Backend) if the server does not answer within the manager's timeout.
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
