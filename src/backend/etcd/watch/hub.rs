//! Watches as their users see them: subscriptions and notices.

use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::proto::PbKeyValue;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel};

use crate::backend::etcd::names::Name;

/// The id of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WatchId(pub(super) u64);

/// What a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(super) name: Name,
    /// The end of the range that begins with the name, if it is not about that alone.
    pub(super) end: Option<Vec<u8>>,
    pub(super) filter: Filter,
}

/// The changes that a watch reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Deletions.
    Deletions,
    /// What is put.
    Puts,
    /// All.
    None,
}

impl Target {
    /// The changes of one key.
    pub(crate) fn key(name: Name) -> Self {
        Self { name, end: None, filter: Filter::None }
    }

    /// Changes of the keys in a range.
    pub(crate) fn range((start, end): (Vec<u8>, Vec<u8>), filter: Filter) -> Self {
        Self { name: start.into(), end: Some(end), filter }
    }

    /// Returns whether it is one key, whose deletion is all that is reported.
    pub(super) fn is_deletion(&self) -> bool {
        self.end.is_none() && self.filter == Filter::Deletions
    }
}

/// The deletion of one key.
impl From<Name> for Target {
    fn from(name: Name) -> Self {
        Self { name, end: None, filter: Filter::Deletions }
    }
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) name: Name,
    /// Its revision.
    pub(crate) at: i64,
    /// What was put, unless the key was deleted.
    pub(crate) put: Option<PbKeyValue>,
}

impl Change {
    /// Returns whether the key was deleted.
    pub(crate) fn is_deletion(&self) -> bool {
        self.put.is_none()
    }
}

/// A notice of a watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Notice {
    /// The watch is confirmed: all changes after this revision (or from its start revision on) will be reported.
    Created(i64),
    /// The watch is confirmed again, after a gap in which there may have been changes.
    Recreated,
    /// The watch is down for now.
    Down,
    /// The key whose deletion is watched was deleted, at this revision.
    Deleted(i64),
    /// There were these changes of other targets, in their order. Those of one revision are reported together.
    Changed(Vec<Change>),
}

/// The receiver of a watch's notices.
pub(crate) type Sink = UnboundedSender<(WatchId, Notice)>;

/// A command for the task that serves the watches.
#[derive(Debug)]
pub(crate) enum Command {
    /// Watch something from a revision on, or from now with zero.
    Watch { id: WatchId, target: Target, start: i64, sink: Sink },
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

    /// Watches `target` from the revision `start` on, or from now with zero. The id comes from [`next_id`](Self::next_id), so that the
    /// user knows it before the first notice.
    pub(crate) fn watch(&self, id: WatchId, target: Target, start: i64, sink: Sink) {
        // After the end of the task there are no notices.
        let _ = self.commands.send(Command::Watch { id, target, start, sink });
    }

    /// Watches `target` from now, for as long as the subscription lives.
    pub(crate) fn subscribe(&self, target: Target) -> Subscription {
        let (sink, notices) = unbounded_channel();
        let id = self.next_id();
        self.watch(id, target, 0, sink);
        Subscription { commands: self.commands.downgrade(), id, notices }
    }

    /// Ends a watch.
    pub(crate) fn cancel(&self, id: WatchId) {
        let _ = self.commands.send(Command::Cancel(id));
    }
}

/// A watch of one user.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Those of the hub, which end with it.
    commands: WeakUnboundedSender<Command>,
    id: WatchId,
    notices: UnboundedReceiver<(WatchId, Notice)>,
}

impl Subscription {
    /// Waits for the next notice. After the end of the hub there is none.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some((_, notice)) => notice,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // After the end of the task there is nothing to keep.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::Rest(self.id));
        }
    }
}
