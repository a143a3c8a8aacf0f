//! Output and exit statuses.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::thread::{self, JoinHandle};

/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 120;
/// Another client holds the lock.
pub(crate) const BUSY: u8 = 121;
/// The lock was not free in time.
pub(crate) const TIMEOUT: u8 = 122;
/// Any other failure.
pub(crate) const FAILED: u8 = 123;
/// The arguments are wrong. GNU's timeout and env have the same.
pub(crate) const USAGE: u8 = 125;
/// The command cannot be run.
pub(crate) const NOT_RUNNABLE: u8 = 126;
/// There is no such command.
pub(crate) const NOT_FOUND: u8 = 127;

/// The exit status, or the error to print before [`FAILED`].
pub(crate) type Ended = Result<u8, Box<dyn Error>>;

/// Prints lines. Returns false if standard output is closed, by `head` for example.
pub(crate) fn print(lines: impl Display) -> io::Result<bool> {
    match writeln!(io::stdout(), "{lines}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true),
    }
}

/// Prints a message on standard error, if that is still open.
pub(crate) fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "leasehold: {what}");
}

/// Prints a message on a separate thread: standard error may be a pipe that is full, and a command has to be stopped meanwhile.
pub(crate) fn say_aside(what: String) -> Report {
    Report(thread::Builder::new().spawn(move || say(what)).ok())
}

/// A message that is being printed.
#[derive(Debug)]
pub(crate) struct Report(Option<JoinHandle<()>>);

impl Report {
    /// Waits until it is printed.
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
