//! The launcher: this program, started again, which becomes the command and is killed when the program that started it dies.
//!
//! The kernel takes a request for a signal at the death of its parent from the process itself only, so the command cannot be started
//! directly: between the fork and the command there must be code that asks.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Signal, getpid};

use super::exit::{self, unrunnable};

/// The first argument of a launcher. It is followed by the process id of its parent and by the command.
const MARK: &str = "--become-the-command-of";

/// The file of this program, also after it was replaced or removed.
const THIS: &str = "/proc/self/exe";

/// Returns what starts a program by a launcher, or directly on other systems than Linux and without /proc.
///
/// To be spawned by the main thread: the kernel sends the signal when the *thread* that has started the launcher ends.
pub(crate) fn command(program: &OsStr) -> Command {
    if cfg!(target_os = "linux") && Path::new(THIS).exists() {
        let mut command = Command::new(THIS);
        command.arg0("leasehold").args([MARK, &getpid().to_string()]).arg(program);
        return command;
    }
    Command::new(program)
}

/// Becomes the command if this process is a launcher. Returns its exit status if that is not possible, and nothing if it is none.
pub(crate) fn launch() -> Option<u8> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    let (Some(parent), Some(program)) = (arguments.next(), arguments.next()) else { return Some(exit::USAGE) };
    let error = match die_with(&parent) {
        Ok(()) => Command::new(&program).args(arguments).exec(),
        Err(error) => error,
    };
    // The attempt has reset this signal, which would end the launcher where standard error is closed.
    let _ = signal_hook::flag::register(Signal::PIPE.as_raw(), Arc::default());
    Some(unrunnable(&program, &error))
}

/// Asks for SIGKILL at the death of the parent. Not SIGTERM: nobody would be left to send SIGKILL later, and others may acquire the lock.
#[cfg(target_os = "linux")]
fn die_with(parent: &OsStr) -> io::Result<()> {
    use rustix::process::{getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before. The parent of a process that is the first in its pid namespace is not shown.
    match getppid() {
        Some(now) if *now.to_string() != *parent => Err(io::Error::other("the program that started it has ended")),
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: &OsStr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
