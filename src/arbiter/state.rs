//! The state of a key, for those who ask about it.

use super::{Arbiter, Granted, HoldId, Terms};
use crate::clock::Timestamp;
use crate::owner::Owner;

impl<G: Granted, W: Clone> Arbiter<G, W> {
    /// Whether the owner has a hold, by a grant that is not lost, which its request on these terms enters. Requests with a limit are
    /// separate: they enter exclusive holds only.
    pub(crate) fn enters(&self, owner: &Owner, terms: &Terms, now: Timestamp) -> bool {
        match terms.limit {
            None => self.tenures.holds(owner, now),
            Some(_) => self.tenures.holds_exclusively(owner, now),
        }
    }

    /// Whether another owner of the same task or thread holds the key, so that this one may be waiting for itself.
    pub(crate) fn is_held_beside(&self, owner: &Owner) -> bool {
        self.tenures.has_beside(owner)
    }

    /// Whether this process has a grant that is not lost.
    pub(crate) fn is_held(&self, now: Timestamp) -> bool {
        self.grants().any(|grant| grant.is_alive(now))
    }

    /// Whether an attempt has been granted since then.
    pub(crate) fn was_granted_since(&self, then: Timestamp) -> bool {
        self.last_granted >= Some(then)
    }

    /// Whether a waiter here needs the end of this hold: any, if it is exclusive. Whether one that may share the key has to wait is
    /// known to the backend.
    pub(crate) fn is_wanted(&self, id: HoldId) -> bool {
        self.tenures
            .terms_of(id)
            .is_some_and(|terms| self.queue.iter().any(|waiter| waiter.waits && waiter.terms.excludes(terms)))
    }

    /// Any grant that is not lost.
    pub(crate) fn any_grant(&self, now: Timestamp) -> Option<&G> {
        self.grants().find(|grant| grant.is_alive(now))
    }

    /// The grants that this process has.
    pub(crate) fn grants(&self) -> impl Iterator<Item = &G> {
        self.tenures.iter().map(|(_, tenure)| &tenure.grant)
    }

    /// The number of waiters, the claimant included.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }
}
