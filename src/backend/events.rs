//! The losses that a backend has found, until the engine takes them.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::types::Event;

/// A queue of events for one receiver.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: Mutex<VecDeque<Event>>,
    filled: Notify,
}

impl Events {
    pub(super) fn push(&self, event: Event) {
        self.queue.lock().push_back(event);
        self.filled.notify_one();
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub(super) async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.queue.lock().pop_front() {
                return event;
            }
            self.filled.notified().await;
        }
    }
}
