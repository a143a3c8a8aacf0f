//! Watches as their users see them: subscriptions and notices.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::backend::etcd::names::Name;

/// The id of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WatchId(pub(super) u64);

/// A notice of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The watch is confirmed: all deletions after this revision (or from its start revision on) will be reported.
    Created(i64),
    /// The watch is confirmed again, after a gap in which the key may have been deleted.
    Recreated,
    /// The watch is down for now.
    Down,
    /// The key was deleted, at this revision.
    Deleted(i64),
}

/// The receiver of a watch's notices.
pub(crate) type Sink = UnboundedSender<(WatchId, Notice)>;

/// A command for the task that serves the watches.
#[derive(Debug)]
pub(crate) enum Command {
    /// Watch a name from a revision on, or from now with zero.
    Watch { id: WatchId, name: Name, start: i64, sink: Sink },
    /// Keep the watch for a while in which another waiter may need it.
    Rest(WatchId),
    /// End the watch.
    Cancel(WatchId),
}

/// The watches on a connection, for their users.
#[derive(Debug)]
pub(crate) struct Hub {
    commands: UnboundedSender<Command>,
    next: AtomicU64,
}

/// The commands for the task that serves the watches.
pub(crate) type Commands = UnboundedReceiver<Command>;

impl Hub {
    /// Creates a hub, and returns the commands for the task that serves its watches. They end with the hub.
    pub(crate) fn new() -> (Self, Commands) {
        let (commands, receiver) = unbounded_channel();
        (Self { commands, next: AtomicU64::new(1) }, receiver)
    }

    /// Returns an id for [`watch`](Self::watch).
    pub(crate) fn next_id(&self) -> WatchId {
        WatchId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Watches `name` for its deletion, from the revision `start` on, or from now with zero. The id comes from
    /// [`next_id`](Self::next_id), so that the user knows it before the first notice.
    pub(crate) fn watch(&self, id: WatchId, name: Name, start: i64, sink: Sink) {
        // After the end of the task there are no notices.
        let _ = self.commands.send(Command::Watch { id, name, start, sink });
    }

    /// Watches `name` from now, for as long as the subscription lives.
    pub(crate) fn subscribe(&self, name: Name) -> Subscription<'_> {
        let (sink, notices) = unbounded_channel();
        let id = self.next_id();
        self.watch(id, name, 0, sink);
        Subscription { hub: self, id, notices }
    }

    /// Ends a watch.
    pub(crate) fn cancel(&self, id: WatchId) {
        let _ = self.commands.send(Command::Cancel(id));
    }
}

/// A watch of one waiter.
#[derive(Debug)]
pub(crate) struct Subscription<'a> {
    hub: &'a Hub,
    id: WatchId,
    notices: UnboundedReceiver<(WatchId, Notice)>,
}

impl Subscription<'_> {
    /// Waits for the next notice. After the end of the hub there is none.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some((_, notice)) => notice,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        // After the end of the task there is nothing to keep.
        let _ = self.hub.commands.send(Command::Rest(self.id));
    }
}
