//! [`LockGuard`]: an acquired lock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::lost::{Lost, Run};
use super::pending::Pending;
use super::wanted::Wanted;
#[cfg(feature = "etcd")]
use crate::backend::etcd;
use crate::engine::{HeldGrant, Share, renew};
use crate::error::{LockError, Result};
use crate::info::Mode;
use crate::owner::Owner;
use crate::token::FencingToken;

/// An RAII guard of an acquired lock. Dropping the last guard of a hold releases the lock.
///
/// Dropping never blocks, never panics, needs no runtime, and is allowed anywhere: in async code, on a plain thread, after the
/// runtime was shut down. A background thread sends the release and retries it until the server has confirmed it or the lease has
/// ended. [`unlock`](Self::unlock) waits for that confirmation.
///
/// A hold is backed by a lease, which the background thread renews. If renewal fails until the deadline, or the server removes the
/// lock, the hold is *lost*: [`is_lost`](Self::is_lost) returns `true`, [`lost`](Self::lost) completes with the cause, and the
/// work under the lock should stop.
///
/// `let _ = manager.lock("k").await?;` and `manager.try_lock("k").await?;` drop the guard, and so release the lock, at once and
/// without a compiler warning. Bind it: `let _guard = …`.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let guard = manager.lock("report").await?;
/// tokio::select! {
///     biased; // check for a loss first
///     cause = guard.lost() => println!("stop, the lock is lost: {cause}"),
///     _ = async { /* long work */ } => println!("done with token {}", guard.token()),
/// }
/// guard.unlock().await?;
/// # Ok(()) });
/// ```
#[must_use = "if unused the lock is released at once"]
pub struct LockGuard {
    share: Share,
}

impl LockGuard {
    pub(super) fn new(share: Share) -> Self {
        Self { share }
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.share.held().key
    }

    /// Returns the fencing token of this hold.
    pub fn token(&self) -> FencingToken {
        self.share.hold().token
    }

    /// Returns the mode of the hold. A shared request by an exclusive holder yields an exclusive guard.
    pub fn mode(&self) -> Mode {
        self.share.held().grant.mode
    }

    /// Returns the [value](crate::LockRequest::value) that this hold publishes.
    pub fn value(&self) -> Option<&str> {
        self.share.held().grant.value.as_deref()
    }

    /// Returns how many guards the hold has at present.
    pub fn depth(&self) -> u32 {
        self.share.hold().depth()
    }

    /// Returns the hold's owner. A task that received this guard can pass it to [`owner`](crate::LockRequest::owner) to lock the
    /// key again.
    pub fn owner(&self) -> Owner {
        self.share.hold().owner()
    }

    /// Returns whether the hold is lost or can no longer be proven. No I/O.
    ///
    /// It compares the clock with the deadline at the call, so the first check after a pause of the process is correct. Once it has
    /// returned `true` it always does.
    pub fn is_lost(&self) -> bool {
        self.share.is_lost()
    }

    /// Returns the time until the deadline, at which the hold is lost unless its lease is renewed; zero if it is lost. No I/O.
    pub fn remaining(&self) -> Duration {
        let held = self.share.held();
        if self.is_lost() { Duration::ZERO } else { held.remaining(held.now()) }
    }

    /// Returns a future that completes with the cause when the hold is lost.
    ///
    /// It stays pending for ever after a normal release, so combine it with the work, in a `select!` for example.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and created again at any time without missing a loss.
    pub fn lost(&self) -> Lost {
        Lost::of([&self.share])
    }

    /// Returns a future that completes when others wait for the lock: tasks of this process or other clients. Nobody does any more when
    /// the lock is released.
    ///
    /// A long job can finish its present step and let another one in. Any waiter wants an exclusive lock; a shared one, or a slot of a
    /// semaphore, is wanted by those that cannot share it. A [try](crate::LockRequest::try_once) does not wait. Once completed, it is
    /// for this hold.
    ///
    /// The first poll begins to ask the server. etcd and Redis notify, usually within milliseconds; other backends are asked once a
    /// second. While the server is unreachable, only the tasks of this process are known.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and created again at any time without missing a waiter.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("index").await?;
    /// let other = manager.lock("index").owner(&leasehold::Owner::new());
    /// let waiting = std::thread::spawn(move || other.wait());
    /// guard.wanted().await;
    /// guard.unlock().await?; // after a step of the work
    /// # waiting.join().unwrap()?;
    /// # Ok(()) });
    /// ```
    pub fn wanted(&self) -> Wanted {
        Wanted::of(&self.share)
    }

    /// Creates another guard of the same hold, to share it with another task deliberately. No I/O.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is lost; [`LockError::AlreadyHeld`] if it has 4,294,967,295 guards;
    /// [`LockError::Closed`] in a forked child.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("album").await?;
    /// let second = guard.reenter()?;
    /// let uploading = std::thread::spawn(move || second.depth());
    /// guard.unlock().await?; // decrements the depth; dropping the other guard releases the lock
    /// # uploading.join().unwrap();
    /// # Ok(()) });
    /// ```
    pub fn reenter(&self) -> Result<LockGuard> {
        self.share.reenter().map(Self::new)
    }

    /// Renews the lease now, and returns the time until the new deadline.
    ///
    /// Leases are renewed in the background. Call this to prove the lease before a step that cannot be undone, and to renew a hold
    /// with [`auto_renew(false)`](crate::LockRequest::auto_renew).
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is lost, also by closing the manager; [`LockError::Backend`] if the server does not
    /// answer within the manager's timeout or refuses the request; [`LockError::Closed`] in a forked child.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lease may or may not be renewed.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("k").auto_renew(false).await?;
    /// // Before a step that takes a while and cannot be undone:
    /// assert!(guard.renew().await? > Duration::from_secs(20));
    /// # Ok(()) });
    /// ```
    pub fn renew(&self) -> Pending<Duration> {
        prove(self.share.held().clone())
    }

    /// Runs `work` until it completes, and drops it if the hold is lost first.
    ///
    /// If both happen by the same poll, the loss takes precedence.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] with the cause of the loss.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops `work` at its current await point. The guard keeps the lock.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("k").await?;
    /// let sum = guard.run(async { 1 + 2 }).await?;
    /// assert_eq!(sum, 3);
    /// # Ok(()) });
    /// ```
    pub fn run<F: IntoFuture>(&self, work: F) -> Run<F::IntoFuture> {
        Run::new(self.lost(), work)
    }

    /// Returns a condition for a transaction on the same etcd cluster: this lock is still held.
    ///
    /// A transaction with this condition fails, on the server, once the lock is no longer held, so a holder that was paused past
    /// its lease cannot write. The condition is about the grant of this process: finish the transaction before the guard is
    /// released, because after a local handover the condition is also true for the next holder.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is already lost; [`LockError::Unsupported`] on other backends.
    ///
    /// ```no_run
    /// # async fn example(mut etcd: etcd_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use etcd_client::{Txn, TxnOp};
    ///
    /// let manager = leasehold::LockManager::connect("etcd://127.0.0.1:2379").await?;
    /// let guard = manager.lock("report").await?;
    /// let write = Txn::new().when([guard.etcd_compare()?]).and_then([TxnOp::put("report", "done", None)]);
    /// assert!(etcd.txn(write).await?.succeeded(), "the lock was lost, and nothing written");
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "etcd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
    pub fn etcd_compare(&self) -> Result<etcd_client::Compare> {
        let held = self.share.held();
        if let Some(cause) = self.share.loss() {
            return Err(held.expired(cause));
        }
        let unsupported =
            || LockError::Unsupported { what: format!("etcd_compare on {}", held.sessions.base.backend.kind()) };
        etcd::exists(&held.grant).ok_or_else(unsupported)
    }

    /// Releases the lock and waits until the server has confirmed it. Above depth 1 it only decrements the depth.
    ///
    /// If the server cannot be reached, it returns at the deadline that the hold had at the call; the release continues in the
    /// background.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold was lost, or if the release was not confirmed by the deadline: another client may have
    /// held the lock during the last part of the work. [`LockError::Closed`] in a forked child.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point, even before its first poll, releases the lock like dropping the guard.
    pub fn unlock(mut self) -> Pending<()> {
        Pending::new(async move {
            let share = &mut self.share;
            if let Some(release) = share.give_up()? {
                return release.await;
            }
            match share.loss() {
                Some(cause) => Err(share.held().expired(cause)),
                None => Ok(()),
            }
        })
    }
}

/// Renews the lease of a grant now. Returns for how long the hold is certain then.
pub(super) fn prove(held: Arc<HeldGrant>) -> Pending<Duration> {
    let (sessions, cell) = (held.sessions.clone(), held.cell.clone());
    let base = sessions.base.clone();
    let call = base.bounded(Some(&held.key), "renew", async move { Ok(renew(&sessions, &cell).await) });
    Pending::new(async move {
        let answer = match held.loss(held.now()) {
            None => call.await?,
            Some(_) => Ok(()),
        };
        match (held.loss(held.now()), answer) {
            (Some(cause), _) => Err(held.expired(cause)),
            (None, Ok(())) => Ok(held.remaining(held.now())),
            (None, Err(error)) => Err(LockError::backend(Some(&held.key), "renew", error)),
        }
    })
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", &self.key())
            .field("mode", &self.mode())
            .field("token", &self.token())
            .field("depth", &self.depth())
            .field("lost", &self.share.loss())
            .finish()
    }
}
