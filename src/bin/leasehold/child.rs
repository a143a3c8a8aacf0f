//! The command that runs under a lock, and the processes it has started.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpgrp, kill_process, kill_process_group, test_kill_process_group, wait,
};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::timeout;

use super::exit::say_aside;
use super::processes::{self, Process};
use super::signals::Received;

/// The interval at which the processes are listed while they are being stopped: the end of one is not always signalled.
const TICK: Duration = Duration::from_millis(20);

/// The processes that receive a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The command, and what is in its process group.
    Group,
    /// The command and all its descendants.
    All,
}

/// A command that has been started.
///
/// With a controlling terminal it stays in this program's process group, so that the shell's job control applies to both: it may
/// read the terminal when this program may, and the keyboard's signals reach it. Without one it gets a separate group.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    group: Pid,
    /// Whether the group is separate from this program's.
    separate: bool,
    /// Children that this process had already, before an `exec`.
    others: HashSet<Pid>,
    status: Option<ExitStatus>,
    changes: unix::Signal,
}

impl Child {
    /// Starts the command. On the main thread, see [`launcher`](super::launcher).
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let changes = unix::signal(SignalKind::child())?;
        processes::adopt_orphans();
        let others = processes::descendants(&HashSet::new()).into_iter().map(|process| process.pid).collect();
        let separate = File::open("/dev/tty").is_err();
        if separate {
            command.process_group(0);
        }
        let pid = Pid::from_child(&command.spawn()?);
        let group = if separate { pid } else { getpgrp() };
        Ok(Self { pid, group, separate, others, status: None, changes })
    }

    /// Waits until the command has ended. Processes that it has started may continue.
    ///
    /// Cancel safe.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            self.reap()?;
            if let Some(status) = self.status {
                return Ok(status);
            }
            self.changes.recv().await;
        }
    }

    /// Passes a signal on to the process group of the command, and continues what is stopped so that the signal has its effect.
    pub(crate) fn forward(&self, received: Received) {
        // The terminal has sent it to the command as well.
        if received.typed && !self.separate {
            return;
        }
        self.send(received.signal, Scope::Group);
        self.send(Signal::CONT, Scope::Group);
    }

    /// Ends the command and all its descendants: SIGTERM, and SIGKILL for those that have not ended after `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) -> io::Result<()> {
        self.send(Signal::TERM, Scope::All);
        self.send(Signal::CONT, Scope::All);
        if let Ok(over) = timeout(grace, self.over()).await {
            return over;
        }
        // Repeated: a process may be started while the others are listed.
        let mut reached = self.send(Signal::KILL, Scope::All);
        let report = say_aside("the command has not ended within the grace period, killing it".to_owned());
        loop {
            if let Ok(over) = timeout(TICK, self.over()).await {
                over?;
                break;
            }
            if !reached {
                return Err(io::Error::other(
                    "processes started by the command cannot be killed: they belong to another user",
                ));
            }
            reached = self.send(Signal::KILL, Scope::All);
        }
        report.join();
        Ok(())
    }

    /// Waits until the command and all its descendants have ended.
    async fn over(&mut self) -> io::Result<()> {
        loop {
            self.reap()?;
            let group_is_empty = !self.separate || test_kill_process_group(self.group).is_err();
            if self.status.is_some() && group_is_empty && self.descendants().is_empty() {
                return Ok(());
            }
            let _ = timeout(TICK, self.changes.recv()).await;
        }
    }

    fn descendants(&self) -> Vec<Process> {
        processes::descendants(&self.others)
    }

    /// Sends a signal. Returns whether a process has received it.
    fn send(&self, signal: Signal, scope: Scope) -> bool {
        // Processes may have ended just now.
        let mut reached = if self.separate {
            kill_process_group(self.group, signal).is_ok()
        } else {
            self.status.is_none() && kill_process(self.pid, signal).is_ok()
        };
        for process in self.descendants() {
            let in_group = process.group == Some(self.group);
            let has_it = process.pid == self.pid || self.separate && in_group;
            if !has_it && (in_group || scope == Scope::All) {
                reached |= kill_process(process.pid, signal).is_ok();
            }
        }
        reached
    }

    /// Collects the exit statuses of the command and of orphans.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => self.status = Some(ExitStatus::from_raw(status.as_raw())),
                Ok(Some((pid, _))) => _ = self.others.remove(&pid),
                Err(Errno::CHILD) if self.status.is_none() => return Err(Errno::CHILD.into()),
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
