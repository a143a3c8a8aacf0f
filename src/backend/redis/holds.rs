//! Getting, keeping and giving up.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::{Attempt, Outcome, Won};
use super::claims::Renewing;
use super::polling::Polling;
use super::requests::Answer;
use super::scripts::{self, Op};
use super::{Shared, error, value};
use crate::backend::{AttemptId, Claim, ErrorKind, Event, Grant, HEAD_START, Lease, LeaseId, Limit, Result};
use crate::process::report::debug;

/// Shorter holds are not worth being confirmed.
const AGE: Duration = Duration::from_millis(50);

impl Shared {
    /// Takes a lock, or waits in its queue.
    pub(super) async fn acquire(&self, claim: &Claim, wait: bool) -> Result<Option<Grant>> {
        let name = self.names.of(&claim.key)?;
        // Known before the first byte is sent: the hand-over may be told before the answer comes.
        let begun = self.claims.begin(claim.lease.id, claim.attempt, || {
            Attempt::new(claim, name, value::write(self.manager, claim), wait)
        });
        let Some(attempt) = begun else { return Err(error::lost(self.connection.server())) };
        self.connection.ask(&attempt);
        loop {
            match poll_fn(|cx| attempt.poll(cx, self.clock.now())).await {
                Outcome::Granted(won) => {
                    let won = self.replicated(&attempt, won).await?;
                    return self.granted(claim, &attempt, won).map(Some);
                }
                Outcome::Verify => self.connection.ask(&attempt),
                Outcome::Busy => return Ok(None),
                Outcome::Failed(error) => return Err(error),
                Outcome::Gone => return Err(error::lost(self.connection.server())),
            }
        }
    }

    fn granted(&self, claim: &Claim, attempt: &Arc<Attempt>, won: Won) -> Result<Grant> {
        let limit = self.claims.hold(attempt, won).ok_or_else(|| error::lost(self.connection.server()))?;
        let mut grant = Grant::new(claim, won.epoch);
        if !grant.lease.session {
            // A session's other holds are no younger for this one.
            grant.lease.proven = grant.lease.proven.max(won.dated);
        }
        if limit.is_some() {
            self.unconfirmed.add(attempt);
        }
        grant.limit = limit;
        Ok(grant)
    }

    /// Waits until enough replicas have the lock.
    async fn replicated(&self, attempt: &Arc<Attempt>, won: Won) -> Result<Won> {
        match &self.replicas {
            Some(replicas) => replicas.confirm(attempt, won).await,
            None => Ok(won),
        }
    }

    /// Makes sure that an attempt has nothing and waits for nothing.
    pub(super) async fn settle(self: &Arc<Self>, id: AttemptId) -> Result<()> {
        match self.claims.get(id) {
            Some(attempt) => self.withdraw(&attempt).await,
            // Nothing was ever sent, or nothing is left.
            None => Ok(()),
        }
    }

    /// Releases what an attempt holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LeaseLost`] if it did not hold it any more when its release came, unless an earlier copy of that release may
    /// have released it.
    pub(super) async fn release(self: &Arc<Self>, id: AttemptId) -> Result<()> {
        let lost = || error::lost(self.connection.server());
        let attempt = self.claims.get(id).ok_or_else(lost)?;
        self.withdraw(&attempt).await?;
        if attempt.was_released() { Ok(()) } else { Err(lost()) }
    }

    /// Gives up an attempt, whatever it has or has not.
    async fn withdraw(self: &Arc<Self>, attempt: &Arc<Attempt>) -> Result<()> {
        if let Some(copies) = attempt.give_up() {
            let copies = if copies { attempt.copies_come_for() } else { Duration::ZERO };
            let answer = self.connection.request_one(Op::Release(attempt.clone(), copies));
            Leaving { shared: self.clone(), attempt: attempt.clone(), answer: Some(answer) }.await?;
        }
        self.claims.forget(attempt.id);
        Ok(())
    }

    /// A message says that the lock was taken away from an attempt. Anybody may have sent it, so a hold that can be renewed goes on.
    pub(super) fn check(self: &Arc<Self>, attempt: Arc<Attempt>) {
        let Some(epoch) = attempt.held() else {
            // A grant that nobody has yet is no loss. One that waits has nothing to lose.
            if !attempt.is_waiting() {
                self.lose(&attempt);
            }
            return;
        };
        // Asked once for all messages that come meanwhile.
        if !attempt.begin_check() {
            return;
        }
        let shared = self.clone();
        self.handle.spawn(async move {
            loop {
                let renewal = shared.connection.request_one(Op::Renew(attempt.clone(), epoch)).await;
                // What cannot be known is decided by the deadline.
                let is_lost = renewal.is_ok_and(|answer| scripts::text(&answer) == Some("0"));
                if is_lost && attempt.held().is_some() {
                    return shared.lose(&attempt);
                }
                if !attempt.end_check() {
                    return;
                }
            }
        });
    }

    /// An attempt has lost what it had, or may have: tells so, and leaves nothing of it behind.
    pub(super) fn lose(self: &Arc<Self>, attempt: &Arc<Attempt>) {
        self.tell(Event::ClaimLost(attempt.id));
        let (shared, attempt) = (self.clone(), attempt.clone());
        attempt.give_up();
        self.handle.spawn(async move {
            // If it lives on there, because the answer to a renewal was lost, its holder hears of the loss before others get in.
            tokio::time::sleep(HEAD_START).await;
            if let Err(error) = shared.withdraw(&attempt).await {
                debug!(target: "leasehold::redis", "not cleaned up: {error}");
                shared.claims.forget(attempt.id);
            }
        });
    }

    /// Renews all that is held on the leases.
    pub(super) async fn renew(self: &Arc<Self>, leases: &[Lease]) -> Vec<Result<Lease>> {
        let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or_default();
        let limit = third.mul_f64(0.9);
        join_all(leases.iter().map(|lease| async move {
            let proven = self.clock.now();
            let Some(Renewing { session, held, releasing }) = self.claims.renewing(lease.id, proven) else {
                return Err(error::lost(self.connection.server()));
            };
            if held.is_empty() && releasing {
                // Nothing is proven by renewing nothing, and the release may count on the lease: does the server answer at all?
                let answer = tokio::time::timeout(limit, self.connection.command(redis::cmd("PING"))).await;
                let answer = answer.unwrap_or_else(|_| Err(error::no_answer(self.connection.server(), limit)));
                return answer.map(|_| Lease { proven, ..*lease });
            }
            let parts = held.iter().map(|(attempt, epoch)| Op::Renew(attempt.clone(), *epoch)).collect();
            let answers = self.connection.request(parts);
            let Ok(answers) = tokio::time::timeout(limit, answers).await else {
                return Err(error::no_answer(self.connection.server(), limit));
            };
            let mut outcome = Ok(Lease { proven, ..*lease });
            for ((attempt, _), answer) in held.iter().zip(answers) {
                match answer {
                    Ok(answer) if scripts::text(&answer) == Some("1") => {
                        if let Some(limit) = attempt.limit() {
                            limit.lift();
                        }
                    }
                    // Given up meanwhile.
                    Ok(_) if attempt.held().is_none() => {}
                    Ok(_) if session => self.lose(attempt),
                    Ok(_) => outcome = Err(error::lost(self.connection.server())),
                    Err(error) => outcome = Err(error),
                }
            }
            outcome
        }))
        .await
    }

    /// Ends a lease, with all that is on it.
    pub(super) async fn revoke(self: &Arc<Self>, lease: LeaseId) -> Result<()> {
        let attempts = self.claims.end(lease);
        let withdrawn = join_all(attempts.iter().map(|attempt| self.withdraw(attempt))).await;
        withdrawn.into_iter().collect()
    }
}

/// A release on its way, which goes on when nobody waits for it any more.
struct Leaving {
    shared: Arc<Shared>,
    attempt: Arc<Attempt>,
    answer: Option<Answer>,
}

impl Future for Leaving {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Ok(())) };
        let answered = ready!(Pin::new(answer).poll(cx));
        self.answer = None;
        Poll::Ready(answered.map(drop))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let (claims, attempt) = (self.shared.claims.clone(), self.attempt.clone());
            self.shared.handle.spawn(async move {
                if answer.await.is_ok() {
                    // A release that is repeated meanwhile asks what became of this one.
                    tokio::time::sleep(attempt.ttl).await;
                    claims.forget(attempt.id);
                }
            });
        }
    }
}

/// Lets those look by themselves whose time it is.
pub(super) async fn look(shared: Weak<Shared>, looks: Arc<Polling>) {
    loop {
        let due = looks.due().await;
        let Some(shared) = shared.upgrade() else { return };
        due.iter().for_each(|attempt| shared.connection.ask(attempt));
    }
}

/// Grants with a limit, oldest first, to be confirmed if they last.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    waiting: Mutex<VecDeque<(Instant, Arc<Attempt>)>>,
    grown: Arc<Notify>,
}

impl Unconfirmed {
    fn add(&self, attempt: &Arc<Attempt>) {
        let mut waiting = self.waiting.lock();
        waiting.push_back((Instant::now() + AGE.min(attempt.ttl / 8), attempt.clone()));
        if waiting.len() == 1 {
            self.grown.notify_one();
        }
    }

    /// Tells when the first one is added.
    pub(super) fn grown(&self) -> Arc<Notify> {
        self.grown.clone()
    }

    fn first(&self) -> Option<Instant> {
        self.waiting.lock().front().map(|(due, _)| *due)
    }

    fn due(&self) -> Vec<Arc<Attempt>> {
        let (mut due, now) = (Vec::new(), Instant::now());
        let mut waiting = self.waiting.lock();
        while waiting.front().is_some_and(|(at, _)| *at <= now) {
            due.extend(waiting.pop_front().map(|(_, attempt)| attempt));
        }
        due
    }
}

/// Confirms grants that have a limit. Sleeps while there are none.
pub(super) async fn confirm(shared: Weak<Shared>, grown: Arc<Notify>) {
    loop {
        grown.notified().await;
        while let Some(due) = shared.upgrade().and_then(|shared| shared.unconfirmed.first()) {
            tokio::time::sleep_until(due).await;
            let Some(shared) = shared.upgrade() else { return };
            for attempt in shared.unconfirmed.due() {
                if let (Some(epoch), Some(limit)) = (attempt.held(), attempt.limit()) {
                    let confirming = confirm_one(shared.clone(), attempt, epoch, limit);
                    shared.handle.spawn(confirming);
                }
            }
        }
    }
}

/// Confirms one grant, which is lost if that does not come in time.
async fn confirm_one(shared: Arc<Shared>, attempt: Arc<Attempt>, epoch: u64, limit: Limit) {
    loop {
        let left = limit.until().since(shared.clock.now());
        if left.is_zero() {
            break;
        }
        let renewal = shared.connection.request_one(Op::Renew(attempt.clone(), epoch));
        match tokio::time::timeout(left, renewal).await {
            Ok(Ok(answer)) if scripts::text(&answer) == Some("1") => {
                limit.lift();
                return;
            }
            Ok(Ok(_)) => break,
            Ok(Err(error)) if error.kind() == ErrorKind::Closed => return,
            Ok(Err(_)) => tokio::time::sleep(left.min(AGE)).await,
            Err(_) => {}
        }
    }
    if attempt.held().is_some() {
        shared.lose(&attempt);
    }
}
