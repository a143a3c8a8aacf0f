//! The list of faults, the figures of a run, and the document that shows them.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::fixture::Fixture;
use support::history::{Violation, longest_overlap};

/// A backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Memory,
    Etcd,
    Redis(Topology),
    File,
}

/// Where the locks on Redis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    OneServer,
    /// At a master that a sentinel names.
    Sentinel,
    /// At three masters.
    Cluster,
}

pub(crate) const BACKENDS: [Backend; 6] = [
    Backend::Memory,
    Backend::Etcd,
    Backend::Redis(Topology::OneServer),
    Backend::Redis(Topology::Sentinel),
    Backend::Redis(Topology::Cluster),
    Backend::File,
];

/// The faults that are tried in all topologies of Redis: those between a manager and its servers.
const IN_ALL_TOPOLOGIES: RangeInclusive<u32> = 33..=40;

/// The faults that are tried in files: those of processes, of what is removed, and of calls.
const IN_FILES: [u32; 13] = [1, 3, 4, 6, 7, 8, 13, 14, 40, 41, 42, 43, 44];

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Etcd => "etcd",
            Self::Redis(Topology::OneServer) => "Redis",
            Self::Redis(Topology::Sentinel) => "Redis, sentinel",
            Self::Redis(Topology::Cluster) => "Redis, cluster",
            Self::File => "files",
        }
    }
}

/// Tries a fault, and records figures.
pub(crate) type Play = fn(&mut Fixture);

/// A fault on one backend.
pub(crate) enum Cell {
    Run(Play),
    /// It does not exist on this backend.
    Absent(Absence),
    /// It is the same on this backend as the fault with this number.
    As(u32),
}

/// Why a fault does not exist on a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    OneProcess,
    NoServer,
    NoNetwork,
    OfEtcd,
    OfRedis,
    NoTimeOfDay,
}

impl Absence {
    const ALL: [Self; 6] =
        [Self::OneProcess, Self::NoServer, Self::NoNetwork, Self::OfEtcd, Self::OfRedis, Self::NoTimeOfDay];

    fn letter(self) -> char {
        match self {
            Self::OneProcess => 'a',
            Self::NoServer => 'b',
            Self::NoNetwork => 'c',
            Self::OfEtcd => 'd',
            Self::OfRedis => 'e',
            Self::NoTimeOfDay => 'f',
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::OneProcess => "The memory store is in one process: no other process can observe the fault.",
            Self::NoServer => {
                "The memory store is not a server: it has no members, disk, users, scripts or clock, and no single entries that \
                 an administrator could remove."
            }
            Self::NoNetwork => "Nothing is sent over a network, so no bytes can be delayed, repeated or cut.",
            Self::OfEtcd => {
                "Redis has one master and asynchronous replicas, and no leases, logins that expire or minimum TTL; only the \
                 server can be stopped (22)."
            }
            Self::OfRedis => {
                "etcd has no scripts and no replicas that answer; it keeps what it has confirmed; and a user without a role is \
                 refused like a deleted user."
            }
            Self::NoTimeOfDay => "etcd's leases use a monotonic clock: the time of day may jump.",
        }
    }
}

/// A fault. The name describes the fault and the expected behaviour.
pub(crate) struct Fault {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    /// In memory, on etcd, on Redis.
    pub(crate) cells: [Cell; 3],
}

impl Fault {
    pub(crate) const fn everywhere(number: u32, name: &'static str, play: Play) -> Self {
        Self { number, name, cells: [Cell::Run(play), Cell::Run(play), Cell::Run(play)] }
    }

    /// A fault on etcd and on Redis, with the reason why it does not exist in memory.
    pub(crate) const fn on_servers(number: u32, name: &'static str, why: Absence, play: Play) -> Self {
        Self { number, name, cells: [Cell::Absent(why), Cell::Run(play), Cell::Run(play)] }
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (Backend, &Cell)> {
        let [in_memory, on_etcd, of_redis] = &self.cells;
        let can_run = matches!(of_redis, Cell::Run(_));
        BACKENDS.into_iter().filter_map(move |backend| match backend {
            Backend::Memory => Some((backend, in_memory)),
            Backend::Etcd => Some((backend, on_etcd)),
            Backend::Redis(Topology::OneServer) => Some((backend, of_redis)),
            // As on Redis.
            Backend::Redis(_) => (can_run && IN_ALL_TOPOLOGIES.contains(&self.number)).then_some((backend, of_redis)),
            Backend::File => (can_run && IN_FILES.contains(&self.number)).then_some((backend, of_redis)),
        })
    }
}

/// The figures of one fault on one backend.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) holds: usize,
    /// All violations in the history.
    pub(crate) overlaps: Vec<Violation>,
    /// The longest overlap that cannot be avoided, and its reason.
    pub(crate) bound: Option<(Duration, &'static str)>,
    /// The violations that the bound does not cover.
    pub(crate) beyond: Vec<Violation>,
    pub(crate) losses: Vec<Duration>,
    pub(crate) nexts: Vec<Duration>,
    pub(crate) left: Vec<String>,
}

impl Figures {
    /// The complaint, if there is one.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut complaint = String::new();
        if !self.beyond.is_empty() {
            let _ = write!(complaint, "{:?} beyond {:?}; ", self.beyond, self.bound);
        }
        if !self.left.is_empty() {
            let _ = write!(complaint, "left on the server: {:?}; ", self.left);
        }
        if self.holds == 0 {
            complaint.push_str("no hold was tried");
        }
        (!complaint.is_empty()).then_some(complaint)
    }

    /// Holds, overlaps, losses, next holders, leaks.
    pub(crate) fn columns(&self) -> String {
        let overlaps = match self.overlaps.len() {
            0 => "0".to_owned(),
            count => format!("{count}, ≤ {}", shown(longest_overlap(&self.overlaps))),
        };
        let ([loss, loss_max], [next, next_max]) = (middle_and_max(&self.losses), middle_and_max(&self.nexts));
        format!("{} | {overlaps} | {loss} | {loss_max} | {next} | {next_max} | {}", self.holds, self.left.len())
    }
}

/// The median and the maximum, or "none".
fn middle_and_max(times: &[Duration]) -> [String; 2] {
    let mut times = times.to_vec();
    times.sort_unstable();
    match times.last() {
        Some(max) => [shown(times[(times.len() - 1) / 2]), shown(*max)],
        None => ["none".to_owned(), "none".to_owned()],
    }
}

fn shown(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds {
        0.0..1.0 => format!("{:.0} µs", milliseconds * 1000.0),
        1.0..10.0 => format!("{milliseconds:.1} ms"),
        10.0..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// The rows of a fault that were not run: one for all backends with the same reason.
pub(crate) fn rows_without_figures(fault: &Fault) -> Vec<String> {
    let mut rows: Vec<(String, Vec<&str>)> = Vec::new();
    for (backend, cell) in fault.cells() {
        let mark = match cell {
            Cell::Run(_) => continue,
            Cell::Absent(absence) => format!("– ({})", absence.letter()),
            Cell::As(number) => format!("see {number}"),
        };
        match rows.iter_mut().find(|(known, _)| *known == mark) {
            Some((_, backends)) => backends.push(backend.name()),
            None => rows.push((mark, vec![backend.name()])),
        }
    }
    let row = |(mark, backends): (String, Vec<&str>)| {
        format!("| {} | {} | {} | {mark} | | | | | | |", fault.number, fault.name, backends.join(", "))
    };
    rows.into_iter().map(row).collect()
}

/// The row of a fault on a backend, before the figures.
pub(crate) fn row_start(fault: &Fault, backend: Backend) -> String {
    format!("| {} | {} | {} |", fault.number, fault.name, backend.name())
}

/// The text of docs/faults.md.
pub(crate) fn document(machine: &str, groups: &[(&str, &[Fault])], figures: &[(&Fault, Backend, Figures)]) -> String {
    let mut text = include_str!("head.md").replace("{machine}", machine);
    for (title, faults) in groups {
        let _ = write!(text, "\n# {title}\n\n");
        text.push_str("| | fault | backend | holds | overlaps | loss p50 | loss max | next p50 | next max | left |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
        for fault in *faults {
            for (_, backend, shown) in figures.iter().filter(|(of, ..)| std::ptr::eq(*of, fault)) {
                let _ = writeln!(text, "{} {} |", row_start(fault, *backend), shown.columns());
            }
            rows_without_figures(fault).iter().for_each(|row| {
                let _ = writeln!(text, "{row}");
            });
        }
    }
    text.push_str("\nWhere a fault does not exist:\n\n");
    for absence in Absence::ALL {
        let _ = writeln!(text, "- ({}) {}", absence.letter(), absence.text());
    }
    text.push_str(include_str!("bounds.md"));
    text.push_str("\n| | fault | backend | longest overlap measured | bound |\n| --- | --- | --- | --- | --- |\n");
    for (fault, backend, shown) in figures {
        if let Some((bound, words)) = shown.bound {
            let (longest, bound) = (self::shown(longest_overlap(&shown.overlaps)), self::shown(bound));
            let _ = writeln!(text, "{} {longest} | {bound}{words} |", row_start(fault, *backend));
        }
    }
    text
}
