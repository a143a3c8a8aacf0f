//! Leases: on Redis, only what the holds of a manager with one TTL have in common.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::attempt::Attempt;
use super::batch::Batch;
use super::claims::{Claims, Renewing};
use super::losses::Losses;
use super::release::Releases;
use super::replicas::Replicas;
use super::scripts::Op;
use super::{answers, error};
use crate::backend::{Clock, ErrorKind, Lease, LeaseId, LeaseScope, Result};
use crate::process::report::warn;

#[derive(Debug)]
pub(super) struct Leases {
    clock: Arc<dyn Clock>,
    claims: Arc<Claims>,
    batch: Arc<Batch>,
    releases: Releases,
    losses: Arc<Losses>,
    /// `None` if no replica has to confirm.
    replicas: Option<Replicas>,
}

impl Leases {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        claims: Arc<Claims>,
        batch: Arc<Batch>,
        releases: Releases,
        losses: Arc<Losses>,
        replicas: Option<Replicas>,
    ) -> Self {
        Self { clock, claims, batch, releases, losses, replicas }
    }

    /// Opens a lease, without I/O.
    pub(super) fn open(&self, ttl: Duration, scope: LeaseScope) -> Lease {
        self.batch.serve_ttl(ttl);
        self.claims.open(ttl, scope, self.clock.now())
    }

    /// Renews all holds on the leases.
    pub(super) async fn renew(&self, leases: &[Lease]) -> Vec<Result<Lease>> {
        let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or_default();
        let limit = third.mul_f64(0.9);
        join_all(leases.iter().map(|lease| self.renew_one(*lease, limit))).await
    }

    async fn renew_one(&self, lease: Lease, limit: Duration) -> Result<Lease> {
        let server = self.batch.server();
        let proven = self.clock.now();
        let lease = Lease { proven, ..lease };
        let Some(Renewing { scope, held, releasing }) = self.claims.renewing(lease.id, proven) else {
            return Err(error::lost(server));
        };
        if held.is_empty() && releasing {
            // There is nothing to renew, but a release depends on the lease: a PING proves that the server answers.
            let answer = tokio::time::timeout(limit, self.batch.command(redis::cmd("PING"))).await;
            let answer = answer.unwrap_or_else(|_| Err(error::no_answer(server, limit)));
            return answer.map(|_| lease);
        }
        let Ok(answers) = tokio::time::timeout(limit, self.request(&held)).await else {
            return Err(error::no_answer(server, limit));
        };
        let mut outcome = Ok(lease);
        let is_session = scope == LeaseScope::Session;
        // The server serves this account: a lasting failure is of one hold alone.
        let is_served = answers.iter().any(|answer| matches!(answer, Ok(true)));
        for ((attempt, _), answer) in held.iter().zip(answers) {
            match answer {
                Ok(true) => {
                    if let Some(limit) = attempt.limit() {
                        limit.lift();
                    }
                }
                // Given up meanwhile.
                Ok(false) if attempt.held().is_none() => {}
                Ok(false) if is_session => self.losses.lose(attempt),
                Ok(false) => outcome = Err(error::lost(server)),
                Err(error) if is_session && is_served && error.kind() != ErrorKind::Unreachable => {
                    warn!(target: "leasehold::redis", "a hold cannot be renewed: {error}");
                    self.losses.lose(attempt);
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Renews holds. Returns whether each attempt still held its lock.
    async fn request(&self, held: &[(Arc<Attempt>, u64)]) -> Vec<Result<bool>> {
        if let Some(replicas) = &self.replicas {
            return join_all(held.iter().map(|(attempt, epoch)| replicas.renew(attempt, *epoch))).await;
        }
        let ops = held.iter().map(|(attempt, epoch)| Op::Renew(attempt.clone(), *epoch)).collect();
        let answers = self.batch.request(ops).await;
        answers.into_iter().map(|answer| answer.map(|answer| answers::found(&answer))).collect()
    }

    /// Ends a lease, and releases all holds on it.
    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let attempts = self.claims.end(lease);
        let withdrawn = join_all(attempts.iter().map(|attempt| self.releases.withdraw(attempt))).await;
        withdrawn.into_iter().collect()
    }
}
