//! Refusing what comes too late.

#[cfg(feature = "redis")]
mod redis;

use std::fmt;

use parking_lot::Mutex;

use crate::token::FencingToken;

#[cfg(feature = "redis")]
pub use self::redis::RedisFence;

/// A resource of this process that refuses holders who come too late, by their [`FencingToken`]s.
///
/// A lock that is held by a lease can be lost without its holder noticing in time: after a pause it may write although another
/// holds the lock by then. The gate lets in whoever has the greatest token so far, and nobody with a smaller one.
///
/// For a resource on a server, let the server do the same: a condition on the greatest token in the `UPDATE` of a database,
/// for example; there is `RedisFence` for a key on Redis, and `LockGuard::etcd_compare` for what is on the etcd of the locks.
///
/// ```
/// # leasehold::doctest(async {
/// # use std::time::Duration;
/// use leasehold::{FenceGate, LockManager};
///
/// let file = FenceGate::new(Vec::new());
/// let (slow, quick) = (LockManager::connect("memory://fence").await?, LockManager::connect("memory://fence").await?);
///
/// // The first holder's lease runs out while it is paused.
/// let paused = slow.lock("file").ttl(Duration::from_millis(100)).auto_renew(false).await?;
/// let guard = quick.lock("file").await?;
/// file.enter(guard.token(), |lines| lines.push("the second")).expect("the newest token");
///
/// let late = file.enter(paused.token(), |lines| lines.push("the first, too late"));
/// assert_eq!(late.unwrap_err().greatest, guard.token());
/// assert_eq!(file.into_inner(), ["the second"]);
/// # Ok(()) });
/// ```
#[derive(Debug, Default)]
pub struct FenceGate<T = ()> {
    inside: Mutex<Inside<T>>,
}

#[derive(Debug, Default)]
struct Inside<T> {
    greatest: Option<FencingToken>,
    resource: T,
}

impl<T> FenceGate<T> {
    /// Puts a resource behind a gate.
    pub const fn new(resource: T) -> Self {
        Self { inside: Mutex::new(Inside { greatest: None, resource }) }
    }

    /// Runs `work` on the resource if nobody with a greater token has been here; others wait meanwhile.
    ///
    /// Readers of a shared lock may have the same token, and pass.
    ///
    /// # Errors
    ///
    /// [`StaleToken`]: `work` was not run, and the lock is another's.
    pub fn enter<R>(&self, token: FencingToken, work: impl FnOnce(&mut T) -> R) -> Result<R, StaleToken> {
        let mut inside = self.inside.lock();
        if let Some(greatest) = inside.greatest.filter(|greatest| *greatest > token) {
            return Err(StaleToken { token, greatest });
        }
        inside.greatest = Some(token);
        Ok(work(&mut inside.resource))
    }

    /// Returns the greatest token so far.
    pub fn greatest(&self) -> Option<FencingToken> {
        self.inside.lock().greatest
    }

    /// Takes the resource out.
    pub fn into_inner(self) -> T {
        self.inside.into_inner().resource
    }
}

/// A token that is smaller than the greatest one that a [`FenceGate`] or a `RedisFence` has seen: its holder has lost the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleToken {
    /// The token that was refused.
    pub token: FencingToken,
    /// The greatest so far.
    pub greatest: FencingToken,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} is too late, {} was here", self.token, self.greatest)
    }
}

impl std::error::Error for StaleToken {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn smaller_tokens_are_refused_and_change_nothing() {
        let gate = FenceGate::new(Vec::new());
        let enter = |token: u64| gate.enter(token.into(), |seen| seen.push(token));
        assert_eq!(gate.greatest(), None);
        for token in [5, 5, 1 << 53, (1 << 53) + 1] {
            assert_eq!(enter(token), Ok(()));
        }
        let refused = enter(1 << 53).unwrap_err();
        assert_eq!((refused.token.get(), refused.greatest.get()), (1 << 53, (1 << 53) + 1));
        assert_eq!(gate.greatest().map(FencingToken::get), Some((1 << 53) + 1));
        assert_eq!(gate.into_inner(), [5, 5, 1 << 53, (1 << 53) + 1]);
    }

    #[test]
    fn those_who_enter_at_the_same_time_enter_in_order() {
        let gate = Arc::new(FenceGate::new(Vec::new()));
        std::thread::scope(|scope| {
            for first in 0..4 {
                let gate = gate.clone();
                scope.spawn(move || {
                    for token in (first..1000).step_by(4) {
                        let _refused = gate.enter(FencingToken::from(token), |seen| seen.push(token));
                    }
                });
            }
        });
        let seen = gate.enter(u64::MAX.into(), std::mem::take).unwrap();
        assert!(!seen.is_empty() && seen.is_sorted(), "{seen:?}");
    }
}
