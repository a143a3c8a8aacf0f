//! Notifications, to be sent when the store is unlocked.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::backend::Event;
use crate::backend::events::Events;

/// The notifications of one step of the store.
///
/// Collected while the store's mutex is locked, and sent afterwards: a waker may run and drop foreign code, a task with a guard for
/// example, which calls the store.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Wake>);

#[derive(Debug)]
enum Wake {
    Granted(oneshot::Sender<u64>, u64),
    Removed(oneshot::Sender<u64>),
    Event(Arc<Events>, Event),
    Changed(watch::Sender<()>),
}

impl Wakes {
    /// The waiter's claim holds its key.
    pub(super) fn granted(&mut self, waiter: oneshot::Sender<u64>, epoch: u64) {
        self.0.push(Wake::Granted(waiter, epoch));
    }

    /// The waiter's claim no longer exists.
    pub(super) fn removed(&mut self, waiter: oneshot::Sender<u64>) {
        self.0.push(Wake::Removed(waiter));
    }

    pub(super) fn event(&mut self, events: Arc<Events>, event: Event) {
        self.0.push(Wake::Event(events, event));
    }

    /// An observed key has changed.
    pub(super) fn changed(&mut self, observers: watch::Sender<()>) {
        self.0.push(Wake::Changed(observers));
    }

    pub(super) fn send(self) {
        if self.0.is_empty() {
            return;
        }
        for wake in self.0 {
            match wake {
                // Without a receiver the acquire was dropped, and its claim will be aborted.
                Wake::Granted(waiter, epoch) => drop(waiter.send(epoch)),
                Wake::Removed(waiter) => drop(waiter),
                Wake::Event(events, event) => events.push(event),
                Wake::Changed(observers) => observers.send_replace(()),
            }
        }
    }
}
