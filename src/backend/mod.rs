//! Remote arbitration: the contract between leasehold and a store that knows who holds what.
//!
//! A backend keeps, for each key, a queue of *claims*, each on a *lease*. The oldest claim holds the key (or, if it is shared,
//! the oldest ones up to the first exclusive one); the others wait. A lease ends when it is not renewed for its TTL, and its
//! claims end with it. That is all; reentrancy, local queues, deadlines, retries and loss are done by leasehold on top.
//!
//! [`Backend`] is what to implement for another store; [`testing::conformance`](crate::testing) (feature `testing`) is the
//! test suite to run against it. Hand it to a manager with
//! [`LockManagerBuilder::backend`](crate::LockManagerBuilder::backend).

pub(crate) mod backoff;
mod caught;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
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

pub(crate) use self::caught::Caught;
pub use self::limit::Limit;
pub use self::types::{AttemptId, Claim, Event, Evict, Grant, Lease, LeaseId};
pub use crate::clock::{Clock, SystemClock, Timestamp};
pub use crate::error::{BackendError, ErrorKind};
pub use futures::future::BoxFuture;

use crate::info::{Eviction, LockInfo};

/// How much later than the notification of its loss a hold that was lost at a deadline is ended on the server, where it may live on:
/// who waits for the loss has this time to hear of it before another can get in.
pub(crate) const HEAD_START: Duration = Duration::from_millis(100);

/// What a backend's method returns.
pub type Result<T> = std::result::Result<T, BackendError>;

/// A store that knows who holds what.
///
/// # What leasehold does
///
/// - It sends at most one claim of a key at a time that is neither answered nor [settled](Self::settle). Claims of different
///   keys, releases and everything else come at any time, in any number, from any thread.
/// - It renews each lease every third of its TTL for as long as it is needed, and takes it for lost at
///   `proven + ttl - margin`, whatever the backend says.
/// - It polls every future inside the tokio context of leasehold's own background thread (so timers and sockets of tokio work,
///   under any executor of the user's), but not necessarily *on* that thread. It may drop any of them at any point.
/// - It bounds calls in time where the caller has a limit; a call here need not, but for [`renew`](Self::renew).
///
/// # What the backend does
///
/// - At most one exclusive claim, or any number of shared ones, is granted for a key at a time, over all processes; first come,
///   first served. A shared claim waits behind an exclusive one that came before it.
/// - Epochs of exclusive grants of a key grow strictly; a shared grant's is above that of the exclusive grant before it and
///   below that of the one after it.
/// - A grant's answer proves that the claim held the key, and that its lease lived, at a time after the call.
/// - Nothing blocks a thread, nothing panics, no secret gets into an error.
///
/// An error of kind [`Unreachable`](ErrorKind::Unreachable) means that the outcome is unknown. [`LeaseLost`](ErrorKind::LeaseLost)
/// means that the lease, or the claim, is gone. All others are final.
///
/// See the [memory backend](crate::LockManager::memory) for a complete one.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Returns the backend's name for logs and errors, `"etcd"` for example.
    fn kind(&self) -> &'static str;

    /// Returns the shortest TTL that can be asked for.
    fn min_ttl(&self) -> Duration {
        Duration::from_millis(100)
    }

    /// Opens a lease of at least `ttl`.
    ///
    /// With `own` it is for a single hold; else the backend says by [`Lease::session`] whether other claims may share it.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time: a lease that nobody hears of must end by itself.
    fn open(&self, ttl: Duration, own: bool) -> BoxFuture<'_, Result<Lease>>;

    /// Renews the leases: one answer for each, in their order.
    ///
    /// [`Lease::proven`] of an answer is the time *before* the renewal was sent, and only counts if the lease was proven to live
    /// after the renewal. An answer takes less than a third of the shortest TTL, if need be by giving up as
    /// [`Unreachable`](ErrorKind::Unreachable); leasehold tries again until the deadline.
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>>;

    /// Ends a lease and every claim on it. A lease that is gone already is no error.
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>>;

    /// Puts the claim into its key's queue and waits until it is granted.
    ///
    /// Without `wait`, answers `None` at once if it cannot be granted now, and leaves nothing in the queue.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time; [`settle`](Self::settle) is called then, and after every error.
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: bool) -> BoxFuture<'a, Result<Option<Grant>>>;

    /// Makes sure that an attempt whose outcome is unknown holds nothing and waits for nothing, ever.
    ///
    /// Not even a copy of its request that the store sees after this has returned may take effect. If the claim's lease is not a
    /// [session](Lease::session), it ends too. Called until it succeeds.
    fn settle<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>>;

    /// Gives up a grant. Its successor is left alone. A backend that can tell that the grant was lost before answers
    /// [`LeaseLost`](ErrorKind::LeaseLost), unless an earlier call for the same grant may have released it.
    ///
    /// If the lease is not a [session](Lease::session), it ends too. Called until it succeeds or the lease is over.
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>>;

    /// Returns under which name the store has the claim of a grant, where its users can make conditions of it;
    /// `None` where they cannot, and if it is gone.
    fn claim_name(&self, _grant: &Grant) -> Option<Vec<u8>> {
        None
    }

    /// Waits for the next loss that the store tells of by itself. Never ends where it tells of none.
    ///
    /// Called by one task, again and again. An error is logged, and asked again after a while.
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        Box::pin(std::future::pending())
    }

    /// Returns who holds `key`, or `None` if nobody does. [`LockInfo::claims`] is what [`evict`](Self::evict) compares.
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>>;

    /// Returns all locks that are held whose keys begin with `prefix`, in the order of their keys.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>>;

    /// Takes `key` away from the claims that hold it and that `evict` is for.
    ///
    /// A claim is compared and removed in one step on the server: one that came to hold the key after it was looked at is left
    /// alone.
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>>;

    /// Returns why the server does not serve at the moment, or `None` while it does, as far as its answers so far tell. No I/O.
    ///
    /// It is logged, and named by what runs into a time limit meanwhile. By default nothing is known.
    fn outage(&self) -> Option<BackendError> {
        None
    }

    /// Asks the server for a sign of life.
    fn ping(&self) -> BoxFuture<'_, Result<()>>;

    /// Frees what the backend itself keeps on the server and on this side. All leases have been revoked before.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// Forwards every method, so that a test can keep a handle on the backend that it gave away.
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }
    fn min_ttl(&self) -> Duration {
        (**self).min_ttl()
    }
    fn open(&self, ttl: Duration, own: bool) -> BoxFuture<'_, Result<Lease>> {
        (**self).open(ttl, own)
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        (**self).renew(leases)
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        (**self).revoke(lease)
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: bool) -> BoxFuture<'a, Result<Option<Grant>>> {
        (**self).acquire(claim, wait)
    }
    fn settle<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        (**self).settle(claim)
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        (**self).release(grant)
    }
    fn claim_name(&self, grant: &Grant) -> Option<Vec<u8>> {
        (**self).claim_name(grant)
    }
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        (**self).next_event()
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        (**self).inspect(key)
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
