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
pub(super) struct Wakes {
    waiters: Vec<(oneshot::Sender<u64>, Option<u64>)>,
    events: Vec<(Arc<Mailbox>, Event)>,
}

impl Wakes {
    /// The claim that this waiter waits for holds its key.
    pub(super) fn granted(&mut self, waiter: oneshot::Sender<u64>, epoch: u64) {
        self.waiters.push((waiter, Some(epoch)));
    }

    /// The claim that this waiter waits for does not exist any more.
    pub(super) fn gone(&mut self, waiter: oneshot::Sender<u64>) {
        self.waiters.push((waiter, None));
    }

    pub(super) fn event(&mut self, mailbox: Arc<Mailbox>, event: Event) {
        self.events.push((mailbox, event));
    }

    pub(super) fn send(self) {
        for (waiter, epoch) in self.waiters {
            if let Some(epoch) = epoch {
                // Nobody listens if the acquire was dropped: its claim waits to be settled.
                let _ = waiter.send(epoch);
            }
        }
        for (mailbox, event) in self.events {
            mailbox.deliver(event);
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
