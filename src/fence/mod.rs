//! Fencing: refusing writes with outdated tokens.

#[cfg(feature = "redis")]
mod redis;

use std::fmt;

use parking_lot::Mutex;

use crate::token::FencingToken;

#[cfg(feature = "redis")]
pub use self::redis::RedisFence;

/// A resource of this process that refuses outdated holders by their [`FencingToken`]s.
///
/// A holder can lose its lease without noticing in time: after a pause of the process it may write although another client holds
/// the lock by then. The gate admits a token that is at least the greatest one so far, and refuses smaller ones.
///
/// For a resource on a server, let the server compare the tokens: with a condition in the `UPDATE` of a database, with `RedisFence`
/// for a key on Redis, or with `LockGuard::etcd_compare` for keys on the etcd cluster that has the locks.
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
    /// Creates a gate around a resource.
    pub const fn new(resource: T) -> Self {
        Self { inside: Mutex::new(Inside { greatest: None, resource }) }
    }

    /// Runs `work` on the resource, unless a greater token was admitted before.
    ///
    /// Equal tokens are admitted, since readers of a shared lock may have the same one. Concurrent calls block their threads until
    /// `work` returns, in async code also the executor's: keep `work` short. If `work` panics, the token stays admitted, the
    /// resource stays as `work` left it, and the gate can be entered again. `work` must not enter the same gate: it would wait for
    /// itself for ever.
    ///
    /// # Errors
    ///
    /// [`StaleToken`] if a greater token was admitted before: `work` was not run, and another client has held the lock since.
    pub fn enter<R>(&self, token: FencingToken, work: impl FnOnce(&mut T) -> R) -> Result<R, StaleToken> {
        let mut inside = self.inside.lock();
        if let Some(greatest) = inside.greatest.filter(|greatest| *greatest > token) {
            return Err(StaleToken { token, greatest });
        }
        inside.greatest = Some(token);
        Ok(work(&mut inside.resource))
    }

    /// Returns the greatest token admitted so far.
    pub fn greatest(&self) -> Option<FencingToken> {
        self.inside.lock().greatest
    }

    /// Returns the resource.
    pub fn into_inner(self) -> T {
        self.inside.into_inner().resource
    }
}

/// The error for an outdated token, smaller than the greatest one that a [`FenceGate`] or a `RedisFence` has admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StaleToken {
    /// The refused token.
    pub token: FencingToken,
    /// The greatest token admitted so far.
    pub greatest: FencingToken,
}

impl fmt::Display for StaleToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} is outdated: token {} was admitted before", self.token, self.greatest)
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
