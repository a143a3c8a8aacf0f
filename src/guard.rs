//! Guards: a hold for as long as it is in scope.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::engine::{HeldGrant, Hold, Release};
use crate::lease::Listener;
use crate::owner::Owner;
use crate::pending::Pending;
use crate::{FencingToken, LockError, Loss, Mode, Result};

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
    /// `None` once it was given up.
    hold: Option<Arc<Hold>>,
}

impl LockGuard {
    pub(crate) fn new(hold: Arc<Hold>) -> Self {
        Self { hold: Some(hold) }
    }

    #[expect(clippy::expect_used, reason = "only drop and unlock take it, and they own the guard")]
    fn hold(&self) -> &Arc<Hold> {
        self.hold.as_ref().expect("a guard has its hold until it is given up")
    }

    pub(crate) fn held(&self) -> &HeldGrant {
        &self.hold().held
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.hold().held.entry.key
    }

    /// Returns the fencing token of this hold.
    pub fn token(&self) -> FencingToken {
        self.hold().token
    }

    /// Returns how the key is held. A shared re-lock of an exclusive hold is exclusive.
    pub fn mode(&self) -> Mode {
        self.hold().held.grant.mode
    }

    /// Returns how many guards the hold has now.
    pub fn depth(&self) -> u32 {
        self.hold().depth()
    }

    /// Returns the owner, for locking again where this guard was moved to.
    pub fn owner(&self) -> Owner {
        self.hold().owner()
    }

    /// Returns whether the hold is lost, or may be: compares the clock at the call, so it is right even after a pause.
    ///
    /// Once true it stays true.
    pub fn is_lost(&self) -> bool {
        self.loss().is_some()
    }

    pub(crate) fn loss(&self) -> Option<Loss> {
        let hold = self.hold();
        hold.loss(hold.held.life.now())
    }

    /// Returns for how long the hold is certain if its lease is not renewed any more. Zero when lost.
    pub fn remaining(&self) -> Duration {
        let held = &self.hold().held;
        if self.is_lost() { Duration::ZERO } else { held.remaining(held.life.now()) }
    }

    /// Returns a future that is ready when the hold is lost, with the cause.
    ///
    /// It never is if the lock is released normally: pair it with the work, in a `select!` for example.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and made anew at any time; no loss is missed.
    pub fn lost(&self) -> Lost {
        Lost::of([self])
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
        let hold = self.hold();
        let entry = &hold.held.entry;
        if hold.held.life.keeper.is_forked() {
            return Err(LockError::closed(Some(&entry.key), "reenter"));
        }
        if let Some(cause) = self.loss() {
            return Err(hold.held.expired(cause));
        }
        let mut arbiter = entry.arbiter();
        match arbiter.reenter(hold.id) {
            Some(Ok(_)) => Ok(Self::new(hold.clone())),
            Some(Err(reason)) => Err(LockError::AlreadyHeld { key: entry.key.to_string(), reason }),
            None => Err(hold.held.expired(Loss::Expired)),
        }
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
        renew(self.hold().held.clone())
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
        let held = self.held();
        if let Some(cause) = self.loss() {
            return Err(held.expired(cause));
        }
        let backend = &held.life.backend;
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
            let Some(hold) = self.hold.take() else { return Ok(()) };
            if hold.held.life.keeper.is_forked() {
                return Err(LockError::closed(Some(&hold.held.entry.key), "unlock"));
            }
            if let Some(release) = leave(&hold) {
                return release.await;
            }
            match hold.loss(hold.held.life.now()) {
                Some(cause) => Err(hold.held.expired(cause)),
                None => Ok(()),
            }
        })
    }
}

/// Proves the lease of a grant now.
pub(crate) fn renew(held: Arc<HeldGrant>) -> Pending<Duration> {
    let core = (*held.life).clone();
    let renewing = core.clone();
    let cell = held.cell.clone();
    let call = core.bounded(Some(&held.entry.key), "renew", async move { Ok(renewing.renew(&cell).await) });
    Pending::new(async move {
        let answer = match held.loss(core.now()) {
            None => call.await?,
            Some(_) => Ok(()),
        };
        match (held.loss(core.now()), answer) {
            (Some(cause), _) => Err(held.expired(cause)),
            (None, Ok(())) => Ok(held.remaining(core.now())),
            (None, Err(error)) => Err(LockError::backend(Some(&held.entry.key), "renew", error)),
        }
    })
}

/// Gives up one guard's share. Returns the release, if the grant goes back.
fn leave(hold: &Arc<Hold>) -> Option<Release> {
    let core: &Arc<_> = &hold.held.life;
    // Above depth 1 nothing depends on the time, and reading the clock would be a third of the work.
    let mut read = None;
    let mut now = || *read.get_or_insert_with(|| core.now());
    let (left, mut effects, owner) = {
        let mut arbiter = hold.held.entry.arbiter();
        let (left, effects) = arbiter.leave(hold.id, &mut now);
        let left = left.unwrap_or_else(|| hold.leave_lost());
        let owner = if left == 0 { hold.end(now()) } else { None };
        (left, effects, owner)
    };
    drop(owner);
    if left == 0 {
        core.counters.held_for(hold.age(now()));
    }
    if hold.was_lost() {
        // Found under the mutex, where nobody could be woken.
        hold.held.cell.signal.fire();
    }
    let release = effects.release.take().map(|held| core.release(held, now()));
    core.carry_out(&hold.held.entry, effects);
    release
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // In a forked child the lock is the parent's, and so are the mutexes on the way.
        if let Some(hold) = self.hold.take()
            && !hold.held.life.keeper.is_forked()
        {
            drop(leave(&hold));
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", &self.key())
            .field("mode", &self.mode())
            .field("token", &self.token())
            .field("depth", &self.depth())
            .field("lost", &self.loss())
            .finish()
    }
}

/// A future that is ready when the hold is lost; see [`LockGuard::lost`]. Outlives the guard.
///
/// Of [`LockGuards`](crate::LockGuards), when the first of their holds is.
pub struct Lost(Vec<Watch>);

/// A hold, and its places among those who are told.
struct Watch {
    hold: Arc<Hold>,
    claim: Listener,
    lease: Listener,
}

impl Lost {
    pub(crate) fn of<'a>(guards: impl IntoIterator<Item = &'a LockGuard>) -> Self {
        Self(guards.into_iter().map(|guard| Watch::new(guard.hold().clone())).collect())
    }

    /// The loss, as whoever works under the lock is told of it.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<LockError> {
        for watch in &mut self.0 {
            if let Poll::Ready(cause) = watch.poll(cx) {
                return Poll::Ready(watch.hold.held.expired(cause));
            }
        }
        Poll::Pending
    }
}

impl Watch {
    fn new(hold: Arc<Hold>) -> Self {
        Self { hold, claim: Listener::default(), lease: Listener::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Loss> {
        let held = &self.hold.held;
        if !self.hold.has_ended() && !held.life.keeper.is_forked() {
            held.signal.listen(&mut self.claim, cx.waker());
            held.cell.signal.listen(&mut self.lease, cx.waker());
        }
        self.hold.loss(held.life.now()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let held = &self.hold.held;
        if !held.life.keeper.is_forked() {
            held.signal.forget(&mut self.claim);
            held.cell.signal.forget(&mut self.lease);
        }
    }
}

impl Clone for Lost {
    fn clone(&self) -> Self {
        Self(self.0.iter().map(|watch| Watch::new(watch.hold.clone())).collect())
    }
}

impl Future for Lost {
    type Output = Loss;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Loss> {
        let lost = self.0.iter_mut().map(|watch| watch.poll(cx)).find(Poll::is_ready);
        lost.unwrap_or(Poll::Pending)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|watch| &watch.hold.held.entry.key)).finish()
    }
}

/// Work that ends with the hold; see [`LockGuard::run`].
#[must_use = "futures do nothing unless polled"]
pub struct Run<F> {
    lost: Lost,
    work: Pin<Box<F>>,
}

impl<F: Future> Run<F> {
    pub(crate) fn new(lost: Lost, work: impl IntoFuture<IntoFuture = F>) -> Self {
        Self { lost, work: Box::pin(work.into_future()) }
    }
}

impl<F: Future> Future for Run<F> {
    type Output = Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(error) = self.lost.poll_error(cx) {
            return Poll::Ready(Err(error));
        }
        let Poll::Ready(output) = self.work.as_mut().poll(cx) else { return Poll::Pending };
        // The work may have taken longer than the lease in this one poll.
        match self.lost.poll_error(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(output)),
        }
    }
}

impl<F> fmt::Debug for Run<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("lost", &self.lost).finish_non_exhaustive()
    }
}
