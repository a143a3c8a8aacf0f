//! The queue of one key: first come, first served.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::wakes::Wakes;
use crate::backend::{AttemptId, Claim, Clock, LeaseId, Timestamp};
use crate::info::{ClaimId, Holder, Mode};

/// A claim's place in the queue.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) attempt: AttemptId,
    pub(super) lease: LeaseId,
    pub(super) mode: Mode,
    pub(super) limit: Option<u32>,
    pub(super) value: Option<Arc<str>>,
    pub(super) holder: Arc<Holder>,
    /// The time of its grant; before that, of its arrival.
    pub(super) since: Timestamp,
    /// Set once it holds the key.
    pub(super) epoch: Option<u64>,
    /// Receives the epoch.
    pub(super) waiter: Option<oneshot::Sender<u64>>,
}

impl Place {
    pub(super) fn new(claim: &Claim, since: Timestamp) -> Self {
        Self {
            attempt: claim.attempt,
            lease: claim.lease.id,
            mode: claim.mode,
            limit: claim.limit,
            value: claim.value.clone(),
            holder: claim.holder.clone(),
            since,
            epoch: None,
            waiter: None,
        }
    }

    fn grant(&mut self, epoch: &mut Epoch, wakes: &mut Wakes) {
        if self.epoch.is_some() {
            return;
        }
        let granted = epoch.grant();
        (self.epoch, self.since) = (Some(granted), epoch.clock.now());
        if let Some(waiter) = self.waiter.take() {
            wakes.granted(waiter, granted);
        }
    }

    pub(super) fn is(&self, lease: LeaseId, attempt: AttemptId) -> bool {
        self.attempt == attempt && self.lease == lease
    }

    pub(super) fn id(&self) -> ClaimId {
        ClaimId::new(format!("{}-{}", self.lease, self.attempt))
    }
}

/// The claims of a key: at least one, since a key without claims is forgotten. Those at the front hold the key.
#[derive(Debug)]
pub(super) struct Queue {
    /// Inline: most queues have no other, and then need no allocation.
    first: Place,
    rest: VecDeque<Place>,
}

/// The store's epoch, which grows with each grant of any key: a key's tokens grow although unused keys are forgotten.
#[derive(Debug)]
pub(super) struct Epoch {
    last: u64,
    /// Dates the grants of claims that waited.
    clock: Arc<dyn Clock>,
}

impl Epoch {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { last: 0, clock }
    }

    /// Returns the epoch of a new grant.
    ///
    /// A shared grant gets a new one too: with that of the exclusive grant before it, its token would be less than those of that
    /// grant's local handovers.
    pub(super) fn grant(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Queue {
    /// Creates the queue of a key that was free: its first claim holds it.
    pub(super) fn held_by(mut first: Place, epoch: u64) -> Self {
        first.epoch = Some(epoch);
        Self { first, rest: VecDeque::new() }
    }

    pub(super) fn first(&self) -> &Place {
        &self.first
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The claims that hold the key.
    pub(super) fn holding(&self) -> impl Iterator<Item = &Place> {
        self.iter().take_while(|place| place.epoch.is_some())
    }

    pub(super) fn find_mut(&mut self, lease: LeaseId, attempt: AttemptId) -> Option<&mut Place> {
        std::iter::once(&mut self.first).chain(&mut self.rest).find(|place| place.is(lease, attempt))
    }

    /// Whether a new claim would hold the key at once: none waits, and those that hold it leave room.
    pub(super) fn admits(&self, mode: Mode, limit: Option<u32>) -> bool {
        let last = self.rest.back().unwrap_or(&self.first);
        last.epoch.is_some() && self.has_room(mode, limit, || self.holding().count())
    }

    /// Whether a claim may hold the key beside those that do.
    fn has_room(&self, mode: Mode, limit: Option<u32>, holding: impl FnOnce() -> usize) -> bool {
        let is_alike =
            self.first.mode == Mode::Shared && mode == Mode::Shared && self.first.limit.is_some() == limit.is_some();
        is_alike && limit.is_none_or(|limit| holding() < limit as usize)
    }

    pub(super) fn push(&mut self, place: Place) {
        self.rest.push_back(place);
    }

    /// Adds a claim that holds the key before all others.
    #[cfg(feature = "testing")]
    pub(super) fn push_front(&mut self, mut place: Place, epoch: u64) {
        place.epoch = Some(epoch);
        self.rest.push_front(std::mem::replace(&mut self.first, place));
    }

    /// Removes the claims that `is_removed` selects, and then grants what can be granted. True if none is left.
    #[must_use = "a queue without claims must not stay"]
    pub(super) fn remove(&mut self, is_removed: impl Fn(&Place) -> bool, epoch: &mut Epoch, wakes: &mut Wakes) -> bool {
        if !self.rest.is_empty() {
            self.rest.retain_mut(|place| {
                let is_removed = is_removed(place);
                if is_removed && let Some(waiter) = place.waiter.take() {
                    wakes.removed(waiter);
                }
                !is_removed
            });
        }
        // The first claim holds the key, so it has no waiter.
        if is_removed(&self.first) {
            let Some(second) = self.rest.pop_front() else { return true };
            self.first = second;
        }
        self.promote(epoch, wakes);
        false
    }

    /// Grants the first claim, and those behind it up to the first for which they leave no room.
    fn promote(&mut self, epoch: &mut Epoch, wakes: &mut Wakes) {
        self.first.grant(epoch, wakes);
        for at in 0..self.rest.len() {
            let place = &self.rest[at];
            if place.epoch.is_none() && !self.has_room(place.mode, place.limit, || 1 + at) {
                break;
            }
            self.rest[at].grant(epoch, wakes);
        }
    }
}
