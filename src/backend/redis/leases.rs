//! Leases: on Redis, only what the holds of a manager with one TTL have in common.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::attempt::Attempt;
use super::claims::{Claims, Renewing};
use super::confirmations::Confirmations;
use super::losses::Losses;
use super::release::Releases;
use super::router::Router;
use super::scripts::Op;
use super::{answers, error};
use crate::backend::{Clock, ErrorKind, Lease, LeaseId, LeaseScope, Result};
use crate::process::report::warn;

#[derive(Debug)]
pub(super) struct Leases {
    clock: Arc<dyn Clock>,
    claims: Arc<Claims>,
    router: Arc<Router>,
    releases: Releases,
    losses: Arc<Losses>,
    confirmations: Arc<Confirmations>,
}

impl Leases {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        claims: Arc<Claims>,
        router: Arc<Router>,
        releases: Releases,
        losses: Arc<Losses>,
        confirmations: Arc<Confirmations>,
    ) -> Self {
        Self { clock, claims, router, releases, losses, confirmations }
    }

    /// Opens a lease, without I/O.
    pub(super) fn open(&self, ttl: Duration, scope: LeaseScope) -> Lease {
        self.router.serve_ttl(ttl);
        self.claims.open(ttl, scope, self.clock.now())
    }

    /// Renews all holds on the leases.
    pub(super) async fn renew(&self, leases: &[Lease]) -> Vec<Result<Lease>> {
        let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or_default();
        let limit = third.mul_f64(0.9);
        join_all(leases.iter().map(|lease| self.renew_one(*lease, limit))).await
    }

    async fn renew_one(&self, lease: Lease, limit: Duration) -> Result<Lease> {
        let server = self.router.server();
        let proven = self.clock.now();
        let lease = Lease { proven, ..lease };
        let Some(Renewing { scope, held, releasing }) = self.claims.renewing(lease.id, proven) else {
            return Err(error::lost(server));
        };
        if held.is_empty() && releasing {
            // There is nothing to renew, but a release depends on the lease: a PING proves that the server answers.
            let answer = tokio::time::timeout(limit, self.router.ping_any()).await;
            let answer = answer.unwrap_or_else(|_| Err(error::no_answer(server, limit)));
            return answer.map(|()| lease);
        }
        let answers = self.request(&held, limit).await;
        let mut outcome = Ok(lease);
        let is_session = scope == LeaseScope::Session;
        // The server serves this account: a lasting failure is of one hold alone.
        let is_served = answers.iter().any(|answer| matches!(answer, Ok(true)));
        for ((attempt, _), answer) in held.iter().zip(answers) {
            match answer {
                Ok(true) => drop(attempt.confirmed(proven)),
                // Given up meanwhile.
                Ok(false) if attempt.held().is_none() => {}
                Ok(false) if is_session => self.losses.lose(attempt),
                Ok(false) => outcome = Err(error::lost(server)),
                Err(error) if is_session && is_served && error.kind() != ErrorKind::Unreachable => {
                    warn!(target: "leasehold::redis", "a hold cannot be renewed: {error}");
                    self.losses.lose(attempt);
                }
                // Another server has answered: the lease goes on, and this hold ends alone if it is not confirmed in time.
                Err(_) if is_session && is_served && self.router.slots().is_some() => {
                    if attempt.unconfirmed(proven) {
                        self.confirmations.add(attempt);
                    }
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Renews holds. Returns whether each attempt still held its lock.
    async fn request(&self, held: &[(Arc<Attempt>, u64)], limit: Duration) -> Vec<Result<bool>> {
        let end = Instant::now() + limit;
        let no_answer = || Err(error::no_answer(self.router.server(), limit));
        if self.router.has_replicas() {
            let renewals = held.iter().map(async |(attempt, epoch)| {
                timeout_at(end, self.router.renew(attempt, *epoch)).await.unwrap_or_else(|_| no_answer())
            });
            return join_all(renewals).await;
        }
        let ops = held.iter().map(|(attempt, epoch)| Op::Renew(attempt.clone(), *epoch)).collect();
        let mut renewed = Vec::with_capacity(held.len());
        for answer in self.router.request(ops) {
            let answer =
                timeout_at(end, answer).await.unwrap_or_else(|_| Err(error::no_answer(self.router.server(), limit)));
            renewed.push(answer.map(|answer| answers::found(&answer)));
        }
        renewed
    }

    /// Ends a lease, and releases all holds on it.
    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let attempts = self.claims.end(lease);
        let withdrawn = join_all(attempts.iter().map(|attempt| self.releases.withdraw(attempt))).await;
        withdrawn.into_iter().collect()
    }
}
