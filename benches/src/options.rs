//! The command line.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::ValueEnum;

use crate::Result;
use crate::contenders::Contender;
use crate::rows::{ROWS, Row};
use crate::servers::Server;

/// Measures leasehold beside the bare clients and other libraries, and prints Markdown tables.
///
/// redis-server and etcd have to be installed, they are started on free ports. The Python clients take part if `bash tests/run.sh
/// --install-only` has installed them.
#[derive(clap::Parser)]
pub struct Options {
    /// Rows to measure, by name or by the start of their names; all if none is given
    rows: Vec<String>,
    /// Duration of a measurement in seconds; what is measured at rest takes 10 s
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Measurements of each contender of a row, of which the median counts
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Write the charts to this folder, and the tables to its performance.md
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Print the names of the rows
    #[arg(long)]
    pub list: bool,
    /// Only this contender, in this process, with the server of the next two options
    #[arg(long, hide = true, requires = "address")]
    pub measure: Option<Contender>,
    #[arg(long, hide = true)]
    address: Option<String>,
    #[arg(long, hide = true)]
    process: Vec<u32>,
    /// As one of the processes of a row
    #[arg(long, hide = true)]
    pub turns: bool,
}

impl Options {
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The wanted rows.
    pub fn rows(&self) -> Result<Vec<&'static Row>> {
        if self.rows.is_empty() {
            return Ok(ROWS.iter().collect());
        }
        let mut found = Vec::new();
        for name in &self.rows {
            let before = found.len();
            match Row::named(name) {
                Some(row) => found.push(row),
                None => found.extend(ROWS.iter().filter(|row| row.name.starts_with(name))),
            }
            if found.len() == before {
                return Err(format!("there is no row {name}: --list prints their names").into());
            }
        }
        Ok(found)
    }

    /// The server of a single measurement.
    pub fn server(&self, contender: Contender, row: &Row) -> Server {
        Server::new(contender.store(row), self.address.clone().unwrap_or_default(), self.process.clone())
    }

    /// The command of a single measurement, which has the options above.
    pub fn command(&self, contender: Contender, row: &Row, server: &Server) -> Result<Command> {
        let name = contender.to_possible_value().ok_or("it has no name")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--measure", name.get_name(), "--address", &server.address]);
        command.args(server.processes.iter().map(|process| format!("--process={process}")));
        command.args(["--seconds", &self.seconds.to_string(), row.name]);
        Ok(command)
    }
}
