//! The watch hub: one stream for all watches of a manager.
//!
//! A watch that starts in the past is served each 100 ms only, one that starts now at once; so waiters watch from now, and look
//! once more when the server has confirmed the watch. The same after every new stream.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{
    EventType, GetOptions, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::{Backoff, Connection};

/// How long the stream may be silent before it has to show that it lives, and how long it may take to.
const SILENCE: Duration = Duration::from_secs(5);
const PROOF: Duration = Duration::from_secs(4);

/// How often in a row the server may cancel one watch before the hub gives it up until the next stream.
const MAX_CANCELS: u32 = 3;

/// The name of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WatchId(u64);

/// What a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The watch stands: what happens from now on (or since its start revision) will be told.
    Created,
    /// The watch stands again, after a gap in which things may have happened.
    Again,
    /// The watch is down for now.
    Down,
    /// The key was deleted.
    Deleted,
}

/// Where a watch's notices go.
pub(super) type Sink = UnboundedSender<(WatchId, Notice)>;

#[derive(Debug)]
enum Command {
    Watch { id: WatchId, name: Vec<u8>, start: i64, sink: Sink },
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
    /// Starts the hub's task. It ends with the hub.
    pub(super) fn start(connection: Arc<Connection>, handle: &Handle) -> Self {
        let (commands, receiver) = unbounded_channel();
        let task = handle.spawn(run(connection, receiver)).abort_handle();
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

    /// Ends the hub's task.
    pub(super) fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
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
        self.hub.cancel(self.id);
    }
}

#[derive(Debug)]
struct Watch {
    name: Vec<u8>,
    start: i64,
    sink: Sink,
    /// Whether the next confirmation is not the first one.
    again: bool,
    cancels: u32,
    /// Its id on the present stream; each is used once.
    wire: Option<i64>,
}

impl Watch {
    fn tell(&self, id: WatchId, notice: Notice) {
        let _ = self.sink.send((id, notice));
    }

    fn options(&self, wire: i64) -> WatchOptions {
        WatchOptions::new().with_watch_id(wire).with_start_revision(self.start).with_filters([WatchFilterType::NoPut])
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Create(WatchId),
    Cancel(i64),
    Progress,
}

/// A request with all that the server has to know.
#[derive(Debug)]
enum Ready {
    Create(Vec<u8>, WatchOptions),
    Cancel(i64),
    Progress,
}

#[derive(Debug, Default)]
struct Board {
    watches: HashMap<WatchId, Watch>,
    by_wire: HashMap<i64, WatchId>,
    outbox: VecDeque<Request>,
    last_wire: i64,
}

impl Board {
    fn apply(&mut self, command: Command) {
        match command {
            Command::Watch { id, name, start, sink } => {
                self.watches.insert(id, Watch { name, start, sink, again: false, cancels: 0, wire: None });
                self.outbox.push_back(Request::Create(id));
            }
            Command::Cancel(id) => {
                if let Some(wire) = self.watches.remove(&id).and_then(|watch| watch.wire) {
                    self.by_wire.remove(&wire);
                    self.outbox.push_back(Request::Cancel(wire));
                }
            }
        }
    }

    /// Takes a watch onto the present stream.
    fn enlist(&mut self, id: WatchId) -> Option<(Vec<u8>, WatchOptions)> {
        let watch = self.watches.get_mut(&id)?;
        self.last_wire += 1;
        watch.wire = Some(self.last_wire);
        self.by_wire.insert(self.last_wire, id);
        Some((watch.name.clone(), watch.options(self.last_wire)))
    }

    /// Takes the oldest request that still makes sense.
    fn next_request(&mut self) -> Option<Ready> {
        loop {
            match self.outbox.pop_front()? {
                Request::Progress => return Some(Ready::Progress),
                Request::Cancel(wire) => return Some(Ready::Cancel(wire)),
                Request::Create(id) => {
                    if let Some((name, options)) = self.enlist(id) {
                        return Some(Ready::Create(name, options));
                    }
                }
            }
        }
    }

    /// Forgets the stream: all watches have to be made again, from now, since the past may be compacted by then.
    fn stream_is_gone(&mut self) {
        self.outbox.clear();
        self.by_wire.clear();
        for (id, watch) in &mut self.watches {
            if watch.wire.take().is_some() {
                watch.again = true;
                watch.start = 0;
                watch.tell(*id, Notice::Down);
            }
            watch.cancels = 0;
            self.outbox.push_back(Request::Create(*id));
        }
    }

    /// Reads an answer. Returns false if the stream is of no use any more.
    fn read(&mut self, answer: &WatchResponse) -> bool {
        if answer.canceled() && answer.created() && answer.compact_revision() == 0 {
            // Refused, under this id or (etcd 3.5) under none: a stream keeps the token that it was opened with, and that is too
            // old by now.
            return false;
        }
        let Some(&id) = self.by_wire.get(&answer.watch_id()) else { return true };
        let Some(watch) = self.watches.get_mut(&id) else { return true };
        if answer.canceled() {
            // Compacted, most likely.
            self.by_wire.remove(&answer.watch_id());
            (watch.wire, watch.start, watch.again) = (None, 0, true);
            watch.cancels += 1;
            watch.tell(id, Notice::Down);
            if watch.cancels < MAX_CANCELS {
                self.outbox.push_back(Request::Create(id));
            }
        } else if answer.created() {
            watch.tell(id, if watch.again { Notice::Again } else { Notice::Created });
        }
        if answer.events().iter().any(|event| event.event_type() == EventType::Delete) {
            watch.tell(id, Notice::Deleted);
        }
        true
    }
}

async fn run(connection: Arc<Connection>, mut commands: UnboundedReceiver<Command>) {
    let mut board = Board::default();
    let mut backoff = Backoff::new();
    let mut turns = connection.turns();
    loop {
        turns.mark_unchanged();
        while let Ok(command) = commands.try_recv() {
            board.apply(command);
        }
        while board.watches.is_empty() {
            match commands.recv().await {
                Some(command) => board.apply(command),
                None => return,
            }
        }
        board.stream_is_gone();
        if let Some((sender, answers)) = open(&connection, &mut board).await {
            let since = Instant::now();
            if serve(&mut board, &mut commands, &mut turns, sender, answers).await.is_none() {
                return;
            }
            log::debug!(target: "leasehold::etcd", "the watch stream has ended, making another");
            if since.elapsed() > SILENCE {
                backoff = Backoff::new();
            }
        }
        board.stream_is_gone();
        tokio::time::sleep(backoff.delay()).await;
    }
}

/// Opens a stream, with the first watch on it.
async fn open(connection: &Connection, board: &mut Board) -> Option<(WatchRequestSender, WatchResponseStream)> {
    let (name, options) = loop {
        if let Ready::Create(name, options) = board.next_request()? {
            break (name, options);
        }
    };
    let limit = connection.patience(connection.timeout());
    // The server judges all watches of a stream by the token that it was opened with, and refuses them without saying why: a
    // request that can renew the token goes first.
    let keys = GetOptions::new().with_keys_only();
    connection.get_once(limit, &name, Some(keys)).await.ok()?;
    let mut client = connection.watch();
    let stream = connection.once(limit, async move { client.watch(name, Some(options)).await }).await;
    stream.ok().map(etcd_client::WatchStream::split)
}

/// Serves a stream until it fails; `None` at the end of the hub.
async fn serve(
    board: &mut Board,
    commands: &mut UnboundedReceiver<Command>,
    turns: &mut tokio::sync::watch::Receiver<usize>,
    mut sender: WatchRequestSender,
    mut answers: WatchResponseStream,
) -> Option<()> {
    let mut probe_at = Instant::now() + SILENCE;
    let mut probing = false;
    let mut request = None;
    loop {
        request = request.or_else(|| board.next_request());
        // Reading goes on while a request cannot be sent, or both sides might wait for each other.
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if !board.read(&answer) {
                        return Some(());
                    }
                    (probing, probe_at) = (false, Instant::now() + SILENCE);
                }
                Ok(None) | Err(_) => return Some(()),
            },
            command = commands.recv() => board.apply(command?),
            // This endpoint has failed for others, so silence here may mean the same.
            Ok(()) = turns.changed() => return Some(()),
            sent = send(&mut sender, request.as_ref()) => match sent {
                Ok(()) => request = None,
                Err(_) => return Some(()),
            },
            () = tokio::time::sleep_until(probe_at) => {
                if probing {
                    return Some(());
                }
                board.outbox.push_back(Request::Progress);
                (probing, probe_at) = (true, Instant::now() + PROOF);
            }
        }
    }
}

/// Sends a request. If this is dropped unfinished, nothing was sent.
async fn send(sender: &mut WatchRequestSender, request: Option<&Ready>) -> Result<(), etcd_client::Error> {
    match request {
        None => std::future::pending().await,
        Some(Ready::Progress) => sender.request_progress().await,
        Some(Ready::Cancel(wire)) => sender.cancel(*wire).await,
        Some(Ready::Create(name, options)) => sender.watch(name.clone(), Some(options.clone())).await,
    }
}
