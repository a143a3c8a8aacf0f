//! The watch hub: one stream for all watches on a connection, whichever managers they are of.
//!
//! A watch that starts in the past is served each 100 ms only, one that starts now at once; so waiters watch from now, and look
//! once more when the server has confirmed the watch, unless it has begun before what they saw last. The same after every new
//! stream.
//!
//! A watch that the server refuses, since its key may not be read any more, is asked for again later and keeps no other from the
//! stream. But the server judges by the token that the stream was opened with, and refuses watches likewise if that is too old: then
//! another stream is needed. A read of the key, with the token of today, tells which it is.

mod board;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{WatchRequestSender, WatchStream};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use self::board::{Board, Ready};
use super::connection::Connection;
use super::failure;
use super::txn::Freshness;
use crate::backend::backoff::Backoff;
use crate::backend::{ErrorKind, Result};

/// How long the stream may be silent before it has to show that it lives, and how long it may take to.
const SILENCE: Duration = Duration::from_secs(5);
const PROOF: Duration = Duration::from_secs(4);

/// The name of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WatchId(u64);

/// What a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The watch stands: all that happens after this revision (or from its start revision on) will be told.
    Created(i64),
    /// The watch stands again, after a gap in which things may have happened.
    Again,
    /// The watch is down for now.
    Down,
    /// The key was deleted, at this revision.
    Deleted(i64),
}

/// Where a watch's notices go.
pub(super) type Sink = UnboundedSender<(WatchId, Notice)>;

#[derive(Debug)]
enum Command {
    Watch {
        id: WatchId,
        name: Vec<u8>,
        start: i64,
        sink: Sink,
    },
    /// Nobody needs it now, but soon somebody may.
    Rest(WatchId),
    Cancel(WatchId),
}

/// The near end of the hub.
#[derive(Debug)]
pub(super) struct Hub {
    commands: UnboundedSender<Command>,
    next: AtomicU64,
    task: AbortHandle,
}

impl Hub {
    /// Starts the hub's task. It ends with the hub, which the connection owns.
    pub(super) fn start(connection: &Arc<Connection>, handle: &Handle) -> Self {
        let (commands, receiver) = unbounded_channel();
        let task = handle.spawn(run(Arc::downgrade(connection), connection.turns(), receiver)).abort_handle();
        Self { commands, next: AtomicU64::new(1), task }
    }

    /// Watches `name` for its deletion, from the revision `start` on, or from now with zero.
    pub(super) fn watch(&self, name: Vec<u8>, start: i64, sink: Sink) -> WatchId {
        let id = self.next_id();
        self.watch_as(id, name, start, sink);
        id
    }

    /// Returns an id for [`watch_as`](Self::watch_as).
    pub(super) fn next_id(&self) -> WatchId {
        WatchId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Watches under an id that was asked for before, so that its notices find their subject.
    pub(super) fn watch_as(&self, id: WatchId, name: Vec<u8>, start: i64, sink: Sink) {
        // After the end there is nobody to tell.
        let _ = self.commands.send(Command::Watch { id, name, start, sink });
    }

    /// Watches `name` from now, for as long as the subscription lives.
    pub(super) fn subscribe(&self, name: Vec<u8>) -> Subscription<'_> {
        let (sink, notices) = unbounded_channel();
        Subscription { hub: self, id: self.watch(name, 0, sink), notices }
    }

    /// Ends a watch.
    pub(super) fn cancel(&self, id: WatchId) {
        let _ = self.commands.send(Command::Cancel(id));
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A watch of one waiter.
#[derive(Debug)]
pub(super) struct Subscription<'a> {
    hub: &'a Hub,
    id: WatchId,
    notices: UnboundedReceiver<(WatchId, Notice)>,
}

impl Subscription<'_> {
    /// Waits for the next notice. After the hub's end none comes.
    pub(super) async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some((_, notice)) => notice,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        // After the end there is nobody to tell.
        let _ = self.hub.commands.send(Command::Rest(self.id));
    }
}

/// Reads what a stream says whose only watch is one for `name`. Returns the revisions at which that was deleted.
#[cfg(feature = "testing")]
pub(super) fn read(name: Vec<u8>, answers: impl Iterator<Item = etcd_client::WatchResponse>) -> Vec<i64> {
    let (sink, mut notices) = unbounded_channel();
    let mut board = Board::default();
    board.apply(Command::Watch { id: WatchId(1), name, start: 0, sink }, Instant::now());
    while board.next_request().is_some() {}
    for answer in answers {
        if let Some((id, _)) = board.read(&answer) {
            board.ask_later(id, Instant::now());
        }
        while board.next_request().is_some() {}
    }
    std::iter::from_fn(|| notices.try_recv().ok())
        .filter_map(|(_, notice)| match notice {
            Notice::Deleted(at) => Some(at),
            _ => None,
        })
        .collect()
}

async fn run(
    connection: Weak<Connection>,
    mut turns: tokio::sync::watch::Receiver<usize>,
    mut commands: UnboundedReceiver<Command>,
) {
    let mut board = Board::default();
    let mut backoff = Backoff::new();
    loop {
        turns.mark_unchanged();
        while let Ok(command) = commands.try_recv() {
            board.apply(command, Instant::now());
        }
        while board.is_empty() {
            match commands.recv().await {
                Some(command) => board.apply(command, Instant::now()),
                None => return,
            }
        }
        board.stream_is_gone();
        if let Some(stream) = open(&connection, &mut board).await {
            let since = Instant::now();
            if serve(&connection, &mut board, &mut commands, &mut turns, stream).await.is_none() {
                return;
            }
            crate::process::report::debug!(target: "leasehold::etcd", "the watch stream has ended, making another");
            if since.elapsed() > SILENCE {
                backoff = Backoff::new();
            }
        }
        board.stream_is_gone();
        backoff.pause().await;
    }
}

/// Opens a stream, with the first watch on it.
async fn open(connection: &Weak<Connection>, board: &mut Board) -> Option<WatchStream> {
    let (name, options) = loop {
        if let Ready::Create(name, options) = board.next_request()? {
            break (name, options);
        }
    };
    // The server judges all watches of a stream by the token that it was opened with, and refuses them without saying why: a
    // request that can renew the token goes first.
    may_read(connection, &name).await.ok()?;
    let connection = connection.upgrade()?;
    let mut client = connection.watch();
    let limit = connection.patience(connection.timeout());
    connection.once(limit, async move { client.watch(name, Some(options)).await }).await.ok()
}

/// Reads a key, to see whether the user may.
async fn may_read(connection: &Weak<Connection>, name: &[u8]) -> Result<bool> {
    let connection = connection.upgrade().ok_or_else(failure::closed)?;
    let limit = connection.patience(connection.timeout());
    match connection.key_once(limit, Freshness::Linearizable, name).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Serves a stream until it fails; `None` at the end of the hub.
async fn serve(
    connection: &Weak<Connection>,
    board: &mut Board,
    commands: &mut UnboundedReceiver<Command>,
    turns: &mut tokio::sync::watch::Receiver<usize>,
    stream: WatchStream,
) -> Option<()> {
    let (mut sender, mut answers) = stream.split();
    let mut probe_at = Instant::now() + SILENCE;
    let mut probing = false;
    let mut request = None;
    let mut refused = FuturesUnordered::new();
    loop {
        request = request.or_else(|| board.next_request());
        let due = board.next_due();
        // Reading goes on while a request cannot be sent, or both sides might wait for each other.
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if let Some((id, name)) = board.read(&answer) {
                        refused.push(async move { (id, may_read(connection, &name).await) });
                    }
                    (probing, probe_at) = (false, Instant::now() + SILENCE);
                }
                Ok(None) | Err(_) => return Some(()),
            },
            Some((id, permission)) = refused.next() => match permission {
                // The token was too old, also for the one who asked: it has been renewed since.
                Ok(true) | Err(_) if board.is_new_to_refusal(id) => return Some(()),
                _ => board.ask_later(id, Instant::now()),
            },
            command = commands.recv() => board.apply(command?, Instant::now()),
            // This endpoint has failed for others, so silence here may mean the same.
            Ok(()) = turns.changed() => return Some(()),
            sent = send(&mut sender, request.as_ref()) => match sent {
                Ok(()) => request = None,
                Err(_) => return Some(()),
            },
            () = tokio::time::sleep_until(due.unwrap_or(probe_at)), if due.is_some() => {
                board.do_what_is_due(Instant::now());
            }
            () = tokio::time::sleep_until(probe_at) => {
                if probing {
                    return Some(());
                }
                board.ask_for_progress();
                (probing, probe_at) = (true, Instant::now() + PROOF);
            }
        }
    }
}

/// Sends a request. If this is dropped unfinished, nothing was sent.
async fn send(sender: &mut WatchRequestSender, request: Option<&Ready>) -> std::result::Result<(), etcd_client::Error> {
    match request {
        None => std::future::pending().await,
        Some(Ready::Progress) => sender.request_progress().await,
        Some(Ready::Cancel(wire)) => sender.cancel(*wire).await,
        Some(Ready::Create(name, options)) => sender.watch(name.clone(), Some(options.clone())).await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Client, Server, run};
    use super::*;

    #[test]
    fn a_watch_that_rests_misses_nothing() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let shared = client.etcd.shared();
            let hub = shared.connection.hub();
            server.ctl(&["put", "a", ""]);
            let mut first = hub.subscribe(b"a".to_vec());
            let Notice::Created(since) = first.next().await else { panic!("no watch") };
            drop(first);
            server.ctl(&["del", "a"]);
            server.ctl(&["put", "b", ""]);
            server.ctl(&["del", "b"]);
            // Both on one stream: what comes later on it has been read later.
            let mut other = hub.subscribe(b"b".to_vec());
            assert!(matches!(other.next().await, Notice::Created(_)));
            let mut second = hub.subscribe(b"a".to_vec());
            assert_eq!(second.next().await, Notice::Created(since), "it was made anew");
            assert_eq!(second.next().await, Notice::Deleted(since + 1));
        });
    }

    #[test]
    fn a_watch_does_not_rest_for_ever() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let shared = client.etcd.shared();
            let hub = shared.connection.hub();
            server.ctl(&["put", "a", ""]);
            let mut first = hub.subscribe(b"a".to_vec());
            let Notice::Created(since) = first.next().await else { panic!("no watch") };
            drop(first);
            server.ctl(&["del", "a"]);
            // Longer than a watch rests.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let mut second = hub.subscribe(b"a".to_vec());
            let Notice::Created(now) = second.next().await else { panic!("no watch") };
            assert!(now > since, "it was kept");
        });
    }
}
