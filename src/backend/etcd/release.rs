//! Claims removed from the server: released, or aborted.

use std::sync::Arc;
use std::task::Poll;

use etcd_client::{Compare, Txn};

use super::batch::{Batcher, Member};
use super::claims::Claims;
use super::connection::Connection;
use super::leases::Leases;
use super::losses::Losses;
use super::names::{Directory, Names};
use super::txn::{self, ClaimKey};
use super::watched::Subject;
use crate::backend::{BackendError, Claim, ErrorKind, Grant, LeaseId, Result};

/// Removes the claims of one manager.
pub(super) struct Releaser {
    connection: Arc<Connection>,
    names: Names,
    pub(super) claims: Arc<Claims>,
    pub(super) batcher: Arc<Batcher>,
    leases: Arc<Leases>,
    losses: Arc<Losses>,
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
        let name = directory.claim(claim.mode, claim.lease.id, number);
        self.delete(claim.lease.id, is_unknown, directory, name.clone(), txn::abort(&name)).await?;
        // Its number is not used again: a copy of this request may arrive late, and deletes by name.
        self.claims.forget(claim.attempt);
        Ok(())
    }

    /// Notes that a grant is released, whatever becomes of the request, so that the next claim of the key can also make the release.
    pub(super) fn note(&self, grant: &Grant) {
        let directory = self.names.directory(&grant.key);
        let is_unknown = self.claims.outcome(grant.attempt).unwrap_or_default();
        self.losses.unhold(grant.attempt);
        // On a lease that has ended there is nothing left to release.
        if let Some(claim) = self.claim_key(grant) {
            self.claims.releases().add(directory, claim, grant.lease.id, is_unknown);
        }
    }

    /// Releases a grant whose release was [noted](Self::note).
    pub(super) async fn release(&self, grant: &Grant) -> Result<()> {
        if !grant.lease.is_session() {
            return self.leases.revoke(grant.lease.id).await;
        }
        let is_unknown = self.claims.outcome(grant.attempt).unwrap_or_default();
        let directory = self.names.directory(&grant.key);
        let Some(claim) = self.claim_key(grant) else { return Ok(()) };
        // A caller that drops a guard often locks again at once, and the claim that is sent then also makes the release: one write
        // for the server instead of two. If none is sent, no time is lost.
        yield_once().await;
        if !self.claims.releases().await_uncarried(&directory, &claim).await {
            self.claims.forget_certain(grant.attempt);
            return Ok(());
        }
        self.delete(grant.lease.id, is_unknown, directory.clone(), claim.name.clone(), claim.delete()).await?;
        if is_unknown {
            self.claims.forget(grant.attempt);
        } else {
            self.claims.forget_certain(grant.attempt);
        }
        self.claims.releases().confirm(&directory, &[claim]);
        Ok(())
    }

    /// Returns the claim of a grant, if its lease has not ended.
    fn claim_key(&self, grant: &Grant) -> Option<Arc<ClaimKey>> {
        self.claims.number(grant.attempt)?;
        claim_key(grant)
    }

    /// Sends a transaction that deletes, with the rewrite that keeps older copies from taking effect. If the server has no space for
    /// that, it is sent without.
    async fn delete(
        &self,
        lease: LeaseId,
        is_unknown: bool,
        directory: Directory,
        name: Vec<u8>,
        txn: Txn,
    ) -> Result<()> {
        let record = self.leases.record_to_rewrite(lease, is_unknown);
        let limit = self.connection.patience(self.connection.timeout());
        match self.batcher.send(limit, Member::deletion(directory, name, txn.clone(), record)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                // The claim has ended with its lease.
                self.losses.report(Subject::Session(lease));
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Refused => {
                // The key is free for others then, but an older copy can still arrive, so this has to be repeated.
                self.connection.txn(txn).await?;
                Err(BackendError::new(ErrorKind::Unreachable, error.to_string()).because(error))
            }
            Err(error) => Err(error),
        }
    }
}

/// Returns the claim of a grant that this backend made.
fn claim_key(grant: &Grant) -> Option<Arc<ClaimKey>> {
    grant.payload.clone()?.downcast().ok()
}

/// Returns the condition that the claim of a grant exists, if the grant is of etcd.
pub(crate) fn exists(grant: &Grant) -> Option<Compare> {
    claim_key(grant).map(|claim| claim.exists())
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
