//! The waiters of one key.

use std::collections::BTreeMap;

use super::indexed::{Indexed, Owned};
use super::types::{Terms, Ticket};
use crate::clock::Timestamp;
use crate::info::Mode;
use crate::owner::Owner;

#[derive(Debug)]
pub(super) struct Queued<W> {
    pub(super) ticket: Ticket,
    pub(super) owner: Owner,
    pub(super) terms: Terms,
    /// Whether it waits for the lock, or only for the answer to a try.
    pub(super) waits: bool,
    pub(super) since: Timestamp,
    /// Whether its long wait has been reported.
    pub(super) reported: bool,
    /// Wakes it when its state changes; none until it has received [`Turn::Wait`](super::Turn::Wait).
    pub(super) waker: Option<W>,
}

impl<W> Queued<W> {
    /// Whether it ends with the next answer to another shared try.
    fn is_shared_try(&self) -> bool {
        !self.waits && self.terms.mode == Mode::Shared
    }
}

impl<W> Owned for Queued<W> {
    fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// The outcome of a wait.
#[derive(Debug)]
pub(super) enum Delivery<H> {
    /// A share of a hold, with its depth.
    Entered(H, u32),
    /// Its owner would wait for itself.
    Refused(&'static str),
    /// The key was not free when it was tried.
    Busy,
}

impl<H> From<Result<(H, u32), &'static str>> for Delivery<H> {
    fn from(entered: Result<(H, u32), &'static str>) -> Self {
        entered.map_or_else(Self::Refused, |(hold, depth)| Self::Entered(hold, depth))
    }
}

/// The waiters, first come, first served. Each call costs O(log n) unless its documentation says otherwise.
#[derive(Debug)]
pub(super) struct Queue<W, H> {
    waiters: Indexed<Ticket, Queued<W>>,
    /// Outcomes that the waiters have not fetched yet.
    delivered: BTreeMap<Ticket, Delivery<H>>,
    /// The number of waiters that are shared tries.
    shared_tries: usize,
    /// The first and the last place that were ever taken.
    first: i64,
    last: i64,
}

impl<W, H> Default for Queue<W, H> {
    fn default() -> Self {
        Self { waiters: Indexed::default(), delivered: BTreeMap::new(), shared_tries: 0, first: 0, last: 0 }
    }
}

impl<W: Clone, H> Queue<W, H> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// O(n).
    pub(super) fn wakers(&self) -> impl Iterator<Item = W> {
        self.waiters.iter().filter_map(|(_, waiter)| waiter.waker.clone())
    }

    /// Whether there are no waiters but shared tries.
    pub(super) fn has_only_shared_tries(&self) -> bool {
        self.shared_tries == self.waiters.len()
    }

    /// The ticket of the newest waiter so far.
    pub(super) fn last(&self) -> Ticket {
        Ticket(self.last)
    }

    /// Takes the last place.
    pub(super) fn push(&mut self, owner: Owner, terms: Terms, waits: bool, since: Timestamp) -> Ticket {
        self.last += 1;
        self.insert(Ticket(self.last), owner, terms, waits, since)
    }

    /// Takes the first place.
    pub(super) fn push_front(&mut self, owner: Owner, terms: Terms, waits: bool, since: Timestamp) -> Ticket {
        self.first -= 1;
        self.insert(Ticket(self.first), owner, terms, waits, since)
    }

    fn insert(&mut self, ticket: Ticket, owner: Owner, terms: Terms, waits: bool, since: Timestamp) -> Ticket {
        let waiter = Queued { ticket, owner, terms, waits, since, reported: false, waker: None };
        self.shared_tries += usize::from(waiter.is_shared_try());
        self.waiters.insert(ticket, waiter);
        ticket
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queued<W>> {
        self.waiters.values_mut()
    }

    pub(super) fn first(&self) -> Option<&Queued<W>> {
        self.waiters.first().map(|(_, waiter)| waiter)
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Queued<W>> {
        self.waiters.get(ticket)
    }

    pub(super) fn has(&self, owner: &Owner) -> bool {
        self.waiters.last_of(owner).is_some()
    }

    /// The waiters of this owner, by their places.
    pub(super) fn of(&self, owner: &Owner) -> Vec<Ticket> {
        self.waiters.of(owner)
    }

    pub(super) fn take_first_waker(&mut self) -> Option<W> {
        self.waiters.first_mut()?.waker.take()
    }

    pub(super) fn pop(&mut self) -> Option<Queued<W>> {
        self.remove(self.first()?.ticket)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Queued<W>> {
        let waiter = self.waiters.remove(ticket)?;
        self.shared_tries -= usize::from(waiter.is_shared_try());
        Some(waiter)
    }

    /// Removes the first waiter if it is a shared try, and not newer than `newest`.
    pub(super) fn pop_try(&mut self, newest: Ticket) -> Option<Queued<W>> {
        let is_early_try = |waiter: &Queued<W>| waiter.is_shared_try() && waiter.ticket <= newest;
        self.first().is_some_and(is_early_try).then(|| self.pop()).flatten()
    }

    /// Returns the waker to drop: the older one, or this if there is no such waiter.
    pub(super) fn set_waker(&mut self, ticket: Ticket, waker: W) -> Option<W> {
        match self.waiters.get_mut(ticket) {
            Some(waiter) => waiter.waker.replace(waker),
            None => Some(waker),
        }
    }

    /// Keeps the outcome until the waiter fetches it; returns its waker.
    pub(super) fn deliver(&mut self, waiter: Queued<W>, delivery: Delivery<H>) -> Option<W> {
        self.delivered.insert(waiter.ticket, delivery);
        waiter.waker
    }

    pub(super) fn take_delivery(&mut self, ticket: Ticket) -> Option<Delivery<H>> {
        self.delivered.remove(&ticket)
    }

    /// O(n).
    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued<W>> {
        self.waiters.iter().map(|(_, waiter)| waiter)
    }

    /// Asserts the invariants that hold between any two calls.
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.waiters.check();
        assert_eq!(self.iter().filter(|waiter| waiter.is_shared_try()).count(), self.shared_tries);
        assert!(self.delivered.keys().all(|ticket| self.waiters.get(*ticket).is_none()), "served, and still waiting");
    }
}
