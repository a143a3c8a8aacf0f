//! The contract between leasehold and a store of locks.
//!
//! A backend keeps a queue of *claims* for each key, and each claim is bound to a *lease*. The oldest claim holds the key; if it is
//! shared, so do the claims after it up to the first exclusive one. The others wait. A lease that is not renewed within its TTL
//! ends, and its claims end with it. Everything else (reentrancy, local queues, deadlines, retries, losses) is implemented on top
//! of this, for all backends.
//!
//! To support another store, implement [`Backend`], run the test suite [`testing::conformance`](crate::testing) (feature
//! `testing`) against it, and pass it to [`LockManagerBuilder::backend`](crate::LockManagerBuilder::backend).
//!
//! # Example
//!
//! A complete backend, which passes that suite: `examples/backend/map.rs`. Its server is a map in this process.
//!
//! ```
#![doc = include_str!("../../examples/backend/map.rs")]
//! ```

#[cfg(any(feature = "etcd", feature = "redis"))]
mod account;
pub(crate) mod backoff;
mod caught;
mod completion;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
mod events;
#[cfg(feature = "cli")]
#[cfg_attr(not(any(feature = "etcd", feature = "redis")), allow(dead_code, reason = "what only servers need"))]
pub(crate) mod examination;
#[cfg(all(feature = "file", target_os = "linux"))]
pub(crate) mod file;
#[cfg(any(feature = "etcd", feature = "redis"))]
mod health;
mod limit;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "etcd", feature = "redis"))]
mod shared;
mod types;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};

#[cfg(any(feature = "etcd", feature = "redis"))]
pub(crate) use self::account::Account;
pub(crate) use self::caught::{Caught, acquired};
pub(crate) use self::completion::Completes;
pub use self::completion::Completion;
pub use self::limit::Limit;
#[cfg(any(feature = "etcd", feature = "redis", all(feature = "file", target_os = "linux")))]
pub(crate) use self::types::derived;
pub use self::types::{AttemptId, Claim, Event, Evict, EvictScope, Features, Grant, Lease, LeaseId, LeaseScope, Wait};
pub(crate) use self::types::{KeyMemo, Memo, Queueing};
pub use crate::clock::{Clock, SystemClock, Timestamp};
pub use crate::error::{BackendError, ErrorKind};
pub use futures::future::BoxFuture;
pub use futures::stream::BoxStream;

use crate::info::{Eviction, LockInfo};

/// How long after the notification of a loss at a deadline the hold is ended on the server, where it may still be valid. A task that
/// waits for the loss has this time to react before another client can acquire the lock.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);

/// How often a backend that reports no changes is asked for them.
const LOOK: Duration = Duration::from_secs(1);

/// The result of a backend's methods.
pub type Result<T> = std::result::Result<T, BackendError>;

/// A store of locks.
///
/// # What a backend can rely on
///
/// - For each key there is at most one claim at a time that is neither answered nor [aborted](Self::abort). Claims of different
///   keys, releases and all other calls come at any time, in any number, from any thread.
/// - An attempt that was granted is released, unless its lease has ended; one that returned an error or whose future was dropped is
///   aborted. The id of an attempt is never used again.
/// - Each lease in use is renewed every third of its TTL, and considered lost at `proven + ttl - margin`, regardless of what the
///   backend reports.
/// - Every future is polled inside the tokio context of the library's background thread, so tokio's timers and sockets work under
///   any executor of the user, but not necessarily *on* that thread. Every future may be dropped at any point.
/// - Calls are bounded in time where the caller has a limit. A backend needs no time limits, except in [`renew`](Self::renew).
///
/// # What a backend must guarantee
///
/// - At most one exclusive claim or any number of shared claims of a key are granted at a time, over all processes, first come,
///   first served. A shared claim waits behind an earlier exclusive one.
/// - Epochs of exclusive grants of a key grow strictly. The epoch of a shared grant is greater than that of the exclusive grant
///   before it and less than that of the one after it.
/// - The answer to a granted claim proves that, at some time after the call, the claim held the key and its lease was alive.
/// - No method blocks a thread or panics, and no error contains a secret. Calls and first polls happen in the user's code,
///   [`release`](Self::release) in the drop of a guard: what blocks there blocks the user. A panic is caught, and counts as an
///   unknown outcome.
///
/// Methods that are added later have default bodies, and the structs and [`Event`] are `#[non_exhaustive]`.
///
/// # Errors
///
/// An error of kind [`Unreachable`](ErrorKind::Unreachable) means that the outcome is unknown, and
/// [`LeaseLost`](ErrorKind::LeaseLost) that the lease or the claim no longer exists. All other kinds are final.
///
/// The [module](self) has a complete example.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the backend's name for logs and errors, `"etcd"` for example.
    fn kind(&self) -> &'static str;

    /// Returns the minimum TTL: 100 ms by default.
    fn min_ttl(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Returns what this backend has beyond exclusive and shared locks: nothing by default.
    fn features(&self) -> Features {
        Features::default()
    }

    /// Opens a lease of at least `ttl`.
    ///
    /// A lease for one [claim](LeaseScope::Claim) must be separate. If a session was requested, the backend may return a lease for
    /// one claim instead; the library then opens a lease for each claim.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time; a lease that was not returned must expire.
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>>;

    /// Renews leases, and returns one result per lease in the same order.
    ///
    /// [`Lease::proven`] of a result is a time *before* the renewal was sent, and requires a proof that the lease was alive after the
    /// renewal. The call must complete within a third of the shortest TTL, if necessary with
    /// [`Unreachable`](ErrorKind::Unreachable); it is retried until the deadline.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time; the leases may or may not be renewed.
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>>;

    /// Ends a lease and all its claims. A lease that no longer exists is not an error.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time; the lease may or may not have ended.
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>>;

    /// Adds a claim to the queue of its key, and waits until it is granted.
    ///
    /// With [`Wait::Never`] it returns `None` at once if the claim cannot be granted now, and leaves nothing in the queue. With
    /// [`Wait::UntilGranted`] it never returns `None`, and calls [`Claim::queued`] once the server has said that others hold the key or
    /// are ahead.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. [`abort`](Self::abort) is called afterwards, as after every error.
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>>;

    /// Acquires a lock without I/O: the same as [`acquire`](Self::acquire) where that completes at once.
    ///
    /// Returns `None` if the claim cannot be granted or refused now; then it has left nothing behind, and `acquire` is called. The
    /// default returns `None`.
    fn acquire_now(&self, claim: &Claim, wait: Wait) -> Option<Result<Option<Grant>>> {
        let _ = (claim, wait);
        None
    }

    /// Aborts an attempt whose outcome is unknown, so that it never holds the key or a place in the queue.
    ///
    /// Copies of its request that reach the store after this call has returned must not take effect either. If the claim's lease is
    /// not a [session](Lease::is_session), it ends too. The call is repeated until it succeeds.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time; another call then repeats the abort.
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>>;

    /// Releases a grant, and only this grant: a later grant of the key is not affected.
    ///
    /// If the grant was lost before the call, the result is [`LeaseLost`](ErrorKind::LeaseLost), unless an earlier call for the same
    /// grant may have released it: the caller of `unlock` has to learn that another client may have held the lock.
    ///
    /// The first call happens where the hold ends, which may be the drop of a guard in the user's code, and its future is polled
    /// once there. A backend that keeps requests in the order of their calls makes the request in the call, not at the first poll,
    /// so that it precedes the next claim of the key.
    ///
    /// If the lease is not a [session](Lease::is_session), it ends too. The call is repeated until it succeeds or the lease has
    /// ended.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time, also after its first poll; another call then repeats the release.
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>>;

    /// Begins the first [`release`](Self::release) of a grant, and reports its outcome to `completion`, at once or later: what needs
    /// no future costs less.
    ///
    /// Called where the hold ends, perhaps without a tokio runtime around it, and polls nothing.
    ///
    /// Returns the completion if the backend has done nothing; then `release` is called, as it is if the outcome is not reported in
    /// time. The default returns it.
    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        let _ = grant;
        Some(completion)
    }

    /// Waits for the next loss that the store reports. The default never completes, for stores that report none.
    ///
    /// One task calls it in a loop. An error is logged, and the call is repeated after a delay.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time, also after one poll, and must not lose an event by that.
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        Box::pin(std::future::pending())
    }

    /// Returns a snapshot of `key`, or `None` if it is free. [`LockInfo::claims`] are the ids that [`evict`](Self::evict) compares.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>>;

    /// Returns the states of `key`: the present one at once, then another one when its holders, its mode, a limit or a value changes.
    ///
    /// Consecutive states may be equal, and states that follow each other quickly may be left out, but never the last one. After an
    /// error of kind [`Unreachable`](ErrorKind::Unreachable) the stream goes on, or ends and is requested again; other errors are its
    /// end. The default inspects the key each second.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the stream may be dropped at any time.
    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        let ticks = stream::unfold(Duration::ZERO, |pause| async move {
            tokio::time::sleep(pause).await;
            Some(((), LOOK))
        });
        ticks.then(move |()| self.inspect(key)).boxed()
    }

    /// Waits until another claim waits for the key of a grant: any claim, or, if the grant is shared, one that cannot be granted beside
    /// it. Also completes if one waits already. The default inspects the key each second.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](ErrorKind::LeaseLost) if the grant no longer exists. After other errors it is called again.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            loop {
                match self.inspect(&grant.key).await? {
                    Some(info) if info.waiters > 0 => return Ok(()),
                    Some(_) => tokio::time::sleep(LOOK).await,
                    None => return Err(BackendError::new(ErrorKind::LeaseLost, "the lock is no longer held")),
                }
            }
        })
    }

    /// Returns snapshots of all held locks whose keys begin with `prefix`, in key order.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>>;

    /// Removes the claims that hold `key` and that `evict` selects.
    ///
    /// The server compares and removes a claim in one step, so a claim that is granted in between is not affected.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time; a request that was already sent may still take effect.
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>>;

    /// Returns the reason why the server cannot serve requests at present, or `None` if its recent answers show no problem. No I/O.
    ///
    /// The reason is logged, and included in the error of a call that times out meanwhile. The default returns `None`.
    fn outage(&self) -> Option<BackendError> {
        None
    }

    /// Sends one request to the server and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Read-only: the future may be dropped at any time.
    fn ping(&self) -> BoxFuture<'_, Result<()>>;

    /// Frees the backend's resources on the server and in this process. All leases were revoked before. The default does nothing.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time; what then remains on the server must expire.
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Forwards every method, so that a test can keep a reference to the backend of a manager.
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }
    fn min_ttl(&self) -> Duration {
        (**self).min_ttl()
    }
    fn features(&self) -> Features {
        (**self).features()
    }
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        (**self).open(ttl, scope)
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        (**self).renew(leases)
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        (**self).revoke(lease)
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        (**self).acquire(claim, wait)
    }
    fn acquire_now(&self, claim: &Claim, wait: Wait) -> Option<Result<Option<Grant>>> {
        (**self).acquire_now(claim, wait)
    }
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        (**self).abort(claim)
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        (**self).release(grant)
    }
    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        (**self).begin_release(grant, completion)
    }
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        (**self).next_event()
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        (**self).inspect(key)
    }
    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        (**self).observe(key)
    }
    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        (**self).wanted(grant)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        (**self).list(prefix)
    }
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        (**self).evict(key, evict)
    }
    fn outage(&self) -> Option<BackendError> {
        (**self).outage()
    }
    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        (**self).ping()
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        (**self).close()
    }
}
