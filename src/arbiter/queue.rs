//! The waiters of one key.

use std::collections::VecDeque;

use super::Terms;
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
    pub(super) since: Timestamp,
    /// Whether its long wait has been told of.
    pub(super) told: bool,
    /// Whom to wake when there is news; none until it has been told to wait.
    pub(super) waker: Option<W>,
}

/// A share of a hold with its depth, or why there is none.
pub(super) type Delivery<H> = Result<(H, u32), &'static str>;

#[derive(Debug)]
pub(super) struct Queue<W, H> {
    waiters: VecDeque<Waiter<W>>,
    /// What waiters were given and have not fetched yet.
    delivered: Vec<(Ticket, Delivery<H>)>,
    last: u64,
}

impl<W, H> Default for Queue<W, H> {
    fn default() -> Self {
        Self { waiters: VecDeque::new(), delivered: Vec::new(), last: 0 }
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

    pub(super) fn push(&mut self, owner: Owner, terms: Terms, since: Timestamp) -> Ticket {
        self.insert(self.waiters.len(), owner, terms, since)
    }

    pub(super) fn insert(&mut self, place: usize, owner: Owner, terms: Terms, since: Timestamp) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let place = place.min(self.waiters.len());
        self.waiters.insert(place, Waiter { ticket, owner, terms, since, told: false, waker: None });
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
        self.waiters.pop_front()
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter<W>> {
        let place = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        self.waiters.remove(place)
    }

    pub(super) fn remove_at(&mut self, place: usize) -> Option<Waiter<W>> {
        self.waiters.remove(place)
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
