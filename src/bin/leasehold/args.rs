//! The arguments of the command line, and their help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, value_parser};
use clap_complete::Shell;

/// The environment variable for `--url`.
pub(crate) const URL: &str = "LEASEHOLD_URL";

/// Distributed locks on etcd and Redis, and locks of one machine in a directory.
///
/// Runs a command while holding a lock, lists held locks and their holders, and revokes locks of stuck holders. The locks are shared
/// with programs that use the library `leasehold` with the same URL, and with other clients that use the same keys.
///
/// Names from the server are shown with control characters escaped, and cut after 256 characters; --json prints them completely.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version)]
#[command(after_help = "\
Exit status:
  0    success
  1    who: the lock is free; doctor: something is wrong; force-unlock: not
       confirmed, or the lock has another holder by then
  123  failure, for example a server that does not answer
  125  wrong arguments, an invalid key, an invalid URL, something that
       the server or this build cannot do
  `run` has others, see `leasehold run --help`.")]
pub(crate) struct Args {
    /// The server of the locks: etcd://host:port or redis://host:port, or file:///directory, with the library's options.
    ///
    /// Without it the locks are in a directory of this account, /run/leasehold or ~/.local/state/leasehold, if the program was built
    /// with the feature `file`. For example etcd://user:password@10.0.0.1,10.0.0.2?prefix=jobs/&ttl=10s. Prefer the environment variable:
    /// arguments are visible to other users of the machine.
    #[arg(long, env = URL, hide_env_values = true, global = true)]
    pub(crate) url: Option<String>,

    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print where the locks are, and what `run` does with the lock.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Run),

    /// List the held locks.
    Ls {
        /// List only keys that begin with this.
        #[arg(default_value = "")]
        prefix: String,
    },

    /// Show the holder of a lock. Exits with 1 if the lock is free.
    Who {
        /// The key.
        key: String,
    },

    /// Print a line whenever the holder of a lock changes, until interrupted. Continues while the server does not answer.
    Watch {
        /// The key.
        key: String,
    },

    ForceUnlock(ForceUnlock),

    /// Examine the server, before locks depend on it. Exits with 1 if something is wrong.
    ///
    /// Asks the server for its version, its settings and its state, tries each right that locks need, and locks, which it removes. Each
    /// finding is ok, a note (locks work, with less than they could have) or wrong (they do not work, or will not when something else
    /// fails), with what to do. The last one is whether the TTL survives a failover. Nothing of the server is changed.
    Doctor,

    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        #[arg(value_parser = value_parser!(Shell))]
        shell: Shell,
    },

    /// Write the man pages into a directory.
    Man {
        /// The directory.
        #[arg(default_value = ".")]
        directory: PathBuf,
    },
}

/// Run a command while holding a lock.
///
/// Waits for the lock, runs the command, and releases the lock when the command has ended. The lock is renewed as long as the command
/// runs. While it waits, a line on standard error names the holder, and another one each next holder.
///
/// The command finds the key in LEASEHOLD_KEY and the fencing token in LEASEHOLD_TOKEN: pass the token to the resource that it
/// writes to, and let that refuse smaller ones. LEASEHOLD_URL is the URL in use. If that has a user or a password, LEASEHOLD_URL is empty
/// unless --keep-env is given.
///
/// If the lock is lost, the command and all its descendants receive SIGTERM, and SIGKILL if they have not ended after the grace
/// period (on other systems than Linux only its process group receives them, or only the command if it runs in a terminal). When
/// the command ends, the lock is released, even if processes that it started are still running: the command should wait for those
/// that need the lock.
///
/// If this program is killed, even by SIGKILL, the command is killed as well (on Linux), but not the processes that it has started, and
/// not a command that has changed its user or its capabilities, such as sudo.
///
/// INT, QUIT, TERM, HUP, USR1 and USR2 are forwarded to the command's process group, with CONT if it is stopped, except for signals that
/// were ignored at the start, as under nohup (on Linux). In a terminal the command stays in the process group of this program: it can
/// read the terminal, and receives ^C once. While both are stopped by ^Z, the lock is not renewed, and is lost after the TTL.
#[derive(Debug, Parser)]
#[command(after_help = "\
Exit status:
  that of the command, or 128 + n if signal n ended it
  120  the lock was lost while the command ran, without --again, or its
       release was not confirmed before the hold may have ended
  121  --try: another client holds the lock
  122  --timeout: another client held the lock until the timeout
  123  any other failure: the server does not answer, also while waiting,
       or refuses the password
  125  wrong arguments, also values such as --ttl 1ms, an invalid key, an
       invalid URL, something that the server or this build cannot do
  126  the command cannot be executed
  127  the command does not exist

Examples:
  a job in the crontab of many machines, whose clocks differ a little:
    leasehold run --try --at-least 30s nightly-report -- ./report.sh
  at most three downloads at a time:
    leasehold run --slots 3 downloads -- ./download.sh
  a service of which one instance works:
    leasehold run --again --value \"$(hostname)\" scheduler -- ./scheduler")]
pub(crate) struct Run {
    /// The key to lock: 1 to 1,024 bytes of UTF-8.
    pub(crate) key: String,

    /// Acquire the lock in shared mode.
    #[arg(long)]
    pub(crate) shared: bool,

    /// Acquire one of N slots: up to N clients with this option hold the lock at the same time.
    #[arg(long, value_name = "N", conflicts_with = "shared")]
    pub(crate) slots: Option<u32>,

    /// A text that is shown to others while the lock is held, such as an address: at most 1,024 bytes. Not for secrets.
    #[arg(long, value_name = "TEXT")]
    pub(crate) value: Option<String>,

    /// If the lock is lost, stop the command, wait for the lock again, and run the command again, instead of exiting with 120.
    #[arg(long, conflicts_with = "attempt")]
    pub(crate) again: bool,

    /// Do not wait: exit with 121 if another client holds the lock.
    #[arg(long = "try", conflicts_with = "timeout")]
    pub(crate) attempt: bool,

    /// The maximum wait, after which to exit with 122, or with 123 if the server does not answer. Connecting has a separate limit,
    /// the `timeout` of the URL.
    #[arg(long, value_parser = leasehold::parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// The TTL of the lease: how long the lock outlives this program if it is killed or cut off.
    #[arg(long, value_parser = leasehold::parse_duration)]
    pub(crate) ttl: Option<Duration>,

    /// The grace period between SIGTERM and SIGKILL when the lock is lost.
    #[arg(long, default_value = "5s", value_parser = leasehold::parse_duration)]
    pub(crate) grace: Duration,

    /// Hold the lock for this time at least, also if the command ends sooner.
    ///
    /// So a short job does not run on a second machine whose clock is behind. A signal or the loss of the lock ends that hold, also INT, QUIT,
    /// TERM and HUP while the command runs. The exit status is that of the command.
    #[arg(long, value_name = "DURATION", value_parser = leasehold::parse_duration)]
    pub(crate) at_least: Option<Duration>,

    /// Pass LEASEHOLD_URL to the command even if it contains a user or a password.
    #[arg(long)]
    pub(crate) keep_env: bool,

    /// Do not print who holds the lock while waiting.
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Revoke a lock from its holder. The last resort: the holder may be working.
///
/// Shows the holder and asks for confirmation. If another client holds the lock when the answer is given, nothing is revoked, and the
/// exit status is 1. On etcd this also releases all locks that the holder's manager holds with the same TTL.
#[derive(Debug, Parser)]
pub(crate) struct ForceUnlock {
    /// The key.
    pub(crate) key: String,

    /// Revoke only this key, and none of the holder's other locks.
    #[arg(long)]
    pub(crate) key_only: bool,

    /// Do not ask: revoke the lock from its current holder.
    #[arg(long, short)]
    pub(crate) yes: bool,
}
