//! Leading: work that runs while a lock is held, in one term after another.

use std::ops::ControlFlow;
use std::time::Duration;

use super::guard::LockGuard;
use super::lost::Run;
use super::request::LockRequest;
use crate::backend::backoff::Backoff;
use crate::engine::WithinKeeper;
use crate::error::{LockError, Result};

/// The shortest time between terms that are lost.
const LEAST: Duration = Duration::from_millis(100);

impl LockRequest {
    /// Leads: acquires the lock and runs `work` with it, in one term after another, until `work` returns
    /// [`Break`](ControlFlow::Break) with the result.
    ///
    /// The guard is the office, and its [token](LockGuard::token) the number of the term: pass it to what the leader changes. Each term
    /// has another [`Owner`](crate::Owner). A term ends
    ///
    /// - when `work` returns: the lock is released, after `Continue` to wait for it again at once, behind the other candidates;
    /// - when the lock is lost: `work` is dropped at its current await point, or discarded if it has just returned. Then the wait for the
    ///   next term begins, after a pause if the term was shorter than the TTL: 0.1 s, doubling to a third of the TTL.
    ///
    /// `work` is a closure that returns a future, `|guard| async move { … }`; what it needs in later terms as well has to be cloned. The
    /// lock is held until that future ends, also if it has dropped its guard, which is a second one of the hold. An instance that hangs
    /// goes on renewing its lock: use [`auto_renew(false)`](Self::auto_renew) and [`LockGuard::renew`] where `work` should prove that it
    /// makes progress. With a [value](Self::value), [`LockManager::watch`](crate::LockManager::watch) tells
    /// others who leads.
    ///
    /// # Errors
    ///
    /// Those of the acquire: what a retry cannot cure, [`LockError::Closed`], and [`LockError::Timeout`] if a
    /// [`timeout`](Self::timeout) is set and one of the waits lasts longer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` at its current await point and releases the lock. A panic in `work` releases the lock.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// use std::ops::ControlFlow;
    ///
    /// let manager = leasehold::LockManager::memory();
    /// let mut terms = 0;
    /// let led = manager.lock("scheduler").value("10.0.0.7:8080").lead(move |guard| {
    ///     terms += 1;
    ///     let term = terms;
    ///     async move {
    ///         println!("term {term}, with token {}", guard.token());
    ///         if term < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(term) }
    ///     }
    /// });
    /// assert_eq!(led.await?, 3);
    /// # Ok(()) });
    /// ```
    pub async fn lead<T, F, U>(self, mut work: F) -> Result<T>
    where
        F: FnMut(LockGuard) -> U,
        U: Future<Output = ControlFlow<T>>,
    {
        let base = self.base().clone();
        let pauses = || Backoff::up_to((self.options().terms.ttl / 3).max(LEAST));
        let mut backoff = pauses();
        loop {
            let office = self.next_term().await?;
            let begun = base.now();
            let ended = match office.reenter() {
                // Its end drops the work.
                Ok(guard) => Run::new(office.lost(), work(guard)).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(ControlFlow::Break(result)) => {
                    // The work is done, also if the lock was lost in the meantime.
                    drop(office.unlock().await);
                    return Ok(result);
                }
                Ok(ControlFlow::Continue(())) => backoff = pauses(),
                Err(LockError::Expired { .. }) if base.now().since(begun) < self.options().terms.ttl => {
                    let pause = async {
                        backoff.pause().await;
                        Ok(())
                    };
                    WithinKeeper::new(base.keeper.clone(), pause).await?;
                }
                Err(LockError::Expired { .. }) => backoff = pauses(),
                Err(error) => return Err(error),
            }
        }
    }
}
