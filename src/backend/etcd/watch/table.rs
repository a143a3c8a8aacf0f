//! The table of watches: which there are, and which of them the present stream has. No I/O; time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use etcd_client::{WatchFilterType, WatchOptions, WatchResponse};
use tokio::time::Instant;

use super::hub::{Command, Filter, Notice, Sink, Target, WatchId};
use crate::backend::etcd::answer;
use crate::backend::etcd::names::Name;

/// The number of cancellations in a row after which a watch is given up until the next stream.
const MAX_CANCELS: u32 = 3;

/// The number of refusals in a row, of a watch on a key that may be read, after which a new stream is no remedy.
const MAX_REFUSALS: u32 = 3;

/// The delay after which a refused watch is requested again on the same stream.
const REFUSAL_DELAY: Duration = Duration::from_secs(30);

/// How long a watch without a user is kept.
///
/// A process that locks a key repeatedly often waits behind the same name. A watch that is kept saves the server two requests, and the
/// waiter the re-check.
const REST: Duration = Duration::from_secs(1);

/// The maximum number of watches that are kept.
const MAX_RESTING: usize = 64;

#[derive(Debug)]
struct Watch {
    target: Target,
    start: i64,
    /// The receiver of its notices. `None` while it rests.
    sink: Option<Sink>,
    /// Whether it was down: the next confirmation follows a gap.
    is_recreated: bool,
    cancels: u32,
    refusals: u32,
    /// Its number on the present stream; each is used once.
    wire: Option<i64>,
    /// The revision after which it reports all deletions, once it is confirmed.
    since: Option<i64>,
    /// The revision of the latest deletion that it has reported.
    deleted: Option<i64>,
}

impl Watch {
    fn new(target: Target, start: i64, sink: Sink) -> Self {
        Self {
            target,
            start,
            sink: Some(sink),
            is_recreated: false,
            cancels: 0,
            refusals: 0,
            wire: None,
            since: None,
            deleted: None,
        }
    }

    fn notify(&self, id: WatchId, notice: Notice) {
        if let Some(sink) = &self.sink {
            // A user that is dropped cancels the watch.
            let _ = sink.send((id, notice));
        }
    }

    fn options(&self, wire: i64) -> WatchOptions {
        let options = WatchOptions::new().with_watch_id(wire).with_start_revision(self.start);
        let options = match self.target.filter {
            Filter::Deletions => options.with_filters([WatchFilterType::NoPut]),
            Filter::Puts => options.with_filters([WatchFilterType::NoDelete]),
            Filter::None => options,
        };
        match &self.target.end {
            Some(end) => options.with_range(end.clone()),
            None => options,
        }
    }

    /// Notes that it is on no stream. On the next one it starts at the present revision, since the past may be compacted by then.
    fn down(&mut self, id: WatchId) {
        (self.wire, self.since, self.start, self.is_recreated) = (None, None, 0, true);
        self.notify(id, Notice::Down);
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Create(WatchId),
    Cancel(i64),
    Progress,
}

/// A request with its arguments.
#[derive(Debug)]
pub(super) enum Ready {
    Create(Name, WatchOptions),
    Cancel(i64),
    Progress,
}

/// The table of watches.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    watches: HashMap<WatchId, Watch>,
    by_wire: HashMap<i64, WatchId>,
    outbox: VecDeque<Request>,
    /// The numbers of the watches that were requested and not answered: answers arrive in their order.
    unanswered: VecDeque<i64>,
    last_wire: i64,
    /// The watches without users, oldest first, with the time until which they are kept.
    resting: VecDeque<(Instant, WatchId)>,
    /// The watches that were refused, oldest first, with the time at which they are requested again.
    refused: VecDeque<(Instant, WatchId)>,
}

impl WatchTable {
    /// Applies a command of a user.
    pub(super) fn apply(&mut self, command: Command, now: Instant) {
        match command {
            Command::Watch { id, target, start, sink } => {
                if start > 0 || !self.wake(id, &target, &sink) {
                    self.watches.insert(id, Watch::new(target, start, sink));
                    self.outbox.push_back(Request::Create(id));
                }
            }
            Command::Rest(id) => match self.watches.get_mut(&id) {
                Some(watch) if watch.since.is_some() && watch.target.is_deletion() => {
                    watch.sink = None;
                    self.resting.push_back((now + REST, id));
                    if self.resting.len() > MAX_RESTING {
                        self.end_oldest();
                    }
                }
                _ => self.cancel(id),
            },
            Command::Cancel(id) => self.cancel(id),
        }
    }

    /// Gives a resting watch on this target to a new user. Returns false if there is none.
    fn wake(&mut self, id: WatchId, target: &Target, sink: &Sink) -> bool {
        let fits =
            |(_, resting): &(Instant, WatchId)| self.watches.get(resting).is_some_and(|watch| watch.target == *target);
        let Some((_, old)) = self.resting.iter().position(fits).and_then(|index| self.resting.remove(index)) else {
            return false;
        };
        let Some(mut watch) = self.watches.remove(&old) else { return false };
        if let Some(wire) = watch.wire {
            self.by_wire.insert(wire, id);
        }
        watch.sink = Some(sink.clone());
        if let Some(since) = watch.since {
            watch.notify(id, Notice::Created(since));
        }
        if let Some(deleted) = watch.deleted {
            watch.notify(id, Notice::Deleted(deleted));
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

    /// Returns the time at which there is something to [do](Self::on_time).
    pub(super) fn next_due(&self) -> Option<Instant> {
        let fronts = self.resting.front().into_iter().chain(self.refused.front());
        fronts.map(|(due, _)| *due).min()
    }

    /// Ends the watches that have rested long enough, and requests those again that were refused long ago.
    pub(super) fn on_time(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(end, _)| *end <= now) {
            self.end_oldest();
        }
        while self.refused.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, id)) = self.refused.pop_front() {
                self.outbox.push_back(Request::Create(id));
            }
        }
    }

    /// Returns whether a new stream may be the remedy for the refusals of a watch whose key may be read.
    pub(super) fn needs_new_stream(&self, id: WatchId) -> bool {
        self.watches.get(&id).is_some_and(|watch| watch.refusals < MAX_REFUSALS)
    }

    /// Requests a refused watch again later.
    pub(super) fn retry_later(&mut self, id: WatchId, now: Instant) {
        self.refused.push_back((now + REFUSAL_DELAY, id));
    }

    /// Ends the watch that has rested for longest.
    fn end_oldest(&mut self) {
        if let Some((_, id)) = self.resting.pop_front() {
            self.cancel(id);
        }
    }

    /// Returns whether there are no watches.
    pub(super) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// Requests a sign of life from the stream.
    pub(super) fn request_progress(&mut self) {
        self.outbox.push_back(Request::Progress);
    }

    /// Puts a watch onto the present stream.
    fn enlist(&mut self, id: WatchId) -> Option<(Name, WatchOptions)> {
        let watch = self.watches.get_mut(&id)?;
        self.last_wire += 1;
        watch.wire = Some(self.last_wire);
        self.by_wire.insert(self.last_wire, id);
        self.unanswered.push_back(self.last_wire);
        Some((watch.target.name.clone(), watch.options(self.last_wire)))
    }

    /// Takes the oldest request that is still needed.
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

    /// Forgets the stream: all watches with users have to be requested again.
    pub(super) fn reset_stream(&mut self) {
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
    pub(super) fn read(&mut self, answer: &WatchResponse) -> Option<(WatchId, Name)> {
        // A refusal has the number of its watch, or (etcd 3.5) none.
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
                return Some((id, watch.target.name.clone()));
            }
            // Its start revision was compacted, most likely.
            watch.cancels += 1;
            if watch.cancels < MAX_CANCELS {
                self.outbox.push_back(Request::Create(id));
            }
        } else if answer.created() {
            // An unknown revision counts as later than any that a waiter has seen, so the waiter checks again.
            let since = answer::revision(answer.0.header.as_ref()).unwrap_or(i64::MAX);
            watch.since = Some(since);
            watch.refusals = 0;
            watch.notify(id, if watch.is_recreated { Notice::Recreated } else { Notice::Created(since) });
        }
        if !watch.target.is_deletion() {
            let changes = answer::changes(&answer.0, &watch.target.name, watch.target.end.as_deref());
            if !changes.is_empty() {
                watch.notify(id, Notice::Changed(changes));
            }
        } else if let Some(last) = answer::deletion(&answer.0, &watch.target.name) {
            watch.deleted = Some(last);
            watch.notify(id, Notice::Deleted(last));
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

    /// A table with watches on `k1`, `k2` and so on, all of which were requested.
    fn table(count: u64) -> (WatchTable, Notices) {
        let (sink, notices) = unbounded_channel();
        let mut table = WatchTable::default();
        for n in 1..=count {
            let target = Name::from(format!("k{n}").into_bytes()).into();
            table.apply(Command::Watch { id: WatchId(n), target, start: 0, sink: sink.clone() }, Instant::now());
        }
        assert_eq!(requested(&mut table).len(), usize::try_from(count).unwrap());
        (table, notices)
    }

    /// The names that are requested now.
    fn requested(table: &mut WatchTable) -> Vec<Name> {
        let requests = std::iter::from_fn(|| table.next_request());
        requests.map(|request| if let Ready::Create(name, _) = request { name } else { [].into() }).collect()
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
            assert_eq!(table.read(&answer(number, true)), Some((WatchId(2), (*b"k2").into())), "{number}");
            assert_eq!(table.read(&answer(3, false)), None);
            let notices: Vec<_> = std::iter::from_fn(|| notices.try_recv().ok()).collect();
            let expected =
                [(WatchId(1), Notice::Created(7)), (WatchId(2), Notice::Down), (WatchId(3), Notice::Created(7))];
            assert_eq!(notices, expected, "{number}");
        }
    }

    #[test]
    fn a_refused_watch_is_requested_again_later_and_needs_a_new_stream_only_a_few_times() {
        let (mut table, _notices) = table(2);
        let now = Instant::now();
        table.read(&answer(1, false));
        let (refused, _) = table.read(&answer(2, true)).unwrap();
        assert!(table.needs_new_stream(refused));
        table.retry_later(refused, now);
        table.on_time(now);
        assert_eq!((requested(&mut table).len(), table.next_due()), (0, Some(now + REFUSAL_DELAY)));
        for _ in 1..MAX_REFUSALS {
            table.on_time(now + REFUSAL_DELAY);
            assert_eq!(requested(&mut table), [(*b"k2").into()]);
            assert_eq!(table.read(&answer(table.last_wire, true)), Some((refused, (*b"k2").into())));
            table.retry_later(refused, now);
        }
        assert!(!table.needs_new_stream(refused));
        table.on_time(now + REFUSAL_DELAY);
        requested(&mut table);
        assert_eq!(table.read(&answer(table.last_wire, false)), None);
        table.reset_stream();
        requested(&mut table);
        table.read(&answer(table.last_wire, true));
        assert!(table.needs_new_stream(refused), "a watch that stood is as good as new");
    }
}
