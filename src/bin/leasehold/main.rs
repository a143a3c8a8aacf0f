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
mod json;
mod launcher;
mod man;
mod processes;
mod run;
mod show;
mod signals;
mod table;
mod url;
mod waiting;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use leasehold::{LockManager, Printable};

use self::args::{Args, Command, URL};
use self::exit::{Ended, USAGE, failed, print, say};

fn main() -> ExitCode {
    if let Some(code) = launcher::launch() {
        return ExitCode::from(code);
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Also prints the help and the version.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    // All on the main thread, as the launcher requires: a command is killed when the thread that has started it ends.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ExitCode::from(failed(&error)),
    };
    ExitCode::from(runtime.block_on(command(args)).unwrap_or_else(|error| failed(&*error)))
}

async fn command(args: Args) -> Ended {
    match args.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "leasehold", &mut script);
            print(String::from_utf8(script)?.trim_end())?;
            return Ok(0);
        }
        Command::Man { directory } => return man::write(&directory),
        _ => {}
    }
    if args.url.as_deref() == Some("") {
        say(format_args!(
            "{URL} is empty: `leasehold run` passes a URL with a user or a password only with --keep-env"
        ));
        return Ok(USAGE);
    }
    let Some(url) = args.url.clone().or_else(directory::url) else {
        say(format_args!("no server: set --url or {URL}"));
        return Ok(USAGE);
    };
    if args.verbose
        && let Some(place) = url::without_account(&url)
    {
        say(format_args!("the locks are at {}", Printable(&place)));
    }
    if let Command::Doctor = args.command {
        return doctor::report(&url, args.json).await;
    }
    let manager = LockManager::connect(&url).await?;
    let ended = match args.command {
        Command::Run(run) => run::run(&manager, run, args.url.as_deref(), args.verbose).await,
        Command::Ls { prefix } => show::list(&manager, &prefix, args.json).await,
        Command::Who { key } => show::who(&manager, &key, args.json).await,
        Command::Watch { key } => show::watch(&manager, &key, args.json).await,
        Command::ForceUnlock(force) => force::unlock(&manager, force, args.json).await,
        Command::Doctor | Command::Completions { .. } | Command::Man { .. } => Ok(0),
    };
    // A lock that could not be released now expires after its TTL.
    let _ = manager.close().await;
    ended
}
