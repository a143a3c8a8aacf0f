//! A list of faults, each on every backend where it exists: nobody believes in a lock that another has, losses are reported in time,
//! and nothing is left on the server. docs/faults.md is the result of a whole run.
//!
//! Without more, each fault is tried once, many at a time. `LEASEHOLD_FAULTS=full` tries each many times, one after another, and
//! writes the document; `LEASEHOLD_FAULTS=13,14` does so with some of them, and prints the rows.
#![cfg(all(feature = "etcd", feature = "redis", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod api;
mod client;
mod etcd;
#[path = "../support/grpc.rs"]
mod grpc;
mod network;
mod redis;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod world;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use table::{Backend, Cell, Fault, Figures, document, row_start, rows_without_figures};
use world::World;

const GROUPS: [(&str, &[Fault]); 5] = [
    ("Clients", client::FAULTS),
    ("etcd", etcd::FAULTS),
    ("Redis", redis::FAULTS),
    ("The network", network::FAULTS),
    ("Calls", api::FAULTS),
];

/// How many faults are tried at a time: most of them wait for a lease to end.
const LANES: usize = 6;

type Play = (&'static Fault, Backend, fn(&mut World));

fn plays() -> impl Iterator<Item = Play> {
    let faults = GROUPS.iter().flat_map(|(_, faults)| *faults);
    faults.flat_map(|fault| {
        fault.cells().filter_map(move |(backend, cell)| match cell {
            Cell::Run(play) => Some((fault, backend, *play)),
            Cell::Absent(_) | Cell::Unmeasured => None,
        })
    })
}

/// Tries one. What is wrong is the error.
fn run((fault, backend, play): Play, full: bool) -> Result<Figures, String> {
    let start = Instant::now();
    let figures = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(backend, full);
        play(&mut world);
        world.finish()
    }));
    let start_of_row = row_start(fault, backend);
    let Ok(figures) = figures else { return Err(format!("{start_of_row} panicked")) };
    println!("{start_of_row} {} | {:.1?}", figures.columns(), start.elapsed());
    match figures.complaint() {
        Some(complaint) => Err(format!("{start_of_row} {complaint}")),
        None => Ok(figures),
    }
}

#[test]
fn each_fault_is_survived() {
    let wish = std::env::var("LEASEHOLD_FAULTS").ok();
    let numbers: Option<Vec<u32>> = wish.as_ref().filter(|wish| *wish != "full").map(|wish| {
        let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("LEASEHOLD_FAULTS: {word:?} is no number"));
        wish.split(',').map(number).collect()
    });
    let chosen = |(fault, ..): &Play| numbers.as_ref().is_none_or(|numbers| numbers.contains(&fault.number));
    let (order, mut complaints): (Vec<_>, Vec<_>) = (plays().filter(chosen).collect(), Vec::new());
    let mut figures = Vec::new();
    if wish.is_some() {
        for play in order {
            match run(play, true) {
                Ok(shown) => figures.push((play.0, play.1, shown)),
                Err(complaint) => complaints.push(complaint),
            }
        }
    } else {
        let (queue, found) = (Mutex::new(VecDeque::from(order)), Mutex::new(&mut complaints));
        let next = || queue.lock().unwrap().pop_front();
        std::thread::scope(|scope| {
            for _ in 0..LANES {
                scope.spawn(|| {
                    while let Some(play) = next() {
                        if let Err(complaint) = run(play, false) {
                            found.lock().unwrap().push(complaint);
                        }
                    }
                });
            }
        });
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    if wish.is_some_and(|wish| wish == "full") {
        std::fs::write(path_of_the_document(), document(&machine(), &GROUPS, &figures)).unwrap();
    }
}

fn path_of_the_document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md")
}

/// The processors and the versions of the servers.
fn machine() -> String {
    let first_line = |program: &str| {
        let output = Command::new(program).arg("--version").output().unwrap().stdout;
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
    };
    let etcd = first_line("etcd").replace("etcd Version: ", "etcd ");
    let redis = first_line("redis-server");
    let version = redis.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default();
    let processors = std::thread::available_parallelism().unwrap();
    format!("{processors} processors, Linux; {etcd}, Redis {version}, each on the same machine as its clients")
}
