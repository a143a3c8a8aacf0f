//! Output and exit statuses.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::thread::{self, JoinHandle};

use leasehold::LockError;

/// The lock was lost while the command ran.
pub(crate) const LOST: u8 = 120;
/// Another client holds the lock.
pub(crate) const BUSY: u8 = 121;
/// The lock was not free in time.
pub(crate) const TIMEOUT: u8 = 122;
/// Any other failure.
pub(crate) const FAILED: u8 = 123;
/// The arguments are wrong or not supported, or the URL is. GNU's timeout and env have the same.
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
    /// Whether it is printed.
    pub(crate) fn is_printed(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it is printed.
    pub(crate) fn join(self) {
        if let Some(thread) = self.0 {
            let _ = thread.join();
        }
    }
}

/// Reports an error, and returns its exit status.
pub(crate) fn failed(error: &(dyn Error + 'static)) -> u8 {
    say(error);
    match error.downcast_ref() {
        Some(LockError::InvalidKey { .. } | LockError::InvalidConfig { .. } | LockError::Unsupported { .. }) => USAGE,
        _ => FAILED,
    }
}

/// Reports that a command cannot be run, and returns the exit status.
pub(crate) fn unrunnable(program: &OsStr, error: &io::Error) -> u8 {
    say(format_args!("{}: {error}", program.display()));
    if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUNNABLE }
}
