//! Whether others wait for a lock, as a future.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::engine::{Entry, Hold, Share};
use crate::lease::Listener;

/// The future of another's wish for a lock; see [`LockGuard::wanted`](crate::LockGuard::wanted). It can outlive the guard.
#[must_use = "futures do nothing unless polled"]
pub struct Wanted {
    hold: Arc<Hold>,
    entry: Arc<Entry>,
    listener: Listener,
}

impl Wanted {
    pub(super) fn of(share: &Share) -> Self {
        Self::new(share.hold().clone(), share.entry().clone())
    }

    fn new(hold: Arc<Hold>, entry: Arc<Entry>) -> Self {
        Self { hold, entry, listener: Listener::default() }
    }
}

impl Clone for Wanted {
    fn clone(&self) -> Self {
        Self::new(self.hold.clone(), self.entry.clone())
    }
}

impl Future for Wanted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { hold, entry, listener } = &mut *self;
        if hold.held.is_forked() {
            return Poll::Pending;
        }
        if !hold.has_ended() {
            entry.listen();
            hold.ask_wanted().listen(listener, cx.waker());
        }
        // After the registration, or a waiter that joins now would be missed.
        if hold.is_wanted(|| entry.arbiter().is_wanted(hold.id)) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if !self.hold.held.is_forked() && self.listener.is_set() {
            self.hold.ask_wanted().forget(&mut self.listener);
        }
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").field("key", &self.hold.held.key).finish_non_exhaustive()
    }
}
