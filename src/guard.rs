//! [`LockGuard`], and the futures of its loss.

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
///     biased;
///     cause = guard.lost() => println!("stop, the lock is lost: {cause}"),
///     _ = async { /* long work */ } => println!("done with token {}", guard.token()),
/// }
/// guard.unlock().await?;
/// # Ok(()) });
/// ```
#[must_use = "if unused the lock is released at once"]
pub struct LockGuard {
    /// `None` after the share was released.
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

    /// Returns the mode of the hold. A shared request by an exclusive holder yields an exclusive guard.
    pub fn mode(&self) -> Mode {
        self.hold().held.grant.mode
    }

    /// Returns how many guards the hold has at present.
    pub fn depth(&self) -> u32 {
        self.hold().depth()
    }

    /// Returns the hold's owner, with which a task that this guard was moved to can lock the key again.
    pub fn owner(&self) -> Owner {
        self.hold().owner()
    }

    /// Returns whether the hold is lost or can no longer be proven. No I/O.
    ///
    /// It compares the clock with the deadline at the call, so the first check after a pause of the process is correct. Once it has
    /// returned `true` it always does.
    pub fn is_lost(&self) -> bool {
        self.loss().is_some()
    }

    pub(crate) fn loss(&self) -> Option<Loss> {
        let hold = self.hold();
        hold.loss(hold.held.life.now())
    }

    /// Returns the time until the deadline, at which the hold is lost unless its lease is renewed; zero if it is lost. No I/O.
    pub fn remaining(&self) -> Duration {
        let held = &self.hold().held;
        if self.is_lost() { Duration::ZERO } else { held.remaining(held.life.now()) }
    }

    /// Returns a future that completes with the cause when the hold is lost.
    ///
    /// It stays pending for ever after a normal release, so combine it with the work, in a `select!` for example.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped and created again at any time without missing a loss.
    pub fn lost(&self) -> Lost {
        Lost::of([self])
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

    /// Renews the lease now, and returns the time until the new deadline.
    ///
    /// Leases are renewed in the background. Call this to prove the lease before a step that cannot be undone, and to renew a hold
    /// with [`auto_renew(false)`](crate::LockRequest::auto_renew).
    ///
    /// # Errors
    ///
    /// [`LockError::Expired`] if the hold is lost; [`LockError::Backend`] if the server does not answer within the manager's
    /// timeout.
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
        renew(self.hold().held.clone())
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

    /// Returns a condition for a transaction on the same etcd cluster: that this lock is still held.
    ///
    /// A transaction with this condition fails, on the server, once the lock is no longer held, so a holder that was paused past
    /// its lease cannot write. The condition is about the grant of this process: finish the transaction before the guard is
    /// released, because the next local holder may have the same grant.
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

/// Renews the lease of a grant now.
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

/// Releases one guard's share. Returns the release of the grant, if it goes back to the server.
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
        // The loss was found under the mutex, where no waker may be called.
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

/// The future of a hold's loss; see [`LockGuard::lost`]. It can outlive the guard.
///
/// For [`LockGuards`](crate::LockGuards) it completes when the first of their holds is lost.
pub struct Lost(Vec<Watch>);

/// A hold, and this future's registrations with its loss signals.
struct Watch {
    hold: Arc<Hold>,
    claim: Listener,
    lease: Listener,
}

impl Lost {
    pub(crate) fn of<'a>(guards: impl IntoIterator<Item = &'a LockGuard>) -> Self {
        Self(guards.into_iter().map(|guard| Watch::new(guard.hold().clone())).collect())
    }

    /// The loss, as the error of the work under the lock.
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

/// The future of work that is dropped if the hold is lost; see [`LockGuard::run`].
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
        // This poll may have lasted until after the deadline.
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
