//! What faults permit, and what has happened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use leasehold::Mode;
use support::history::{Record, Violation, What, judge};

use super::clients::{is_fast, min_replicas};

/// The limit from a server that serves to the first grant, which takes a second, on a busy machine.
const SOON: Duration = Duration::from_secs(4);

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It is killed, and started again when another one has replaced it.
    Killed,
    /// It is stopped for a while, perhaps too short to be replaced.
    Stopped,
    /// It is cut off from all but the processes of its island.
    CutOff,
    /// Another one replaces it on request.
    Requested,
    /// Slots of it move to another one.
    Moved,
}

/// A fault. All times are of the histories' clock.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The place of the server.
    pub(super) server: usize,
    /// The locks that it has.
    pub(super) keys: Vec<String>,
    pub(super) began: u64,
    /// When another server was the master.
    pub(super) replaced: Option<u64>,
    /// When the server was up and reachable again.
    pub(super) ended: u64,
    /// When all servers had recovered.
    pub(super) sound: u64,
}

/// The time from one moment to a later one.
fn between(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

/// A moment after another one.
pub(super) fn after(at: u64, time: Duration) -> u64 {
    at + time.as_nanos() as u64
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, server, began, replaced, ended, sound, .. } = self;
        let replaced = replaced.map(|at| between(*began, at));
        let (ended, sound) = (between(*began, *ended), between(*began, *sound));
        write!(f, "{kind:?} {server}: replaced {replaced:.2?}, over {ended:.2?}, recovered {sound:.2?}")
    }
}

/// The rules of servers: until when holders may overlap due to a fault, with so many replicas.
pub(super) type Rules<'a> = &'a dyn Fn(&Fault, u32) -> Option<u64>;

/// An overlap, or a pair of holds whose tokens do not grow.
struct Incident {
    what: String,
    key: String,
    from: u64,
    to: u64,
    is_overlap: bool,
}

/// The loss of a hold that the rules do not permit.
fn losses(records: &[Record], faults: &[Fault], may_lose: &dyn Fn(&Fault) -> bool) -> Vec<String> {
    let losses = records.iter().filter(|record| record.what == What::FoundLost);
    let wrong = |loss: &Record| {
        let fault = faults.iter().rfind(|fault| fault.began <= loss.at).filter(|fault| !may_lose(fault))?;
        Some(format!("{}: lost {:.2?} after {fault}", loss.key, between(fault.began, loss.at)))
    };
    losses.filter_map(wrong).collect()
}

/// Finds all that would be wrong without faults. Also returns the number of holds.
fn incidents(records: &[Record]) -> (Vec<Incident>, usize) {
    let verdict = judge(records, Duration::ZERO);
    let begun: BTreeMap<&str, &Record> = records.iter().rev().map(|record| (&*record.hold, record)).collect();
    let incident = |violation: &Violation| {
        let (hold, time, is_overlap) = match violation {
            Violation::Overlap { second, by, .. } => (second, *by, true),
            Violation::Token { second, .. } => (&second.0, Duration::ZERO, false),
            Violation::Crowded { hold, .. } | Violation::Stray { hold } => (hold, Duration::ZERO, false),
        };
        let (what, key, from) = (format!("{violation:?}"), begun[&**hold].key.clone(), begun[&**hold].at);
        Incident { what, key, from, to: after(from, time), is_overlap }
    };
    (verdict.violations.iter().map(incident).collect(), verdict.holds)
}

/// The fault that an incident is due to: the last one before it.
fn cause<'a>(faults: &'a [Fault], incident: &Incident) -> Option<&'a Fault> {
    faults.iter().rfind(|fault| fault.began <= incident.from)
}

/// What the rules do not permit.
fn wrongs(incidents: &[Incident], faults: &[Fault], rules: Rules<'_>) -> Vec<String> {
    let wrong = |incident: &Incident| {
        let fault = cause(faults, incident);
        let end = fault.filter(|fault| fault.keys.contains(&incident.key));
        let end = end.and_then(|fault| rules(fault, min_replicas(&incident.key)));
        let is_permitted = end.is_some_and(|end| incident.to <= end);
        (!is_permitted).then(|| {
            let Incident { what, key, from, to, .. } = incident;
            let since = fault.map(|fault| (between(fault.began, *from), between(fault.began, *to)));
            let (fault, limit) = (fault.map(Fault::to_string), end.map(|end| between(*from, end)));
            format!("{key}: {what}, {since:.2?} after {fault:?}, may take {limit:.2?}")
        })
    };
    incidents.iter().filter_map(wrong).collect()
}

/// The times of the grants of a lock.
fn grants(records: &[Record], key: &str) -> Vec<u64> {
    let granted = |record: &&Record| record.key == key && matches!(record.what, What::Acquired { .. });
    let mut times: Vec<_> = records.iter().filter(granted).map(|record| record.at).collect();
    times.sort_unstable();
    times
}

/// The longest time without a grant around a fault.
fn gap(times: &[u64], fault: &Fault) -> Duration {
    let is_near = |pair: &&[u64]| pair[1] > fault.began && pair[0] < fault.sound;
    times.windows(2).filter(is_near).map(|pair| between(pair[0], pair[1])).max().unwrap_or_default()
}

/// The locks with short holds that were not granted soon after the servers had recovered: without replicas, after there was a master.
fn late(records: &[Record], faults: &[Fault]) -> Vec<String> {
    let mut late = Vec::new();
    for fault in faults {
        for key in fault.keys.iter().filter(|key| is_fast(key)) {
            let served = if min_replicas(key) == 0 { fault.replaced.unwrap_or(fault.ended) } else { fault.sound };
            let (gap, limit) = (gap(&grants(records, key), fault), between(fault.began, served) + SOON);
            if gap > limit {
                late.push(format!("{key}: no grant for {gap:.2?}, expected within {limit:.2?}, {fault}"));
            }
        }
    }
    late
}

/// Prints what has happened.
///
/// # Panics
///
/// If the rules do not permit it.
pub(super) fn report(records: &[Record], faults: &[Fault], rules: Rules<'_>, may_lose: &dyn Fn(&Fault) -> bool) {
    let (incidents, holds) = incidents(records);
    let shared = |record: &&Record| matches!(record.what, What::Acquired { mode: Mode::Shared, .. });
    let count = records.iter().filter(shared).count();
    println!("{holds} holds, {count} of them shared, {} faults", faults.len());
    let mut groups: Vec<_> = records.iter().map(|record| min_replicas(&record.key)).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut kinds: Vec<_> = faults.iter().map(|fault| fault.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of_kind: Vec<_> = faults.iter().filter(|fault| fault.kind == kind).collect();
        let longest = |time: &dyn Fn(&Fault) -> Option<Duration>| of_kind.iter().filter_map(|fault| time(fault)).max();
        let replaced = longest(&|fault| Some(between(fault.began, fault.replaced?)));
        let count = of_kind.iter().filter(|fault| fault.replaced.is_some()).count();
        println!("{} times {kind:?}, {count} of them with a new master, after {replaced:.2?} at most", of_kind.len());
        for group in &groups {
            let is_ours = |record: &&Record| min_replicas(&record.key) == *group;
            let due = |incident: &&Incident| {
                min_replicas(&incident.key) == *group && cause(faults, incident).is_some_and(|fault| fault.kind == kind)
            };
            let overlaps = incidents.iter().filter(|incident| incident.is_overlap).filter(due);
            let times: Vec<_> = overlaps.map(|overlap| between(overlap.from, overlap.to)).collect();
            let tokens = incidents.iter().filter(|incident| !incident.is_overlap).filter(due).count();
            // Of locks with short holds, since it is the servers that matter.
            let (mut longest, mut first) = (Duration::ZERO, Vec::new());
            for fault in &of_kind {
                for key in fault.keys.iter().filter(|key| is_fast(key) && min_replicas(key) == *group) {
                    let times = grants(records, key);
                    longest = longest.max(gap(&times, fault));
                    let replaced = fault.replaced.unwrap_or(u64::MAX);
                    first.extend(times.iter().find(|at| **at > replaced).map(|at| between(replaced, *at)));
                }
            }
            first.sort_unstable();
            let lost =
                records.iter().filter(|record| record.what == What::FoundLost).filter(is_ours).filter(|record| {
                    faults.iter().rfind(|fault| fault.began <= record.at).is_some_and(|fault| fault.kind == kind)
                });
            println!(
                "  {group} replicas: {} overlaps of {:.2?} at most, {tokens} tokens not greater, {} holds lost; no grant for \
                 {longest:.2?} at most; first grant after the new master {:.2?} (median), {:.2?} at most",
                times.len(),
                times.iter().max(),
                lost.count(),
                first.get(first.len() / 2),
                first.last(),
            );
        }
    }
    let wrongs = [wrongs(&incidents, faults, rules), losses(records, faults, may_lose), late(records, faults)].concat();
    assert!(wrongs.is_empty(), "{} breaches:\n{}", wrongs.len(), wrongs.join("\n"));
}

/// A hold of one lock.
fn hold(name: &str, key: &str, token: u64, from: u64, to: u64) -> [Record; 2] {
    let record = |at, what| Record { at, hold: name.to_owned(), key: key.to_owned(), what };
    [record(from, What::Acquired { mode: Mode::Exclusive, token }), record(to, What::Released)]
}

#[test]
fn what_the_rules_do_not_permit_is_found() {
    let fault = |kind, began| Fault {
        kind,
        server: 0,
        keys: vec!["0:Fast:1".into(), "1:Fast:1".into()],
        began,
        replaced: None,
        ended: began,
        sound: began,
    };
    let faults = [fault(Kind::Killed, 100), fault(Kind::Requested, 200)];
    let rules = |fault: &Fault, replicas| (fault.kind == Kind::Killed && replicas == 0).then_some(fault.began + 30);
    for (key, times, second, is_wrong) in [
        ("0:Fast:1", [105, 130, 110, 140], 2, false),
        // One after the other.
        ("1:Fast:1", [105, 110, 110, 140], 2, false),
        // It takes too long, begins too early, or is due to another fault.
        ("0:Fast:1", [105, 131, 110, 140], 2, true),
        ("0:Fast:1", [90, 110, 99, 140], 2, true),
        ("0:Fast:1", [205, 220, 210, 240], 2, true),
        // Replicas have to confirm it, or the fault was of another server.
        ("1:Fast:1", [105, 130, 110, 140], 2, true),
        ("0:Fast:2", [105, 130, 110, 140], 2, true),
        // The token of the second one.
        ("0:Fast:1", [105, 110, 111, 140], 1, false),
        ("0:Fast:1", [105, 110, 131, 140], 1, true),
        ("1:Fast:1", [105, 110, 111, 140], 1, true),
    ] {
        let records = [hold("a", key, 1, times[0], times[1]), hold("b", key, second, times[2], times[3])].concat();
        let found = wrongs(&incidents(&records).0, &faults, &rules);
        assert_eq!(!found.is_empty(), is_wrong, "{records:?}: {found:?}");
    }
}
