//! Measures leasehold beside the bare clients and other libraries: `cargo run --release -p leasehold-benches -- --help`.
//!
//! Each measurement has a fresh server and a fresh process, in which one contender does the work of one row. The contenders of a row take
//! turns, so that the load of the machine is the same for all: only ratios of one run mean something.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

mod charts;
mod clients;
mod contenders;
mod cpu;
mod document;
mod external;
mod figures;
mod local;
mod machine;
mod measure;
mod options;
mod pairs;
mod processes;
mod rest;
mod rounds;
mod rows;
mod servers;
mod table;

use options::Options;
use rounds::Rounds;
use rows::Work;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

// As many workers as the machine has on which the figures of docs/performance.md were measured, or they would not be comparable.
#[tokio::main(worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(contender) = options.measure {
        let [row] = options.rows()?[..] else { return Err("one row is measured at a time".into()) };
        let server = options.server(contender, row);
        let sample = match row.work {
            Work::Processes { processes } if !options.turns => {
                processes::measure(processes, || options.command(contender, row, &server))?
            }
            _ => contender.measure(row, &server, options.time()).await?,
        };
        print!("{sample}");
        // There may be thousands of locks and waiters: nobody waits for their end.
        std::process::exit(0);
    }
    if options.list {
        options.rows()?.iter().for_each(|row| println!("{:18} {}", row.name, row.title));
        return Ok(ExitCode::SUCCESS);
    }
    let measured = Rounds::run(&options).await?;
    let text = document::section(&measured.rows, &options);
    println!("{text}");
    if let Some(folder) = &options.output {
        document::rewrite(&folder.join("performance.md"), &text)?;
        charts::write(&measured.rows, folder)?;
    }
    measured.failures.iter().for_each(|failure| eprintln!("{failure}"));
    Ok(if measured.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
