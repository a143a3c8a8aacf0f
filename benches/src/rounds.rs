//! Rounds in which the contenders of a row take turns.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::Result;
use crate::contenders::Contender;
use crate::external::Programs;
use crate::figures::{Sample, Samples};
use crate::options::Options;
use crate::rows::Row;
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
        let programs = Programs::find();
        for row in options.rows()? {
            eprintln!("{}", row.title);
            let here = row.contenders.iter().filter(|contender| programs.can_run(**contender));
            let mut results: Vec<_> = here.map(|contender| (*contender, Samples::default())).collect();
            for round in 0..options.rounds {
                // Each time another one is the first.
                for turn in 0..results.len() {
                    let at = (round + turn) % results.len();
                    let (contender, samples) = &mut results[at];
                    let sample = one(*contender, row, options, &programs).await.unwrap_or_else(|error| {
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

/// One measurement, on a fresh server or cluster, in a fresh process.
async fn one(contender: Contender, row: &Row, options: &Options, programs: &Programs) -> Result<Sample> {
    let started = Started::new(contender.store(row));
    let server = started.server();
    let command = match programs.command(contender, row.work, &server, options.time()) {
        Some(command) => command,
        None => options.command(contender, row, &server)?,
    };
    let output = Command::from(command).stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(options.time() * 2 + PATIENCE, output).await.map_err(|_| "it takes too long")??;
    if !output.status.success() {
        return Err(format!("{}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    String::from_utf8(output.stdout)?.parse()
}
