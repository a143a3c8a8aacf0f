//! The waiters of one key.

use std::collections::BTreeMap;

use super::ordered::Ordered;
use super::types::{ByOwner, Terms, Ticket};
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
    waiters: Ordered<Ticket, Queued<W>>,
    /// Empty while there are less than two waiters: one is found without it.
    by_owner: ByOwner<Ordered<Ticket, ()>>,
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
        Self {
            waiters: Ordered::default(),
            by_owner: ByOwner::default(),
            delivered: BTreeMap::new(),
            shared_tries: 0,
            first: 0,
            last: 0,
        }
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
        match self.waiters.lone() {
            Some(None) => {}
            Some(Some((first, waiter))) => {
                let first_owner = waiter.owner.clone();
                self.index(first, first_owner);
                self.index(ticket, owner.clone());
            }
            None => self.index(ticket, owner.clone()),
        }
        let waiter = Queued { ticket, owner, terms, waits, since, reported: false, waker: None };
        self.shared_tries += usize::from(waiter.is_shared_try());
        self.waiters.insert(ticket, waiter);
        ticket
    }

    fn index(&mut self, ticket: Ticket, owner: Owner) {
        self.by_owner.entry(owner).or_default().insert(ticket, ());
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queued<W>> {
        self.waiters.values_mut()
    }

    pub(super) fn first(&self) -> Option<&Queued<W>> {
        self.waiters.first()
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Queued<W>> {
        self.waiters.get(ticket)
    }

    pub(super) fn has(&self, owner: &Owner) -> bool {
        match self.waiters.lone() {
            Some(waiter) => waiter.is_some_and(|(_, waiter)| waiter.owner == *owner),
            None => self.by_owner.contains_key(owner),
        }
    }

    /// The waiters of this owner, by their places.
    pub(super) fn of(&self, owner: &Owner) -> Vec<Ticket> {
        match self.waiters.lone() {
            Some(waiter) => {
                waiter.filter(|(_, waiter)| waiter.owner == *owner).map(|(ticket, _)| ticket).into_iter().collect()
            }
            None => self.by_owner.get(owner).into_iter().flat_map(Ordered::iter).map(|(ticket, ())| ticket).collect(),
        }
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
        if self.waiters.lone().is_some() {
            self.by_owner = ByOwner::default();
        } else if let Some(tickets) = self.by_owner.get_mut(&waiter.owner) {
            tickets.remove(ticket);
            if tickets.is_empty() {
                self.by_owner.remove(&waiter.owner);
            }
        }
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

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued<W>> {
        self.waiters.iter().map(|(_, waiter)| waiter)
    }

    /// Asserts the invariants that hold between any two calls.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let known: usize = self.by_owner.values().map(Ordered::len).sum();
        let is_indexed = |waiter: &Queued<W>| self.by_owner[&waiter.owner].get(waiter.ticket).is_some();
        match self.len() {
            0 | 1 => assert_eq!(known, 0),
            len => assert!(known == len && self.iter().all(is_indexed)),
        }
        assert_eq!(self.iter().filter(|waiter| waiter.is_shared_try()).count(), self.shared_tries);
        assert!(self.delivered.keys().all(|ticket| self.waiters.get(*ticket).is_none()), "served, and still waiting");
    }
}
