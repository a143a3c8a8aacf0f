//! Guards: a hold for as long as it is in scope.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::lost::{Lost, Run};
use super::pending::Pending;
use crate::engine::{HeldGrant, Share, renew};
use crate::error::{LockError, Result};
#[cfg(feature = "etcd")]
use crate::info::Loss;
use crate::info::Mode;
use crate::owner::Owner;
use crate::token::FencingToken;

/// A share of a hold. The lock is released when the last guard of the hold is dropped.
///
/// Dropping never blocks, needs no runtime, and may be done anywhere: in async code, on a plain thread, after the runtime is
/// gone. The background thread sends the release, again and again until the server has confirmed it or the lease is over.
/// [`unlock`](Self::unlock) waits for the confirmation.
///
/// A hold lives on a lease, which the background thread renews. If it cannot, or if the server takes the lock away, the hold is
/// *lost*: [`is_lost`](Self::is_lost) says so at once, [`lost`](Self::lost) wakes whoever waits for it, and the work under the
/// lock should stop.
///
/// Beware of `let _ = manager.lock("k").await?` and of `manager.try_lock("k").await?;`: both drop the guard at once. Write `let _guard = …`.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let guard = manager.lock("report").await?;
/// tokio::select! {
///     biased;
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

    /// Returns how the key is held. A shared re-lock of an exclusive hold is exclusive.
    pub fn mode(&self) -> Mode {
        self.share.held().grant.mode
    }

    /// Returns how many guards the hold has now.
    pub fn depth(&self) -> u32 {
        self.share.hold().depth()
    }

    /// Returns the owner, for locking again where this guard was moved to.
    pub fn owner(&self) -> Owner {
        self.share.hold().owner()
    }

    /// Returns whether the hold is lost, or may be: compares the clock at the call, so it is right even after a pause.
    ///
    /// Once true it stays true.
    pub fn is_lost(&self) -> bool {
        self.share.is_lost()
    }

    /// Returns for how long the hold is certain if its lease is not renewed any more. Zero when lost.
    pub fn remaining(&self) -> Duration {
        let held = self.share.held();
        if self.is_lost() { Duration::ZERO } else { held.remaining(held.now()) }
    }

    /// Returns a future that is ready when the hold is lost, with the cause.
    ///
    /// It never is if the lock is released normally: pair it with the work, in a `select!` for example.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and made anew at any time; no loss is missed.
    pub fn lost(&self) -> Lost {
        Lost::of([&self.share])
    }

    /// Makes a second guard of the same hold, to hand to another task on purpose.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is lost, [`LockError::AlreadyHeld`] if it has 4,294,967,295 guards.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// let manager = leasehold::LockManager::memory();
    /// let guard = manager.lock("album").await?;
    /// let second = guard.reenter()?;
    /// let uploading = std::thread::spawn(move || second.depth());
    /// guard.unlock().await?; // counts down; the lock is released when both are gone
    /// # uploading.join().unwrap();
    /// # Ok(()) });
    /// ```
    pub fn reenter(&self) -> Result<LockGuard> {
        self.share.reenter().map(Self::new)
    }

    /// Renews the lease now and returns for how long the hold is certain then.
    ///
    /// Renewal happens by itself; this is for a proof at a moment of your choice, and for `auto_renew(false)`.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is lost, [`LockError::Backend`] if the server does not answer in time.
    ///
    /// # Cancel safety
    ///
    /// The lease may be renewed all the same, or not.
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

    /// Runs `work` and drops it if the hold is lost.
    ///
    /// If both are ready, the loss wins.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] with the cause of the loss.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops `work` where it awaits. The guard still holds.
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

    /// Returns a condition for your own transactions on the same etcd: that this lock is still held.
    ///
    /// What such a transaction writes is written only while the lock is held, and not by a holder who comes too late, after a
    /// pause for example: etcd itself compares. It is about the grant that this process has, so let the transaction end before
    /// the guard does: the next local holder may have the same grant.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is lost already, [`LockError::Unsupported`] on other backends.
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
        use etcd_client::{Compare, CompareOp};
        let held = self.share.held();
        if let Some(cause) = self.share.loss() {
            return Err(held.expired(cause));
        }
        let backend = &held.sessions.base.backend;
        if backend.kind() != "etcd" {
            return Err(LockError::Unsupported { what: format!("etcd_compare on {}", backend.kind()) });
        }
        let claim = backend.claim_name(&held.grant).ok_or_else(|| held.expired(Loss::Revoked))?;
        let born = i64::try_from(held.grant.note).unwrap_or(i64::MAX);
        Ok(Compare::create_revision(claim, CompareOp::Equal, born))
    }

    /// Releases and waits until the server has confirmed. Above depth 1 it only counts down.
    ///
    /// Without a server it ends at the deadline that the hold had when this was called; the release goes on in the background.
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold was lost: the work under it may not have been alone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any point releases like dropping the guard.
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

/// Proves the lease of a grant now. Returns for how long it is certain then.
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
