//! The list of faults, and what a run of it shows, as a document.

use std::fmt::Write;
use std::time::Duration;

use crate::support::history::Violation;
use crate::world::World;

/// Where locks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Memory,
    Etcd,
    Redis,
}

pub(crate) const BACKENDS: [Backend; 3] = [Backend::Memory, Backend::Etcd, Backend::Redis];

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Etcd => "etcd",
            Self::Redis => "Redis",
        }
    }
}

/// A fault on one backend.
pub(crate) enum Cell {
    Run(fn(&mut World)),
    /// It does not exist there.
    Absent(Absence),
    /// It does, and nobody has measured it.
    Unmeasured,
}

/// Why a fault does not exist on a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    OneProcess,
    NoServer,
    NoNetwork,
    OfEtcd,
    OfRedis,
}

impl Absence {
    const ALL: [Self; 5] = [Self::OneProcess, Self::NoServer, Self::NoNetwork, Self::OfEtcd, Self::OfRedis];

    fn letter(self) -> char {
        match self {
            Self::OneProcess => 'a',
            Self::NoServer => 'b',
            Self::NoNetwork => 'c',
            Self::OfEtcd => 'd',
            Self::OfRedis => 'e',
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::OneProcess => {
                "The memory store lives in one process: nobody is left to see what another process does."
            }
            Self::NoServer => {
                "The memory store is no server: it has no members, disk, users, scripts or clock of its own."
            }
            Self::NoNetwork => "Nothing is sent over a network, so no bytes can be delayed, repeated or cut.",
            Self::OfEtcd => "A property of etcd: the other backends have no such member, log, watch, token or alarm.",
            Self::OfRedis => "A property of Redis: the other backends have no such script, message, user or role.",
        }
    }
}

/// A fault, with what must hold.
pub(crate) struct Fault {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    /// In memory, on etcd, on Redis.
    pub(crate) cells: [Cell; 3],
}

impl Fault {
    pub(crate) fn cells(&self) -> impl Iterator<Item = (Backend, &Cell)> {
        BACKENDS.into_iter().zip(&self.cells)
    }
}

/// What one fault on one backend has shown.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) holds: usize,
    /// All that the judge of histories has found.
    pub(crate) overlaps: Vec<Violation>,
    /// Overlaps up to this long cannot be avoided.
    pub(crate) bound: Duration,
    /// What the judge finds beyond the bound.
    pub(crate) beyond: Vec<Violation>,
    pub(crate) losses: Vec<Duration>,
    pub(crate) nexts: Vec<Duration>,
    pub(crate) left: Vec<String>,
}

impl Figures {
    /// What is wrong, if anything is.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut complaint = String::new();
        if !self.beyond.is_empty() {
            let _ = write!(complaint, "{:?} beyond the bound of {:?}; ", self.beyond, self.bound);
        }
        if !self.left.is_empty() {
            let _ = write!(complaint, "left on the server: {:?}; ", self.left);
        }
        if self.holds == 0 {
            complaint.push_str("no hold was tried");
        }
        (!complaint.is_empty()).then_some(complaint)
    }

    fn longest_overlap(&self) -> Duration {
        let length =
            |violation: &Violation| if let Violation::Overlap { by, .. } = violation { *by } else { Duration::ZERO };
        self.overlaps.iter().map(length).max().unwrap_or_default()
    }

    /// Holds, overlaps, losses, next holders, leaks.
    pub(crate) fn columns(&self) -> String {
        let overlaps = match self.overlaps.len() {
            0 => "0".to_owned(),
            count => format!("{count}, ≤ {}", shown(self.longest_overlap())),
        };
        let ([loss, loss_max], [next, next_max]) = (middle_and_max(&self.losses), middle_and_max(&self.nexts));
        format!("{} | {overlaps} | {loss} | {loss_max} | {next} | {next_max} | {}", self.holds, self.left.len())
    }
}

/// The median and the greatest, or that there are none.
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
        0.0..10.0 => format!("{milliseconds:.1} ms"),
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
            Cell::Unmeasured => "not measured yet".to_owned(),
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

/// The result of a whole run, as docs/faults.md has it.
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
    for (fault, backend, shown) in figures.iter().filter(|(.., shown)| !shown.bound.is_zero()) {
        let (longest, bound) = (self::shown(shown.longest_overlap()), self::shown(shown.bound));
        let _ = writeln!(text, "{} {longest} | {bound} |", row_start(fault, *backend));
    }
    text
}
