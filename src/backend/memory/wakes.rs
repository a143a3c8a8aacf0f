//! Who is to be told, once the store is unlocked.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::backend::Event;

/// What a step of the store has to tell others.
///
/// Collected under the store's mutex and sent after it: waking can run and drop what is not ours, a task with a guard in it
/// for example, which would come straight back to the store.
#[derive(Debug, Default)]
pub(super) struct Wakes(Vec<Wake>);

#[derive(Debug)]
enum Wake {
    Granted(oneshot::Sender<u64>, u64),
    Gone(oneshot::Sender<u64>),
    Event(Arc<Mailbox>, Event),
}

impl Wakes {
    /// The claim that this waiter waits for holds its key.
    pub(super) fn granted(&mut self, waiter: oneshot::Sender<u64>, epoch: u64) {
        self.0.push(Wake::Granted(waiter, epoch));
    }

    /// The claim that this waiter waits for does not exist any more.
    pub(super) fn gone(&mut self, waiter: oneshot::Sender<u64>) {
        self.0.push(Wake::Gone(waiter));
    }

    pub(super) fn event(&mut self, mailbox: Arc<Mailbox>, event: Event) {
        self.0.push(Wake::Event(mailbox, event));
    }

    pub(super) fn send(self) {
        for wake in self.0 {
            match wake {
                // Nobody listens if the acquire was dropped: its claim waits to be settled.
                Wake::Granted(waiter, epoch) => drop(waiter.send(epoch)),
                Wake::Gone(waiter) => drop(waiter),
                Wake::Event(mailbox, event) => mailbox.deliver(event),
            }
        }
    }
}

/// Where a link finds what it lost.
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

    /// The next event. Loses none if it is dropped.
    pub(super) async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.events.lock().pop_front() {
                return event;
            }
            self.filled.notified().await;
        }
    }
}
