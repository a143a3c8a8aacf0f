//! [`Releases`]: the releases in flight of a manager, which are repeated if their outcome is overdue.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Timestamp;

/// How many places are kept for the next releases.
const KEPT: usize = 1024;

/// A release in flight.
pub(super) trait Overdue: Send + Sync {
    /// Its outcome is not known in time.
    fn overdue(self: Arc<Self>);
}

/// The releases in flight of a manager, each with the time at which its outcome is overdue.
#[derive(Default)]
pub(super) struct Releases(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    slots: Vec<Option<(Timestamp, Arc<dyn Overdue>)>>,
    free: Vec<usize>,
}

impl Releases {
    /// Adds a release. Returns its place.
    pub(super) fn add(&self, until: Timestamp, release: Arc<dyn Overdue>) -> usize {
        let Slots { slots, free } = &mut *self.0.lock();
        match free.pop() {
            Some(slot) => {
                slots[slot] = Some((until, release));
                slot
            }
            None => {
                slots.push(Some((until, release)));
                slots.len() - 1
            }
        }
    }

    pub(super) fn remove(&self, slot: usize) {
        let removed = {
            let Slots { slots, free } = &mut *self.0.lock();
            let removed = slots.get_mut(slot).and_then(Option::take);
            free.extend(removed.is_some().then_some(slot));
            if free.len() == slots.len() && slots.len() > KEPT {
                (*slots, *free) = (Vec::new(), Vec::new());
            }
            removed
        };
        // Dropped after unlocking: it may be the last reference to the manager.
        drop(removed);
    }

    /// Repeats those that are overdue. Returns whether there are others.
    pub(super) fn check(&self, now: Timestamp) -> bool {
        let (overdue, others) = {
            let slots = &self.0.lock().slots;
            let flying = slots.iter().flatten();
            let overdue: Vec<_> =
                flying.filter(|(until, _)| *until <= now).map(|(_, release)| release.clone()).collect();
            (overdue, slots.iter().flatten().next().is_some())
        };
        overdue.into_iter().for_each(Overdue::overdue);
        others
    }
}

impl fmt::Debug for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Releases").finish_non_exhaustive()
    }
}
