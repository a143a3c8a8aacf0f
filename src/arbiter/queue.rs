//! The waiters of one key.

use std::collections::VecDeque;

use super::Terms;
use crate::Mode;
use crate::clock::Timestamp;
use crate::owner::Owner;

/// A waiter's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub(super) ticket: Ticket,
    pub(super) owner: Owner,
    pub(super) terms: Terms,
    /// Whether it waits for its turn, or only for the answer to a try.
    pub(super) waits: bool,
    pub(super) since: Timestamp,
    /// Whether its long wait has been told of.
    pub(super) told: bool,
    /// Whom to wake when there is news; none until it has been told to wait.
    pub(super) waker: Option<W>,
}

impl<W> Waiter<W> {
    /// Whether it goes away with the next answer that another shared try gets.
    fn is_shared_try(&self) -> bool {
        !self.waits && self.terms.mode == Mode::Shared
    }
}

/// What a waiter is given.
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

#[derive(Debug)]
pub(super) struct Queue<W, H> {
    waiters: VecDeque<Waiter<W>>,
    /// What waiters were given and have not fetched yet.
    delivered: Vec<(Ticket, Delivery<H>)>,
    /// How many of the waiters are shared tries.
    shared_tries: usize,
    last: u64,
}

impl<W, H> Default for Queue<W, H> {
    fn default() -> Self {
        Self { waiters: VecDeque::new(), delivered: Vec::new(), shared_tries: 0, last: 0 }
    }
}

impl<W: Clone, H> Queue<W, H> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn wakers(&self) -> impl Iterator<Item = W> {
        self.waiters.iter().filter_map(|waiter| waiter.waker.clone())
    }

    /// Whether there is nobody, or only shared tries.
    pub(super) fn has_only_shared_tries(&self) -> bool {
        self.shared_tries == self.waiters.len()
    }

    /// The ticket of the newest waiter so far.
    pub(super) fn last(&self) -> Ticket {
        Ticket(self.last)
    }

    pub(super) fn push(&mut self, owner: Owner, terms: Terms, waits: bool, since: Timestamp) -> Ticket {
        self.insert(self.waiters.len(), owner, terms, waits, since)
    }

    pub(super) fn insert(&mut self, place: usize, owner: Owner, terms: Terms, waits: bool, since: Timestamp) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let place = place.min(self.waiters.len());
        let waiter = Waiter { ticket, owner, terms, waits, since, told: false, waker: None };
        self.shared_tries += usize::from(waiter.is_shared_try());
        self.waiters.insert(place, waiter);
        ticket
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiter<W>> {
        self.waiters.iter_mut()
    }

    pub(super) fn first(&self) -> Option<&Waiter<W>> {
        self.waiters.front()
    }

    pub(super) fn get(&self, place: usize) -> Option<&Waiter<W>> {
        self.waiters.get(place)
    }

    pub(super) fn take_first_waker(&mut self) -> Option<W> {
        self.waiters.front_mut()?.waker.take()
    }

    pub(super) fn pop(&mut self) -> Option<Waiter<W>> {
        self.remove_at(0)
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter<W>> {
        let place = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        self.remove_at(place)
    }

    pub(super) fn remove_at(&mut self, place: usize) -> Option<Waiter<W>> {
        let waiter = self.waiters.remove(place)?;
        self.shared_tries -= usize::from(waiter.is_shared_try());
        Some(waiter)
    }

    /// Takes out the first of the tries that came no later than `newest`.
    pub(super) fn pop_try(&mut self, newest: Ticket) -> Option<Waiter<W>> {
        let is_early_try = |waiter: &Waiter<W>| waiter.is_shared_try() && waiter.ticket.0 <= newest.0;
        self.waiters.front().is_some_and(is_early_try).then(|| self.pop()).flatten()
    }

    /// Returns the waker to drop: the older one, or this if there is no such waiter.
    pub(super) fn set_waker(&mut self, ticket: Ticket, waker: W) -> Option<W> {
        match self.waiters.iter_mut().find(|waiter| waiter.ticket == ticket) {
            Some(waiter) => waiter.waker.replace(waker),
            None => Some(waker),
        }
    }

    /// Keeps what a waiter was given until it fetches it; returns whom to wake.
    pub(super) fn deliver(&mut self, waiter: Waiter<W>, delivery: Delivery<H>) -> Option<W> {
        self.delivered.push((waiter.ticket, delivery));
        waiter.waker
    }

    pub(super) fn take_delivery(&mut self, ticket: Ticket) -> Option<Delivery<H>> {
        let place = self.delivered.iter().position(|(delivered, _)| *delivered == ticket)?;
        Some(self.delivered.swap_remove(place).1)
    }
}
