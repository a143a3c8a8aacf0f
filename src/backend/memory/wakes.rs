//! Notifications, to be sent when the store is unlocked.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::backend::Event;

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
    Event(Arc<Mailbox>, Event),
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

    pub(super) fn event(&mut self, mailbox: Arc<Mailbox>, event: Event) {
        self.0.push(Wake::Event(mailbox, event));
    }

    pub(super) fn send(self) {
        for wake in self.0 {
            match wake {
                // Without a receiver the acquire was dropped, and its claim will be aborted.
                Wake::Granted(waiter, epoch) => drop(waiter.send(epoch)),
                Wake::Removed(waiter) => drop(waiter),
                Wake::Event(mailbox, event) => mailbox.deliver(event),
            }
        }
    }
}

/// The losses of one link, until it takes them.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    events: Mutex<VecDeque<Event>>,
    filled: Notify,
}

impl Mailbox {
    fn deliver(&self, event: Event) {
        self.events.lock().push_back(event);
        self.filled.notify_one();
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub(super) async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.events.lock().pop_front() {
                return event;
            }
            self.filled.notified().await;
        }
    }
}
