//! How the program ends.

use std::error::Error;
use std::fmt::Display;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};

/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 120;
/// Somebody else holds the lock.
pub(crate) const BUSY: u8 = 121;
/// The lock was not free in time.
pub(crate) const TIMEOUT: u8 = 122;
/// Anything else that went wrong.
pub(crate) const FAILED: u8 = 123;
/// The command cannot be run.
pub(crate) const NOT_RUNNABLE: u8 = 126;
/// There is no such command.
pub(crate) const NOT_FOUND: u8 = 127;

/// The exit status, or what is told before [`FAILED`].
pub(crate) type Ended = Result<u8, Box<dyn Error>>;

/// Tells what went wrong.
pub(crate) fn say(what: impl Display) {
    eprintln!("leasehold: {what}");
}

/// Reports what went wrong on a separate thread: standard error may be a pipe that is full, and a command has to be stopped
/// meanwhile.
pub(crate) fn say_aside(what: String) -> Report {
    Report(thread::Builder::new().spawn(move || say(what)).ok())
}

/// A report that is being written.
#[derive(Debug)]
pub(crate) struct Report(Option<JoinHandle<()>>);

impl Report {
    /// Waits until it is written.
    pub(crate) fn join(self) {
        if let Some(thread) = self.0 {
            let _ = thread.join();
        }
    }
}

pub(crate) fn failed(error: impl Display) -> ExitCode {
    say(error);
    ExitCode::from(FAILED)
}
