//! The life of a manager: open, closed, ended.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// The state of a manager between creation and end.
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
    /// Makes every new call fail from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The last manager is being dropped: from now on, threads wait for the releases of their drops.
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
        // Cannot fail: the sender is in `self`.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
