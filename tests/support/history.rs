//! The history of the holds of all processes of a test, and a judge of it.
//!
//! The time of a hold begins when the acquire returns. It ends at the start of the unlock, or when the loss is notified; or, for a
//! process that polls `is_lost()`, at the last time taken *before* a call that returned false: a stopped process holds nothing while
//! it is stopped, and a killed one nothing afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use leasehold::{LockGuard, Mode};

/// Nanoseconds of `CLOCK_MONOTONIC`, the same in all processes.
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// An event of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Acquired {
        mode: Mode,
        token: u64,
    },
    /// One of at most `limit` slots, requested at this time.
    AcquiredSlot {
        token: u64,
        limit: u32,
        asked: u64,
    },
    /// A foreign client without tokens has acquired it exclusively.
    AcquiredWithoutToken,
    /// `is_lost()`, called after this time, returned false.
    Alive,
    /// `is_lost()` returned true.
    FoundLost,
    /// `lost()` completed, or the loss was notified in another way.
    Lost,
    /// The unlock, or the drop, is about to begin.
    Released,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub at: u64,
    /// The name of the hold, unique over all processes.
    pub hold: String,
    pub key: String,
    pub what: What,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, hold, key, what } = self;
        write!(f, "{at}\t{hold}\t{key}\t")?;
        match what {
            What::Acquired { mode: Mode::Exclusive, token } => write!(f, "acquired\t{token}"),
            What::Acquired { mode: Mode::Shared, token } => write!(f, "shared\t{token}"),
            What::AcquiredSlot { token, limit, asked } => write!(f, "slot\t{token}\t{limit}\t{asked}"),
            What::AcquiredWithoutToken => f.write_str("acquired"),
            What::Alive => f.write_str("alive"),
            What::FoundLost => f.write_str("found-lost"),
            What::Lost => f.write_str("lost"),
            What::Released => f.write_str("released"),
        }
    }
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (at, hold, key) = (fields.next()?.parse().ok()?, fields.next()?.to_owned(), fields.next()?.to_owned());
        let what = match (fields.next()?, fields.next()) {
            ("acquired", Some(token)) => What::Acquired { mode: Mode::Exclusive, token: token.parse().ok()? },
            ("shared", Some(token)) => What::Acquired { mode: Mode::Shared, token: token.parse().ok()? },
            ("slot", Some(token)) => {
                let (limit, asked) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
                What::AcquiredSlot { token: token.parse().ok()?, limit, asked }
            }
            ("acquired", None) => What::AcquiredWithoutToken,
            ("alive", None) => What::Alive,
            ("found-lost", None) => What::FoundLost,
            ("lost", None) => What::Lost,
            ("released", None) => What::Released,
            _ => return None,
        };
        Some(Self { at, hold, key, what })
    }
}

/// A file that any number of processes write to. Clones are the same.
#[derive(Clone, Debug)]
pub struct History {
    file: Arc<File>,
    path: PathBuf,
}

impl History {
    /// Opens a history, and creates the file if it does not exist.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let file = File::options().create(true).append(true).open(&path).unwrap();
        Self { file: Arc::new(file), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Records a hold right after its acquire has returned.
    pub fn acquired(&self, guard: &LockGuard) -> Hold {
        self.begin(guard.key(), What::Acquired { mode: guard.mode(), token: guard.token().get() })
    }

    /// The same for a slot, of at most so many, that was requested at this time.
    pub fn acquired_slot(&self, guard: &LockGuard, limit: u32, asked: u64) -> Hold {
        self.begin(guard.key(), What::AcquiredSlot { token: guard.token().get(), limit, asked })
    }

    /// Records an exclusive hold of a foreign client.
    pub fn acquired_elsewhere(&self, key: &str, token: Option<u64>) -> Hold {
        let with = |token| What::Acquired { mode: Mode::Exclusive, token };
        self.begin(key, token.map_or(What::AcquiredWithoutToken, with))
    }

    fn begin(&self, key: &str, what: What) -> Hold {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Process ids are reused within minutes if many processes are started.
        static PROCESS: LazyLock<u32> = LazyLock::new(rand::random);
        let name = format!("{}-{:08x}-{}", std::process::id(), *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed));
        let hold = Hold { history: self.clone(), name, key: key.to_owned() };
        hold.record(now(), what);
        hold
    }

    /// Returns all records so far.
    pub fn records(&self) -> Vec<Record> {
        self.records_after(&mut 0)
    }

    /// Returns the records after the first `read` bytes, which becomes the number of bytes so far.
    pub fn records_after(&self, read: &mut u64) -> Vec<Record> {
        let (mut file, mut text) = (File::open(&self.path).unwrap(), String::new());
        file.seek(SeekFrom::Start(*read)).unwrap();
        file.read_to_string(&mut text).unwrap();
        // A line that is being written is left for the next time.
        let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        *read += text.len() as u64;
        text.lines().map(|line| Record::parse(line).unwrap_or_else(|| panic!("no record: {line:?}"))).collect()
    }

    /// Asserts that the history has no violation, and at least `holds` holds.
    pub fn assert_clean(&self, holds: usize) {
        let verdict = judge(&self.records(), Duration::ZERO);
        assert!(verdict.violations.is_empty(), "{verdict}");
        assert!(verdict.holds >= holds, "only {} holds", verdict.holds);
    }
}

/// A hold that is being recorded.
#[derive(Debug)]
pub struct Hold {
    history: History,
    name: String,
    key: String,
}

impl Hold {
    /// Calls `is_lost()`, and records the answer. For workers that may be stopped at any time.
    pub fn is_lost(&self, guard: &LockGuard) -> bool {
        let before = now();
        let lost = guard.is_lost();
        self.record(before, if lost { What::FoundLost } else { What::Alive });
        lost
    }

    /// Records that the loss was notified.
    pub fn lost(&self) {
        self.record(now(), What::Lost);
    }

    /// Records the release. To be called right before it.
    pub fn released(&self) {
        self.record(now(), What::Released);
    }

    fn record(&self, at: u64, what: What) {
        let record = Record { at, hold: self.name.clone(), key: self.key.clone(), what };
        // One short write to a file opened for appending: lines of different processes do not mix.
        (&*self.history.file).write_all(format!("{record}\n").as_bytes()).unwrap();
    }
}

/// The judgement of a history.
#[derive(Debug)]
pub struct Verdict {
    /// The number of holds.
    pub holds: usize,
    pub violations: Vec<Violation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Two holds that exclude each other overlapped, for this long.
    Overlap { first: String, second: String, by: Duration },
    /// A slot was granted although so many others were held as its limit permits.
    Crowded { hold: String, limit: u32, others: usize },
    /// A later hold does not have a greater token.
    Token { first: (String, u64), second: (String, u64) },
    /// A record without a matching acquire.
    Stray { hold: String },
}

/// The longest overlap among these.
pub fn longest_overlap(violations: &[Violation]) -> Duration {
    let length =
        |violation: &Violation| if let Violation::Overlap { by, .. } = violation { *by } else { Duration::ZERO };
    violations.iter().map(length).max().unwrap_or_default()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} violations in {} holds", self.violations.len(), self.holds)?;
        self.violations.iter().take(10).try_for_each(|violation| writeln!(f, "  {violation:?}"))
    }
}

#[derive(Debug)]
struct Belief {
    hold: String,
    kind: Kind,
    token: Option<u64>,
    from: u64,
    to: u64,
}

/// What a hold excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exclusive,
    Shared,
    /// With its limit, and the time of its request.
    Slot {
        limit: u32,
        asked: u64,
    },
}

impl Kind {
    const COUNT: usize = 3;

    /// A number for all that exclude the same.
    fn class(self) -> usize {
        match self {
            Self::Exclusive => 0,
            Self::Shared => 1,
            Self::Slot { .. } => 2,
        }
    }
}

/// Judges a history. Overlaps of at most `allowed` pass: if the server itself ends a hold, no earlier notification is possible.
pub fn judge(records: &[Record], allowed: Duration) -> Verdict {
    let mut violations = Vec::new();
    let mut keys = beliefs(records, &mut violations);
    let count = keys.values().map(Vec::len).sum::<usize>() + violations.len();
    for beliefs in keys.values_mut() {
        beliefs.sort_by_key(|belief| belief.from);
        overlaps(beliefs, allowed, &mut violations);
        tokens(beliefs, &mut violations);
        slots(beliefs, allowed, &mut violations);
    }
    Verdict { holds: count, violations }
}

/// The holds of each key.
fn beliefs<'a>(records: &'a [Record], violations: &mut Vec<Violation>) -> BTreeMap<&'a str, Vec<Belief>> {
    let mut keys: BTreeMap<&str, Vec<Belief>> = BTreeMap::new();
    let mut holds: HashMap<&str, Vec<&Record>> = HashMap::new();
    for record in records {
        holds.entry(&record.hold).or_default().push(record);
    }
    for (hold, events) in holds {
        match belief(hold, &events) {
            Some(belief) => keys.entry(&events[0].key).or_default().push(belief),
            None => violations.push(Violation::Stray { hold: hold.to_owned() }),
        }
    }
    keys
}

/// The time of a hold.
fn belief(hold: &str, events: &[&Record]) -> Option<Belief> {
    let (first, rest) = events.split_first()?;
    let acquired = |what: What| match what {
        What::Acquired { mode: Mode::Exclusive, token } => Some((Kind::Exclusive, Some(token))),
        What::Acquired { mode: Mode::Shared, token } => Some((Kind::Shared, Some(token))),
        What::AcquiredSlot { token, limit, asked } => Some((Kind::Slot { limit, asked }, Some(token))),
        What::AcquiredWithoutToken => Some((Kind::Exclusive, None)),
        What::Alive | What::FoundLost | What::Lost | What::Released => None,
    };
    let (kind, token) = acquired(first.what)?;
    if rest.iter().any(|event| acquired(event.what).is_some() || event.key != first.key) {
        return None;
    }
    let last = |what: What| rest.iter().filter(|event| event.what == what).map(|event| event.at).max();
    let first_of = |what: What| rest.iter().filter(|event| event.what == what).map(|event| event.at).min();
    let known = last(What::Alive);
    let to = match (first_of(What::FoundLost), first_of(What::Lost), first_of(What::Released)) {
        (Some(_), ..) => known.unwrap_or(first.at),
        (None, Some(lost), _) => known.unwrap_or(lost),
        (None, None, Some(released)) => released,
        // Killed, or still holding.
        (None, None, None) => known.unwrap_or(first.at),
    };
    Some(Belief { hold: hold.to_owned(), kind, token, from: first.at, to })
}

fn overlaps(beliefs: &[Belief], allowed: Duration, violations: &mut Vec<Violation>) {
    // Earlier holds that may overlap this one: the longest of each class is enough to find a violation.
    let mut reaching: [Option<&Belief>; Kind::COUNT] = [None; Kind::COUNT];
    for belief in beliefs {
        for earlier in reaching.into_iter().flatten() {
            let excludes = belief.kind == Kind::Exclusive || belief.kind.class() != earlier.kind.class();
            let by = Duration::from_nanos(earlier.to.min(belief.to).saturating_sub(belief.from));
            if excludes && by > allowed {
                violations.push(Violation::Overlap { first: earlier.hold.clone(), second: belief.hold.clone(), by });
            }
        }
        let slot = &mut reaching[belief.kind.class()];
        if slot.is_none_or(|longest| longest.to < belief.to) {
            *slot = Some(belief);
        }
    }
}

fn tokens(beliefs: &[Belief], violations: &mut Vec<Violation>) {
    let (mut writer, mut reader): (Option<&Belief>, Option<&Belief>) = (None, None);
    for belief in beliefs.iter().filter(|belief| belief.token.is_some()) {
        let named = |belief: &Belief| (belief.hold.clone(), belief.token.unwrap_or_default());
        let wrong = match belief.kind {
            Kind::Exclusive => [writer, reader].into_iter().flatten().find(|earlier| earlier.token >= belief.token),
            Kind::Shared | Kind::Slot { .. } => writer.filter(|earlier| earlier.token > belief.token),
        };
        if let Some(earlier) = wrong {
            violations.push(Violation::Token { first: named(earlier), second: named(belief) });
        }
        let slot = if belief.kind == Kind::Exclusive { &mut writer } else { &mut reader };
        if slot.is_none_or(|greatest| greatest.token <= belief.token) {
            *slot = Some(belief);
        }
    }
}

/// Those that have slots at the same time, in some order, each had room; and so had each beside those that were there when it asked.
fn slots(beliefs: &[Belief], allowed: Duration, violations: &mut Vec<Violation>) {
    // By the beginnings of their times.
    let slots: Vec<_> = beliefs.iter().filter_map(Slot::of).collect();
    crowded(&slots, allowed, |earlier, later| earlier.belief.from < later.asked, violations);
    let mut held: Vec<&Slot<'_>> = Vec::new();
    for slot in &slots {
        held.retain(|other| other.belief.to > slot.belief.from + allowed.as_nanos() as u64);
        held.push(slot);
        let mut limits: Vec<_> = held.iter().map(|slot| slot.limit).collect();
        limits.sort_unstable();
        if limits.iter().enumerate().any(|(others, limit)| *limit as usize <= others) {
            violations.push(slot.crowded(held.len() - 1));
        }
    }
}

/// Judges the slots of a server whose tokens are in the order of the grants: each one was granted beside those with smaller ones.
pub fn judge_slots_in_order(records: &[Record]) -> Vec<Violation> {
    let (mut keys, mut violations) = (beliefs(records, &mut Vec::new()), Vec::new());
    for beliefs in keys.values_mut() {
        beliefs.sort_by_key(|belief| belief.token);
        let slots: Vec<_> = beliefs.iter().filter_map(Slot::of).collect();
        crowded(&slots, Duration::ZERO, |_, _| true, &mut violations);
        for pair in slots.windows(2).filter(|pair| pair[0].belief.token == pair[1].belief.token) {
            let named = |slot: &Slot<'_>| (slot.belief.hold.clone(), slot.belief.token.unwrap_or_default());
            violations.push(Violation::Token { first: named(&pair[0]), second: named(&pair[1]) });
        }
    }
    violations
}

#[derive(Clone, Copy)]
struct Slot<'a> {
    belief: &'a Belief,
    limit: u32,
    asked: u64,
}

impl<'a> Slot<'a> {
    fn of(belief: &'a Belief) -> Option<Self> {
        match belief.kind {
            Kind::Slot { limit, asked } => Some(Self { belief, limit, asked }),
            Kind::Exclusive | Kind::Shared => None,
        }
    }

    fn crowded(self, others: usize) -> Violation {
        Violation::Crowded { hold: self.belief.hold.clone(), limit: self.limit, others }
    }
}

/// Finds the slots that were granted beside too many. All that are granted before a slot precede it in the list.
fn crowded(
    slots: &[Slot<'_>],
    allowed: Duration,
    is_before: impl Fn(&Slot<'_>, &Slot<'_>) -> bool,
    violations: &mut Vec<Violation>,
) {
    // When the first of a slot and those after it begins: what has ended by then concerns none of them.
    let mut begins: Vec<u64> = slots.iter().map(|slot| slot.belief.from).collect();
    for place in (1..begins.len()).rev() {
        begins[place - 1] = begins[place - 1].min(begins[place]);
    }
    let (allowed, mut held) = (allowed.as_nanos() as u64, Vec::<Slot<'_>>::new());
    for (slot, begins) in slots.iter().zip(begins) {
        held.retain(|other| other.belief.to > begins);
        let is_beside = |other: &&Slot<'_>| other.belief.to > slot.belief.from + allowed && is_before(other, slot);
        let others = held.iter().filter(is_beside).count();
        if others >= slot.limit as usize {
            violations.push(slot.crowded(others));
        }
        held.push(*slot);
    }
}
