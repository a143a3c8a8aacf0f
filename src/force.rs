//! Taking a lock away.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;

use crate::engine::Life;
use crate::pending::Pending;
use crate::report::warn;
use crate::{Eviction, Result};

/// A lock to be taken away from whoever holds it: an administrator's last resort. `.await` it, or [`wait`](Self::wait) for it.
///
/// The holder's lease is revoked. On etcd that ends *all* holds of its manager that have the same TTL: [`Eviction`] names them.
/// [`key_only`](Self::key_only) takes away just this key; holds that are [`isolated`](crate::LockRequest::isolated) have a
/// lease of their own anyway. The holder learns of it within 200 ms; until then both may believe that they hold the lock, and
/// the [`FencingToken`](crate::FencingToken) tells who is right. A free key is no error.
///
/// # Errors
///
/// [`InvalidKey`](crate::LockError::InvalidKey) before any I/O; [`Backend`](crate::LockError::Backend) if the server does not answer
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
    life: Arc<Life>,
    key: Result<Arc<str>>,
    key_only: bool,
}

impl ForceUnlock {
    pub(crate) fn new(life: Arc<Life>, key: Result<Arc<str>>) -> Self {
        Self { life, key, key_only: false }
    }

    /// Takes away just this key's claim, if it is still the one that was seen.
    pub fn key_only(mut self) -> Self {
        self.key_only = true;
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
        let Self { life, key, key_only } = self;
        let key = match key {
            Ok(key) => key,
            Err(error) => return Pending::failed(error),
        };
        let (backend, evicted) = (life.backend.clone(), key.clone());
        let call = life.bounded(Some(&key), "force-unlock", async move { backend.evict(&evicted, key_only).await });
        Pending::new(call.map(move |evicted| {
            evicted.inspect(|eviction| {
                let holders = eviction.holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let (name, released) = (life.defaults.name.as_ref(), eviction.released.len());
                warn!(target: "leasehold", name = name, key = key.as_ref(); "{name}: lock {key:?} force-unlocked: {released} keys of {holders}");
            })
        }))
    }
}

impl fmt::Debug for ForceUnlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForceUnlock").field("key", &self.key).field("key_only", &self.key_only).finish_non_exhaustive()
    }
}
