//! `leasehold run`: a command under a lock.

use std::io::{ErrorKind, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use leasehold::{LockError, LockGuard, LockManager};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use super::args::Run;
use super::exit::{self, Ended, say};
use super::signals::{Signals, is_from_keyboard, status};

pub(crate) async fn run(manager: &LockManager, args: Run) -> Ended {
    let mut signals = Signals::listen()?;
    let guard = tokio::select! {
        biased;
        signal = signals.next() => return Ok(status(signal.as_raw())),
        acquired = acquire(manager, &args) => match acquired {
            Ok(Some(guard)) => guard,
            Ok(None) => {
                say(format_args!("{}: somebody else holds the lock", args.key));
                return Ok(exit::BUSY);
            }
            Err(error @ LockError::Timeout { .. }) => {
                say(error);
                return Ok(exit::TIMEOUT);
            }
            Err(error) => return Err(error.into()),
        },
    };
    let mut running = match Running::start(&args, &guard) {
        Ok(running) => running,
        Err(error) => {
            say(format_args!("{}: {error}", args.command[0].display()));
            return Ok(if error.kind() == ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_RUNNABLE });
        }
    };
    let ended = loop {
        tokio::select! {
            biased;
            cause = guard.lost() => {
                say(format_args!("{}: the lock is lost ({cause}), stopping the command", args.key));
                running.stop(args.grace).await?;
                return Ok(exit::LOST);
            }
            ended = running.child.wait() => break ended?,
            signal = signals.next() => running.forward(signal),
        }
    };
    match guard.unlock().await {
        Ok(()) => {}
        Err(error @ LockError::Expired { .. }) => {
            say(error);
            return Ok(exit::LOST);
        }
        // The command has done its work under the lock, which expires by itself.
        Err(error) => say(error),
    }
    Ok(code(ended))
}

async fn acquire(manager: &LockManager, args: &Run) -> leasehold::Result<Option<LockGuard>> {
    let mut request = manager.lock(&args.key);
    if args.shared {
        request = request.shared();
    }
    if let Some(ttl) = args.ttl {
        request = request.ttl(ttl);
    }
    if let Some(timeout) = args.timeout {
        request = request.timeout(timeout);
    }
    if args.attempt { request.try_once().await } else { request.await.map(Some) }
}

fn code(ended: ExitStatus) -> u8 {
    match (ended.code(), ended.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => status(signal),
        (None, None) => exit::FAILED,
    }
}

/// The command, and all that it has started.
struct Running {
    child: Child,
    /// Whether it has a process group of its own. In a terminal it has not: only ours may use the keyboard.
    grouped: bool,
}

impl Running {
    fn start(args: &Run, guard: &LockGuard) -> std::io::Result<Self> {
        let grouped = !std::io::stdin().is_terminal();
        let (program, arguments) = args.command.split_first().ok_or(ErrorKind::NotFound)?;
        let mut command = Command::new(program);
        command.args(arguments);
        command.env("LEASEHOLD_KEY", guard.key()).env("LEASEHOLD_TOKEN", guard.token().to_string());
        if grouped {
            command.process_group(0);
        }
        Ok(Self { child: command.spawn()?, grouped })
    }

    fn forward(&self, signal: Signal) {
        if self.grouped || !is_from_keyboard(signal) {
            self.send(signal);
        }
    }

    fn send(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may have ended just now.
            let _ = if self.grouped { kill_process_group(id, signal) } else { kill_process(id, signal) };
        }
    }

    /// Ends it, politely at first.
    async fn stop(&mut self, grace: std::time::Duration) -> std::io::Result<()> {
        self.send(Signal::TERM);
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            say("the command goes on, killing it");
            self.send(Signal::KILL);
            self.child.wait().await?;
        }
        Ok(())
    }
}
