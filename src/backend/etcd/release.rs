//! Claims removed from the server: released, or aborted.

use std::sync::{Arc, Weak};
use std::task::Poll;

use etcd_client::Compare;

use super::batch::{Batcher, Reply};
use super::claims::Claims;
use super::connection::Connection;
use super::error;
use super::granted::GrantedClaim;
use super::kind::Kind;
use super::leases::Leases;
use super::losses::Losses;
use super::member::Member;
use super::names::{Directory, Names};
use super::releases::{Begun, Due, Releases, Sent};
use super::txn::Record;
use super::watched::Subject;
use crate::backend::{Claim, Completion, ErrorKind, Grant, LeaseId, Result};

/// Removes the claims of one manager.
pub(super) struct Releaser {
    connection: Arc<Connection>,
    names: Names,
    pub(super) claims: Arc<Claims>,
    pub(super) batcher: Arc<Batcher>,
    leases: Arc<Leases>,
    losses: Arc<Losses>,
}

impl Sent for Releaser {
    fn sent(&self, due: Due, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                let claims = std::slice::from_ref(&due.claim);
                self.claims.confirm(&due.directory, claims, self.connection.endpoints());
            }
            // The claim has ended with its lease. When that is forgotten, the release is completed as well.
            Err(error) if error.kind() == ErrorKind::LeaseLost => self.losses.report(Subject::Session(due.lease)),
            Err(error) => {
                if let Some(begun) = self.claims.releases().failed(&due) {
                    begun.completion.complete(Err(error::to_be_repeated(error)));
                }
            }
        }
    }
}

impl Releaser {
    /// Creates the releaser of one manager.
    pub(super) fn new(
        connection: Arc<Connection>,
        names: Names,
        claims: Arc<Claims>,
        batcher: Arc<Batcher>,
        leases: Arc<Leases>,
        losses: Arc<Losses>,
    ) -> Self {
        Self { connection, names, claims, batcher, leases, losses }
    }

    /// Removes all traces of an attempt, including requests that have not arrived yet.
    pub(super) async fn abort(&self, claim: &Claim) -> Result<()> {
        if !claim.lease.is_session() {
            return self.leases.revoke(claim.lease.id).await;
        }
        // Nothing was sent, or all that was sent has been answered and undone.
        let Some(is_unknown) = self.claims.outcome(claim.attempt) else {
            self.claims.forget_certain(claim.attempt);
            return Ok(());
        };
        self.losses.unhold(claim.attempt);
        let Some(number) = self.claims.number(claim.attempt) else { return Ok(()) };
        let directory = self.names.directory(&claim.key);
        let name = directory.claim(Kind::of(claim), claim.lease.id, number);
        self.delete(claim.lease.id, is_unknown, |record| Member::abort(directory.clone(), name.clone(), record))
            .await?;
        // Its number is not used again: a copy of this request may arrive late, and deletes by name.
        self.claims.forget(claim.attempt);
        Ok(())
    }

    /// Begins the release of a grant, if that is a mere deletion. Returns the completion otherwise.
    pub(super) fn begin(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        let (attempt, lease) = (grant.attempt, grant.lease.id);
        if !grant.lease.is_session() {
            return Some(completion);
        }
        match (self.claims.released(attempt), granted_claim(grant)) {
            (Some((directory, false)), Some(claim)) => {
                self.losses.unhold(attempt);
                self.claims.releases().begin(Due { directory, claim, lease }, Begun { attempt, completion });
                None
            }
            _ => Some(completion),
        }
    }

    /// Sends releases that were begun.
    ///
    /// A caller that drops a guard often locks again at once, and the claim that is sent then also makes the release: one write for the
    /// server instead of two. If none is sent until a task of the keeper calls this, no time is lost.
    pub(super) fn send(self: &Arc<Self>, due: Vec<Due>) {
        self.batcher.queue_all(due.into_iter().map(|due| {
            let member = Member::release(due.directory.clone(), due.claim.clone(), None);
            let releaser = self.clone();
            (member, Reply::Begun(releaser, due))
        }));
    }

    /// Notes that a grant is released, whatever becomes of the request, so that the next claim of the key can also make the release.
    pub(super) fn note(&self, grant: &Grant) {
        // On a lease that has ended there is nothing left to release.
        let Some((directory, is_unknown)) = self.claims.released(grant.attempt) else { return };
        self.losses.unhold(grant.attempt);
        if let Some(claim) = granted_claim(grant) {
            self.claims.releases().add(directory, claim, grant.lease.id, is_unknown);
        }
    }

    /// Releases a grant whose release was [noted](Self::note).
    ///
    /// # Errors
    ///
    /// [`LeaseLost`](ErrorKind::LeaseLost) if its claim did not exist any more, unless an earlier request may have deleted it.
    pub(super) async fn release(&self, grant: &Grant) -> Result<()> {
        let Some(claim) = granted_claim(grant) else { return Ok(()) };
        let removed = self.remove(grant, &claim).await;
        let is_removed = removed.as_ref().map_or_else(|error| error.kind() == ErrorKind::LeaseLost, |()| true);
        if is_removed && !grant.lease.is_session() {
            self.leases.revoke(grant.lease.id).await?;
        }
        removed
    }

    /// Deletes the claim of a grant, and returns whether it was there.
    async fn remove(&self, grant: &Grant, claim: &Arc<GrantedClaim>) -> Result<()> {
        let endpoints = self.connection.endpoints();
        let confirm = |directory: &Directory| self.claims.confirm(directory, std::slice::from_ref(claim), endpoints);
        let Some((directory, is_unknown)) = self.claims.released(grant.attempt) else {
            // It has ended, by an earlier call or with its lease.
            confirm(&self.names.directory(&grant.key));
            return claim.outcome(endpoints);
        };
        // As when it is begun without a future.
        yield_once().await;
        if self.claims.releases().await_uncarried(&directory, claim).await {
            // A copy of the claim's request has no effect once the lease has ended.
            let is_unknown = is_unknown && grant.lease.is_session();
            self.delete(grant.lease.id, is_unknown, |record| Member::release(directory.clone(), claim.clone(), record))
                .await?;
            confirm(&directory);
        }
        if !claim.is_undecided() {
            if is_unknown {
                self.claims.forget(grant.attempt);
            } else {
                self.claims.forget_certain(grant.attempt);
            }
        }
        claim.outcome(endpoints)
    }

    /// Deletes a claim, with the rewrite that keeps older copies from taking effect. If the server has no space for that, it is deleted
    /// without.
    async fn delete(&self, lease: LeaseId, is_unknown: bool, member: impl Fn(Option<Record>) -> Member) -> Result<()> {
        let limit = self.connection.patience(self.connection.timeout());
        let record = self.leases.record_to_rewrite(lease, is_unknown);
        match self.batcher.send(limit, member(record)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                // The claim has ended with its lease.
                self.losses.report(Subject::Session(lease));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Refused => {
                // The key is free for others then, but an older copy can still arrive, so this has to be repeated.
                self.batcher.send(limit, member(None)).await?;
                Err(error::to_be_repeated(error))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the claim of a grant that this backend made.
pub(super) fn granted_claim(grant: &Grant) -> Option<Arc<GrantedClaim>> {
    grant.payload.clone()?.downcast().ok()
}

/// Returns the condition that the claim of a grant exists, if the grant is of etcd.
pub(crate) fn exists(grant: &Grant) -> Option<Compare> {
    granted_claim(grant).map(|claim| claim.exists())
}

/// Completes at the next poll, for which it wakes the task at once.
async fn yield_once() {
    let mut has_yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Sends releases that were begun, whenever there are any.
pub(super) async fn send_begun(releases: Arc<Releases>, releaser: Weak<Releaser>) {
    loop {
        let due = releases.due().await;
        let Some(releaser) = releaser.upgrade() else { return };
        releaser.send(due);
    }
}
