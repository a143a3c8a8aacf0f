//! The I/O of an acquire; the decisions are in `attempt`.

use std::future::poll_fn;
use std::sync::Arc;

use super::attempt::Attempt;
use super::claims::Claims;
use super::confirmations::Confirmations;
use super::error;
use super::names::Names;
use super::place::Won;
use super::router::Router;
use super::stage::Outcome;
use super::value::{ClaimText, Writer};
use crate::backend::{Claim, Clock, Grant, Limit, Result, Wait, derived};

#[derive(Debug)]
pub(super) struct Acquires {
    pub(super) names: Names,
    pub(super) writer: Writer,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) claims: Arc<Claims>,
    pub(super) router: Arc<Router>,
    pub(super) confirmations: Arc<Confirmations>,
}

impl Acquires {
    /// Acquires a lock; waits in its queue if the claim is to `wait`.
    pub(super) async fn acquire(&self, claim: &Claim, wait: Wait) -> Result<Option<Grant>> {
        let name = derived(claim, || self.names.of(&claim.key))?;
        // Registered before the first byte is sent: the message of a handover may overtake the answer.
        let attempt = Attempt::new(claim, name, ClaimText::new(&self.writer, claim), wait);
        let Some(attempt) = self.claims.begin(attempt) else { return Err(error::lost(self.router.server())) };
        self.router.acquire(&attempt);
        loop {
            match poll_fn(|cx| attempt.poll(cx, self.clock.now())).await {
                Outcome::Granted(won) => {
                    let won = self.replicated(&attempt, won).await?;
                    return self.granted(claim, &attempt, won).map(Some);
                }
                Outcome::Verify => self.router.acquire(&attempt),
                Outcome::Busy => return Ok(None),
                Outcome::Failed(error) => return Err(error),
                Outcome::GivenUp => return Err(error::lost(self.router.server())),
            }
        }
    }

    fn granted(&self, claim: &Claim, attempt: &Arc<Attempt>, won: Won) -> Result<Grant> {
        let is_parted = self.router.slots().is_some();
        let limit = self.claims.hold(attempt, won, is_parted).ok_or_else(|| error::lost(self.router.server()))?;
        self.router.track(attempt);
        let mut grant = Grant::new(claim, won.epoch);
        if !grant.lease.is_session() {
            // This says nothing about a session's other holds.
            grant.lease.proven = grant.lease.proven.max(won.dated);
        }
        if limit.as_ref().is_some_and(Limit::is_set) {
            self.confirmations.add(attempt);
        }
        grant.limit = limit;
        Ok(grant)
    }

    /// Waits until enough replicas have the lock.
    async fn replicated(&self, attempt: &Arc<Attempt>, won: Won) -> Result<Won> {
        match self.router.server_of(&attempt.name).as_ref().and_then(|serving| serving.replicas.as_ref()) {
            Some(replicas) => replicas.confirm(attempt, won.epoch).await,
            None => Ok(won),
        }
    }
}
