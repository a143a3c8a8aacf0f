//! A list of faults, each on every backend where it exists: holds do not overlap, losses are reported in time, and nothing
//! is left on the server. docs/faults.md is the result of a full run.
//!
//! By default each fault is tried once, several faults at a time. `LEASEHOLD_FAULTS=full` repeats each fault, two faults at a time,
//! and writes the document. `LEASEHOLD_FAULTS=13,14` repeats only the faults with these numbers and prints their rows (with
//! `--nocapture`).

mod api;
mod client;
mod etcd;
mod fixture;
mod network;
mod redis;
mod server;
mod table;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fixture::Fixture;
use support::history::Hold;
use table::{Backend, Cell, Fault, Figures, Play, document, row_start, rows_without_figures};

const GROUPS: [(&str, &[Fault]); 5] = [
    ("Clients", client::FAULTS),
    ("etcd", etcd::FAULTS),
    ("Redis", redis::FAULTS),
    ("The network", network::FAULTS),
    ("Calls", api::FAULTS),
];

/// The number of faults that run at a time. Most of them wait for a lease to end.
const LANES: usize = 8;
/// The same for the document, which shows times.
const FULL_LANES: usize = 2;

/// A fault on a backend, and its function.
type Entry = (&'static Fault, Backend, Play);

fn entries() -> impl Iterator<Item = Entry> {
    let faults = GROUPS.iter().flat_map(|(_, faults)| *faults);
    faults.flat_map(|fault| {
        fault.cells().filter_map(move |(backend, cell)| match cell {
            Cell::Run(play) => Some((fault, backend, *play)),
            Cell::Absent(_) | Cell::As(_) => None,
        })
    })
}

/// Runs one entry, and prints its row if times are what the run is for. Returns the figures, or the complaint.
fn run((fault, backend, play): Entry, full: bool) -> Result<Figures, String> {
    let start = Instant::now();
    let figures = catch_unwind(AssertUnwindSafe(|| {
        let mut fixture = Fixture::new(backend, full);
        play(&mut fixture);
        fixture.finish()
    }));
    let start_of_row = row_start(fault, backend);
    let Ok(figures) = figures else { return Err(format!("{start_of_row} panicked")) };
    if full {
        println!("{start_of_row} {} | {:.1?}", figures.columns(), start.elapsed());
    }
    match figures.complaint() {
        Some(complaint) => Err(format!("{start_of_row} {complaint}")),
        None => Ok(figures),
    }
}

/// Runs all entries, `lanes` at a time. The results are in the order of the list.
fn run_all(entries: Vec<Entry>, full: bool, lanes: usize) -> Vec<(Entry, Result<Figures, String>)> {
    let (queue, results) = (Mutex::new(entries.into_iter().enumerate()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some((place, entry)) = next() {
                    let result = run(entry, full);
                    results.lock().unwrap().push((place, entry, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(place, ..)| *place);
    results.into_iter().map(|(_, entry, result)| (entry, result)).collect()
}

#[test]
fn each_fault_is_survived() {
    let wish = std::env::var("LEASEHOLD_FAULTS").ok();
    let numbers: Option<Vec<u32>> = wish.as_ref().filter(|wish| *wish != "full").map(|wish| {
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("LEASEHOLD_FAULTS: {word:?} is not a number"));
        wish.split(',').map(number).collect()
    });
    let chosen = |(fault, ..): &Entry| numbers.as_ref().is_none_or(|numbers| numbers.contains(&fault.number));
    let load_before = load();
    let results =
        run_all(entries().filter(chosen).collect(), wish.is_some(), if wish.is_some() { FULL_LANES } else { LANES });
    let complaints: Vec<_> = results.iter().filter_map(|(_, result)| result.as_ref().err().cloned()).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    if wish.is_some_and(|wish| wish == "full") {
        let figures =
            results.into_iter().filter_map(|((fault, backend, _), result)| Some((fault, backend, result.ok()?)));
        let text = document(&machine(&load_before), &GROUPS, &figures.collect::<Vec<_>>());
        std::fs::write(path_of_the_document(), text).unwrap();
    }
}

/// The negative control: overlaps, old tokens, leaks and empty runs are complaints.
#[test]
fn faults_in_a_history_are_found() {
    let overlap = |fixture: &mut Fixture| {
        let holds = [1, 2].map(|token| fixture.history().acquired_elsewhere("k", Some(token)));
        holds.iter().for_each(Hold::released);
    };
    let old_token = |fixture: &mut Fixture| {
        for token in [2, 1] {
            fixture.history().acquired_elsewhere("k", Some(token)).released();
        }
    };
    // Never released, so it is renewed for ever.
    let leak = |fixture: &mut Fixture| {
        let manager = fixture.manager(Duration::from_secs(1));
        std::mem::forget((fixture.hold(&manager, "k"), manager));
    };
    let nothing = |_: &mut Fixture| {};
    let cases: [(&str, Play); 4] =
        [("Overlap", overlap), ("Token", old_token), ("left on the server", leak), ("no hold", nothing)];
    for backend in table::BACKENDS {
        for (word, play) in cases {
            let mut fixture = Fixture::new(backend, false);
            play(&mut fixture);
            let complaint = fixture.finish().complaint().unwrap_or_default();
            assert!(complaint.contains(word), "{word} on {}: {complaint:?}", backend.name());
        }
    }
}

fn path_of_the_document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md")
}

/// The load average of the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The processors, their load, and the versions of the servers.
fn machine(load_before: &str) -> String {
    let first_line = |program: &str| {
        let output = Command::new(program).arg("--version").output().unwrap().stdout;
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
    };
    let etcd = first_line("etcd").replace("etcd Version: ", "etcd ");
    let redis = first_line("redis-server");
    let version = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default();
    let processors = std::thread::available_parallelism().unwrap();
    format!(
        "{processors} processors, Linux, with other work at the same time (load average {load_before} before the run, {} after it); \
         {etcd}, Redis {version}, on the same machine as their clients",
        load()
    )
}

#[test]
fn the_document_names_each_fault_for_each_backend() {
    let text = std::fs::read_to_string(path_of_the_document()).unwrap();
    let faults: Vec<_> = GROUPS.iter().flat_map(|(_, faults)| *faults).collect();
    for number in 1..=45 {
        assert!(faults.iter().any(|fault| fault.number == number), "fault {number} is not in the list");
    }
    for fault in faults {
        for (backend, _) in fault.cells().filter(|(_, cell)| matches!(cell, Cell::Run(_))) {
            let start = row_start(fault, backend);
            let is_measured = |line: &str| line.strip_prefix(&*start).is_some_and(|rest| rest.starts_with(' '));
            assert!(text.lines().any(is_measured), "no figures for {start}");
        }
        for row in rows_without_figures(fault) {
            assert!(text.lines().any(|line| line == row), "not there: {row}");
        }
    }
}
