//! The command line.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Parser, Subcommand, value_parser};
use clap_complete::Shell;

/// The environment's word for `--url`.
pub(crate) const URL: &str = "LEASEHOLD_URL";

/// Distributed locks on etcd and Redis.
///
/// Holds a lock around a command, shows who holds what, and takes locks away from holders that hang. The locks are those of
/// programs that use the library `leasehold` with the same URL, and of other clients that use the same keys.
#[derive(Debug, Parser)]
#[command(name = "leasehold", version)]
#[command(after_help = "\
Exit status: 0, 1 if `who` finds the lock free or `force-unlock` takes nothing from its holder, 123 if something goes wrong, 125 if the
arguments are wrong; `run --help` shows those of `run`. Names from the server are shown with control characters escaped, and end after
256 characters; --json has all of them.")]
pub(crate) struct Args {
    /// Where the locks are: etcd://host:port, redis://host:port, with the options of the library.
    ///
    /// For example etcd://user:password@10.0.0.1,10.0.0.2?prefix=jobs/&ttl=10s. Better in the environment than in `ps`.
    #[arg(long, env = URL, hide_env_values = true, global = true)]
    pub(crate) url: Option<String>,

    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Run),

    /// List the locks that are held.
    Ls {
        /// Only keys that begin with this.
        #[arg(default_value = "")]
        prefix: String,
    },

    /// Show who holds a lock. Exits with 1 if nobody does.
    Who {
        /// What is locked.
        key: String,
    },

    /// Print a line whenever the holder of a lock changes, until interrupted. Goes on while the server does not answer.
    Watch {
        /// What is locked.
        key: String,
        /// How often to look.
        #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
        interval: Duration,
    },

    ForceUnlock(ForceUnlock),

    /// Print a script that completes this command's words in a shell.
    Completions {
        /// Which shell.
        #[arg(value_parser = value_parser!(Shell))]
        shell: Shell,
    },
}

/// Run a command while holding a lock.
///
/// Waits for the lock, runs the command, and releases the lock when that has ended. The command finds the key in LEASEHOLD_KEY and
/// the fencing token in LEASEHOLD_TOKEN: give the token to what it writes to, and let that refuse smaller ones. It does not find
/// LEASEHOLD_URL, which may have a password. The lock is renewed for as long as the command runs.
///
/// If the lock is lost, the command and all its descendants get SIGTERM, and SIGKILL if they have not ended after the grace (on
/// Linux; elsewhere only its process group, or the command alone in a terminal). When the command ends, the lock is released, even if
/// it leaves processes in the background: let it wait for those that need the lock.
///
/// INT, QUIT, TERM, HUP, USR1 and USR2 are passed on to the command's process group, with CONT for what is stopped, except for those
/// that were ignored at the start, as under nohup (on Linux). In a terminal the command stays in the process group of this program:
/// it may read the terminal, and what is typed reaches it once. While both are stopped by ^Z, the lock is not renewed, and is lost
/// after the TTL.
#[derive(Debug, Parser)]
#[command(after_help = "\
Exit status:
  that of the command, 128 + n if signal n ended it
  120  the lock was lost while the command ran
  121  --try: somebody else holds the lock
  122  --timeout: somebody else held the lock all the time
  123  anything else: no server, also while it waited, a wrong password, a wrong key
  125  wrong arguments
  126  the command cannot be run, 127 there is no such command

Example, for a job that many machines have in their crontab:
  leasehold run --try nightly-report -- ./report.sh")]
pub(crate) struct Run {
    /// What to lock: 1 to 1,024 bytes of UTF-8.
    pub(crate) key: String,

    /// Hold it together with others that share it.
    #[arg(long)]
    pub(crate) shared: bool,

    /// Do not wait: exit with 121 if somebody else holds it.
    #[arg(long = "try", conflicts_with = "timeout")]
    pub(crate) attempt: bool,

    /// Wait no longer than this, then exit with 122, or with 123 if the server does not answer.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// How long the lock outlives this program if it is killed or cut off.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) ttl: Option<Duration>,

    /// How long the command has between SIGTERM and SIGKILL when the lock is lost.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) grace: Duration,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Take a lock away from whoever holds it. The last resort: the holder may be at work.
///
/// Shows the holder and asks. If another holds the lock when the answer is given, it is left alone, and the exit status is 1. On etcd
/// all locks go that the holder's manager holds with the same TTL.
#[derive(Debug, Parser)]
pub(crate) struct ForceUnlock {
    /// What is locked.
    pub(crate) key: String,

    /// Take just this key, nothing else of the holder's.
    #[arg(long)]
    pub(crate) key_only: bool,

    /// Do not ask: take it from whatever holds it now.
    #[arg(long, short)]
    pub(crate) yes: bool,
}
