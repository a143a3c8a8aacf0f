//! Contenders that are programs in other languages. They print their figures as this program does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::contenders::Contender;
use crate::rows::Work;
use crate::servers::Server;

/// What is installed.
pub struct Programs {
    /// The interpreter of the environment that `tests/run.sh` makes.
    python: Option<PathBuf>,
    go: Option<PathBuf>,
}

impl Programs {
    pub fn find() -> Self {
        // In cargo's target directory: this is target/release/leasehold-benches.
        let this = std::env::current_exe().unwrap_or_default();
        let target = this.ancestors().nth(2).unwrap_or(Path::new(""));
        let python = Some(target.join("python/bin/python")).filter(|python| python.exists());
        Self { python, go: built(target.join("go-locks")) }
    }

    /// Whether a contender takes part.
    pub fn can_run(&self, contender: Contender) -> bool {
        match contender {
            Contender::RedisPy | Contender::PythonRedisLock | Contender::Filelock => self.python.is_some(),
            Contender::GoMutex => self.go.is_some(),
            _ => true,
        }
    }

    /// The command that does the work, of a contender that is no Rust.
    pub fn command(&self, contender: Contender, work: Work, server: &Server, time: Duration) -> Option<Command> {
        let mut command = match contender {
            Contender::RedisPy => self.python("redis-py"),
            Contender::PythonRedisLock => self.python("python-redis-lock"),
            Contender::Filelock => self.python("filelock"),
            Contender::GoMutex => self.go.as_ref().map(Command::new),
            _ => None,
        }?;
        let (keys, clients, tasks) = match work {
            Work::OwnKeys { tasks } => ("own", 1, tasks),
            Work::OneKey { clients, tasks } => ("one", clients, tasks),
            Work::Processes { processes } => ("one", processes, 1),
            _ => return None,
        };
        let process = server.processes.first().map_or_else(|| "-".to_owned(), u32::to_string);
        command.args([&server.address, &process, keys]);
        command.args([clients.to_string(), tasks.to_string(), time.as_secs_f64().to_string()]);
        Some(command)
    }

    fn python(&self, library: &str) -> Option<Command> {
        let mut command = Command::new(self.python.as_ref()?);
        command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/src/python-locks.py"), library]);
        Some(command)
    }
}

/// Builds the Go program, if Go and etcd's client are installed as packages of Debian: golang-go and golang-etcd-server-dev.
fn built(program: PathBuf) -> Option<PathBuf> {
    let mut go = Command::new("go");
    go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").args(["build", "-o"]).arg(&program);
    go.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/go-locks.go")).stderr(Stdio::null());
    go.status().is_ok_and(|status| status.success()).then_some(program)
}
