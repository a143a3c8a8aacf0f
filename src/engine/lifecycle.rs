//! The life of a manager: open, closed, ended.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// How far the end of a manager has come.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    closed: AtomicBool,
    /// Whether the last manager has been dropped, though guards or handles may live.
    manager_dropped: AtomicBool,
    ended: watch::Sender<bool>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            closed: AtomicBool::new(false),
            manager_dropped: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }
}

impl Lifecycle {
    /// From now on every new call fails.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The last manager is being dropped: from now on, threads wait for what they drop.
    pub(crate) fn drop_manager(&self) {
        self.manager_dropped.store(true, Ordering::Release);
    }

    pub(super) fn is_manager_dropped(&self) -> bool {
        self.manager_dropped.load(Ordering::Acquire)
    }

    /// Ends the background tasks. Returns whether this is the first call.
    pub(super) fn end(&self) -> bool {
        !self.ended.send_replace(true)
    }

    /// Waits until the background tasks have to end.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in self: no error to be had.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
