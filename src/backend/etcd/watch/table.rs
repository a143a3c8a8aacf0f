//! The hub's book: which watches there are, and which of them the present stream has.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use etcd_client::{WatchFilterType, WatchOptions, WatchResponse};
use tokio::time::Instant;

use super::hub::{Command, Notice, Sink, WatchId};
use crate::backend::etcd::answer;

/// How often in a row the server may cancel one watch before the hub gives it up until the next stream.
const MAX_CANCELS: u32 = 3;

/// How often in a row the server may refuse a watch on a key that may be read, before that needs no other stream.
const MAX_REFUSALS: u32 = 3;

/// When a watch that was refused is asked for again on the same stream.
const LATER: Duration = Duration::from_secs(30);

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
    refusals: u32,
    /// Its id on the present stream; each is used once.
    wire: Option<i64>,
    /// The revision after which it tells everything, once it is confirmed.
    since: Option<i64>,
    /// The revision of the latest deletion that it has told of.
    deleted: Option<i64>,
}

impl Watch {
    fn new(name: Vec<u8>, start: i64, sink: Sink) -> Self {
        Self {
            name,
            start,
            sink: Some(sink),
            again: false,
            cancels: 0,
            refusals: 0,
            wire: None,
            since: None,
            deleted: None,
        }
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
pub(super) struct WatchTable {
    watches: HashMap<WatchId, Watch>,
    by_wire: HashMap<i64, WatchId>,
    outbox: VecDeque<Request>,
    /// The ids of the requests that were sent and not answered: answers come in their order.
    unanswered: VecDeque<i64>,
    last_wire: i64,
    /// The watches that nobody needs, oldest first, with the time until which they are kept.
    resting: VecDeque<(Instant, WatchId)>,
    /// The watches that were refused, oldest first, with the time at which they are asked for again.
    refused: VecDeque<(Instant, WatchId)>,
}

impl WatchTable {
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

    /// When there is something to [do](Self::do_what_is_due).
    pub(super) fn next_due(&self) -> Option<Instant> {
        let fronts = self.resting.front().into_iter().chain(self.refused.front());
        fronts.map(|(due, _)| *due).min()
    }

    /// Ends the watches that have rested long enough, and asks again for those that were refused long ago.
    pub(super) fn do_what_is_due(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(end, _)| *end <= now) {
            self.end_oldest();
        }
        while self.refused.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, id)) = self.refused.pop_front() {
                self.outbox.push_back(Request::Create(id));
            }
        }
    }

    /// Returns whether a watch was not refused often though its key may be read.
    pub(super) fn is_new_to_refusal(&self, id: WatchId) -> bool {
        self.watches.get(&id).is_some_and(|watch| watch.refusals < MAX_REFUSALS)
    }

    /// Asks for a watch again that was refused, but not soon.
    pub(super) fn ask_later(&mut self, id: WatchId, now: Instant) {
        self.refused.push_back((now + LATER, id));
    }

    /// Ends the watch that has rested for longest.
    fn end_oldest(&mut self) {
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
        self.unanswered.push_back(self.last_wire);
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
        self.unanswered.clear();
        self.refused.clear();
        self.by_wire.clear();
        for (id, watch) in &mut self.watches {
            if watch.wire.is_some() {
                watch.down(*id);
            }
            watch.cancels = 0;
            self.outbox.push_back(Request::Create(*id));
        }
    }

    /// Reads an answer. Returns a watch that was refused, and its key.
    pub(super) fn read(&mut self, answer: &WatchResponse) -> Option<(WatchId, Vec<u8>)> {
        // One that is refused is refused under its id, or (etcd 3.5) under none.
        let wire = match self.unanswered.front() {
            Some(&oldest) if answer.created() && !self.by_wire.contains_key(&answer.watch_id()) => oldest,
            _ => answer.watch_id(),
        };
        if answer.created()
            && let Some(index) = self.unanswered.iter().position(|unanswered| *unanswered == wire)
        {
            self.unanswered.remove(index);
        }
        let id = *self.by_wire.get(&wire)?;
        let watch = self.watches.get_mut(&id)?;
        if answer.canceled() {
            self.by_wire.remove(&wire);
            watch.down(id);
            if answer.created() && answer.compact_revision() == 0 {
                watch.refusals += 1;
                return Some((id, watch.name.clone()));
            }
            // Compacted, most likely.
            watch.cancels += 1;
            if watch.cancels < MAX_CANCELS {
                self.outbox.push_back(Request::Create(id));
            }
        } else if answer.created() {
            // An unknown revision counts as later than any that a waiter has seen, so the waiter checks again.
            let since = answer::revision(answer.0.header.as_ref()).unwrap_or(i64::MAX);
            watch.since = Some(since);
            watch.refusals = 0;
            watch.tell(id, if watch.again { Notice::Recreated } else { Notice::Created(since) });
        }
        if let Some(last) = answer::deletion(&answer.0, &watch.name) {
            watch.deleted = Some(last);
            watch.tell(id, Notice::Deleted(last));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbResponseHeader, PbWatchResponse};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    type Notices = UnboundedReceiver<(WatchId, Notice)>;

    /// A table with watches on `k1`, `k2` and so on, all of which were asked for.
    fn table(count: u64) -> (WatchTable, Notices) {
        let (sink, notices) = unbounded_channel();
        let mut table = WatchTable::default();
        for n in 1..=count {
            let name = format!("k{n}").into_bytes();
            table.apply(Command::Watch { id: WatchId(n), name, start: 0, sink: sink.clone() }, Instant::now());
        }
        assert_eq!(asked(&mut table).len(), usize::try_from(count).unwrap());
        (table, notices)
    }

    /// The names that are asked for now.
    fn asked(table: &mut WatchTable) -> Vec<Vec<u8>> {
        let requests = std::iter::from_fn(|| table.next_request());
        requests.map(|request| if let Ready::Create(name, _) = request { name } else { Vec::new() }).collect()
    }

    fn answer(watch_id: i64, canceled: bool) -> WatchResponse {
        let header = PbResponseHeader { revision: 7, ..PbResponseHeader::default() };
        let answer =
            PbWatchResponse { header: Some(header), watch_id, created: true, canceled, ..PbWatchResponse::default() };
        WatchResponse(answer)
    }

    #[test]
    fn a_refusal_is_that_of_one_watch_with_its_number_and_without() {
        for number in [2, -1, 0, 99] {
            let (mut table, mut notices) = table(3);
            assert_eq!(table.read(&answer(1, false)), None);
            assert_eq!(table.read(&answer(number, true)), Some((WatchId(2), b"k2".to_vec())), "{number}");
            assert_eq!(table.read(&answer(3, false)), None);
            let told: Vec<_> = std::iter::from_fn(|| notices.try_recv().ok()).collect();
            let expected =
                [(WatchId(1), Notice::Created(7)), (WatchId(2), Notice::Down), (WatchId(3), Notice::Created(7))];
            assert_eq!(told, expected, "{number}");
        }
    }

    #[test]
    fn a_watch_that_is_refused_is_asked_for_later_and_needs_no_other_stream_again_and_again() {
        let (mut table, _notices) = table(2);
        let now = Instant::now();
        table.read(&answer(1, false));
        let (refused, _) = table.read(&answer(2, true)).unwrap();
        assert!(table.is_new_to_refusal(refused));
        table.ask_later(refused, now);
        table.do_what_is_due(now);
        assert_eq!((asked(&mut table).len(), table.next_due()), (0, Some(now + LATER)));
        for _ in 1..MAX_REFUSALS {
            table.do_what_is_due(now + LATER);
            assert_eq!(asked(&mut table), [b"k2"]);
            assert_eq!(table.read(&answer(table.last_wire, true)), Some((refused, b"k2".to_vec())));
            table.ask_later(refused, now);
        }
        assert!(!table.is_new_to_refusal(refused));
        table.do_what_is_due(now + LATER);
        asked(&mut table);
        assert_eq!(table.read(&answer(table.last_wire, false)), None);
        table.stream_is_gone();
        asked(&mut table);
        table.read(&answer(table.last_wire, true));
        assert!(table.is_new_to_refusal(refused), "a watch that stood is as good as new");
    }
}
