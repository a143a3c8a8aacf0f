//! `leasehold`: locks for shell scripts and cron jobs, and lists of held locks and their holders.

#[cfg(not(unix))]
compile_error!(
    "the program `leasehold` is for Unix: it passes signals on and manages process groups; build without the feature `cli`"
);

mod args;
mod child;
mod directory;
mod doctor;
mod exit;
mod force;
mod processes;
mod run;
mod show;
mod signals;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use leasehold::LockManager;

use self::args::{Args, Command};
use self::exit::{Ended, USAGE, failed, print};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Also prints the help and the version.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(error),
    };
    match runtime.block_on(command(args)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(error),
    }
}

/// A URL without the user, the password and the options, which may have one.
fn without_account(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

async fn command(args: Args) -> Ended {
    if let Command::Completions { shell } = args.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "leasehold", &mut script);
        print(String::from_utf8(script)?.trim_end())?;
        return Ok(0);
    }
    let url = args.url.or_else(directory::url).ok_or("no server: set --url or LEASEHOLD_URL")?;
    if args.verbose {
        eprintln!("leasehold: the locks are at {}", without_account(&url));
    }
    if let Command::Doctor = args.command {
        return doctor::report(&url, args.json).await;
    }
    let manager = LockManager::connect(&url).await?;
    let ended = match args.command {
        Command::Run(run) => run::run(&manager, run).await,
        Command::Ls { prefix } => show::list(&manager, &prefix, args.json).await,
        Command::Who { key } => show::who(&manager, &key, args.json).await,
        Command::Watch { key } => show::watch(&manager, &key, args.json).await,
        Command::ForceUnlock(force) => force::unlock(&manager, force, args.json).await,
        Command::Doctor | Command::Completions { .. } => Ok(0),
    };
    // A lock that could not be released now expires after its TTL.
    let _ = manager.close().await;
    ended
}
