//! Rounds in which the contenders of a row take turns.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;
use tokio::process::Command;

use crate::Result;
use crate::contenders::Contender;
use crate::figures::{Sample, Samples};
use crate::options::Options;
use crate::rows::{Row, Work};
use crate::servers::Started;

/// What a measurement takes beside its own time at most: to hold 100,000 locks, for one.
const PATIENCE: Duration = Duration::from_secs(120);

/// A measured row, with its contenders in their order.
pub struct Measured {
    pub row: &'static Row,
    pub results: Vec<(Contender, Samples)>,
}

impl Measured {
    /// The contender that the others are compared with.
    pub fn baseline(&self) -> &Samples {
        &self.results[0].1
    }
}

pub struct Rounds {
    pub rows: Vec<Measured>,
    pub failures: Vec<String>,
}

impl Rounds {
    pub async fn run(options: &Options) -> Result<Self> {
        let mut all = Self { rows: Vec::new(), failures: Vec::new() };
        let python = python();
        for row in options.rows()? {
            eprintln!("{}", row.title);
            let here = row.contenders.iter().filter(|contender| contender.python().is_none() || python.is_some());
            let mut results: Vec<_> = here.map(|contender| (*contender, Samples::default())).collect();
            for round in 0..options.rounds {
                // Each time another one is the first.
                for turn in 0..results.len() {
                    let at = (round + turn) % results.len();
                    let (contender, samples) = &mut results[at];
                    let sample = one(*contender, row, options, python.as_ref()).await.unwrap_or_else(|error| {
                        all.failures.push(format!("{}, {}: {error}", row.title, contender.name(row)));
                        Sample::default()
                    });
                    samples.0.push(sample);
                }
            }
            all.rows.push(Measured { row, results });
        }
        Ok(all)
    }
}

/// One measurement, on a fresh server, in a fresh process.
async fn one(contender: Contender, row: &Row, options: &Options, python: Option<&PathBuf>) -> Result<Sample> {
    let server = Started::new(row.store);
    let (address, process) = server.place();
    let seconds = options.time().as_secs_f64().to_string();
    let mut command = match (contender.python(), python) {
        (Some(library), Some(python)) => {
            let (keys, processes, threads) = threads(row.work)?;
            let port = address.rsplit(':').next().unwrap_or_default().to_owned();
            let mut command = Command::new(python);
            command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/src/python-locks.py"), library, &port]);
            command.args([&process.to_string(), keys, &processes.to_string(), &threads.to_string(), &seconds]);
            command
        }
        _ => {
            let name = contender.to_possible_value().ok_or("no name")?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["--measure", name.get_name(), "--address", &address, "--process", &process.to_string()]);
            command.args(["--seconds", &seconds, row.name]);
            command
        }
    };
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(options.time() * 2 + PATIENCE, output).await.map_err(|_| "it takes too long")??;
    if !output.status.success() {
        return Err(format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    String::from_utf8(output.stdout)?.parse()
}

/// The keys, processes and threads of the Python clients.
fn threads(work: Work) -> Result<(&'static str, usize, usize)> {
    match work {
        Work::OwnKeys { tasks } => Ok(("own", 1, tasks)),
        Work::OneKey { clients, tasks } => Ok(("one", clients, tasks)),
        _ => Err("not with Python".into()),
    }
}

/// In cargo's target directory: this is target/release/leasehold-benches.
fn python() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    Some(this.ancestors().nth(2)?.join("python/bin/python")).filter(|python| python.exists())
}
