//! The hub's book: which watches there are, and which of them the present stream has.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use etcd_client::{WatchFilterType, WatchOptions, WatchResponse};
use tokio::time::Instant;

use super::{Command, Notice, Sink, WatchId};
use crate::backend::etcd::answer;

/// How often in a row the server may cancel one watch before the hub gives it up until the next stream.
const MAX_CANCELS: u32 = 3;

/// How long a watch that nobody needs is kept, and how many are.
///
/// Who locks a key again and again often waits behind the same name. A watch that stands already saves the server two requests,
/// and the waiter the look for what it has missed.
const REST: Duration = Duration::from_secs(1);
const MOST_RESTING: usize = 64;

#[derive(Debug)]
struct Watch {
    name: Vec<u8>,
    start: i64,
    /// Where its notices go, or nowhere while it rests.
    sink: Option<Sink>,
    /// Whether the next confirmation is not the first one.
    again: bool,
    cancels: u32,
    /// Its id on the present stream; each is used once.
    wire: Option<i64>,
    /// The revision after which it tells everything, once it is confirmed.
    since: Option<i64>,
    /// The revision of the latest deletion that it has told of.
    deleted: Option<i64>,
}

impl Watch {
    fn new(name: Vec<u8>, start: i64, sink: Sink) -> Self {
        Self { name, start, sink: Some(sink), again: false, cancels: 0, wire: None, since: None, deleted: None }
    }

    fn tell(&self, id: WatchId, notice: Notice) {
        if let Some(sink) = &self.sink {
            // Who does not listen any more will cancel.
            let _ = sink.send((id, notice));
        }
    }

    fn options(&self, wire: i64) -> WatchOptions {
        WatchOptions::new().with_watch_id(wire).with_start_revision(self.start).with_filters([WatchFilterType::NoPut])
    }

    /// It is on no stream now: the next one begins now, since the past may be compacted by then.
    fn down(&mut self, id: WatchId) {
        (self.wire, self.since, self.start, self.again) = (None, None, 0, true);
        self.tell(id, Notice::Down);
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
pub(super) enum Ready {
    Create(Vec<u8>, WatchOptions),
    Cancel(i64),
    Progress,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    watches: HashMap<WatchId, Watch>,
    by_wire: HashMap<i64, WatchId>,
    outbox: VecDeque<Request>,
    last_wire: i64,
    /// The watches that nobody needs, oldest first, with the time until which they are kept.
    resting: VecDeque<(Instant, WatchId)>,
}

impl Board {
    pub(super) fn apply(&mut self, command: Command, now: Instant) {
        match command {
            Command::Watch { id, name, start, sink } => {
                if start > 0 || !self.wake(id, &name, &sink) {
                    self.watches.insert(id, Watch::new(name, start, sink));
                    self.outbox.push_back(Request::Create(id));
                }
            }
            Command::Rest(id) => match self.watches.get_mut(&id) {
                Some(watch) if watch.since.is_some() => {
                    watch.sink = None;
                    self.resting.push_back((now + REST, id));
                    if self.resting.len() > MOST_RESTING {
                        self.end_oldest();
                    }
                }
                _ => self.cancel(id),
            },
            Command::Cancel(id) => self.cancel(id),
        }
    }

    /// Gives a watch that rests to who needs it now. Returns false if there is none.
    fn wake(&mut self, id: WatchId, name: &[u8], sink: &Sink) -> bool {
        let fits =
            |(_, resting): &(Instant, WatchId)| self.watches.get(resting).is_some_and(|watch| watch.name == name);
        let Some((_, old)) = self.resting.iter().position(fits).and_then(|index| self.resting.remove(index)) else {
            return false;
        };
        let Some(mut watch) = self.watches.remove(&old) else { return false };
        if let Some(wire) = watch.wire {
            self.by_wire.insert(wire, id);
        }
        watch.sink = Some(sink.clone());
        if let Some(since) = watch.since {
            watch.tell(id, Notice::Created(since));
        }
        if let Some(deleted) = watch.deleted {
            watch.tell(id, Notice::Deleted(deleted));
        }
        self.watches.insert(id, watch);
        true
    }

    fn cancel(&mut self, id: WatchId) {
        if let Some(wire) = self.watches.remove(&id).and_then(|watch| watch.wire) {
            self.by_wire.remove(&wire);
            self.outbox.push_back(Request::Cancel(wire));
        }
    }

    /// When the next watch has rested long enough.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.resting.front().map(|(end, _)| *end)
    }

    /// Ends the watch that has rested for longest.
    pub(super) fn end_oldest(&mut self) {
        if let Some((_, id)) = self.resting.pop_front() {
            self.cancel(id);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    pub(super) fn ask_for_progress(&mut self) {
        self.outbox.push_back(Request::Progress);
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
    pub(super) fn next_request(&mut self) -> Option<Ready> {
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

    /// Forgets the stream: all watches that are needed have to be made again.
    pub(super) fn stream_is_gone(&mut self) {
        while !self.resting.is_empty() {
            self.end_oldest();
        }
        self.outbox.clear();
        self.by_wire.clear();
        for (id, watch) in &mut self.watches {
            if watch.wire.is_some() {
                watch.down(*id);
            }
            watch.cancels = 0;
            self.outbox.push_back(Request::Create(*id));
        }
    }

    /// Reads an answer. Returns false if the stream is of no use any more.
    pub(super) fn read(&mut self, answer: &WatchResponse) -> bool {
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
            watch.down(id);
            watch.cancels += 1;
            if watch.cancels < MAX_CANCELS {
                self.outbox.push_back(Request::Create(id));
            }
        } else if answer.created() {
            // A revision that is not known is later than all that anybody has seen: who waits looks again.
            let since = answer::revision(answer.0.header.as_ref()).unwrap_or(i64::MAX);
            watch.since = Some(since);
            watch.tell(id, if watch.again { Notice::Again } else { Notice::Created(since) });
        }
        if let Some(last) = answer::deletion(&answer.0, &watch.name) {
            watch.deleted = Some(last);
            watch.tell(id, Notice::Deleted(last));
        }
        true
    }
}
