//! Real Redis servers, each on a free port and a socket in a temporary folder.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::folder::Folder;
use super::ports::free_port;
use super::process::Process;

/// A server. It is killed, and its data removed, when this is dropped.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    folder: Folder,
    /// The program that runs it, with arguments, unless it runs by itself.
    within: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    address: SocketAddr,
}

impl Redis {
    /// Starts a server without persistence.
    ///
    /// # Panics
    ///
    /// If it cannot, with the server's log.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments, which override the default ones.
    pub fn start_with(more: &[&str]) -> Self {
        Self::start_in(&Place::default(), more, |_| Vec::new())
    }

    /// Starts a server at another address than that of this machine, by nsenter with these arguments if there are any.
    pub fn start_at(address: Ipv4Addr, nsenter: &[String], more: &[&str]) -> Self {
        let within = if nsenter.is_empty() { Vec::new() } else { [&["nsenter".to_owned()], nsenter].concat() };
        Self::start_in(&Place { address, within }, more, |_| Vec::new())
    }

    /// Starts a server whose clock can be [set](Self::set_clock).
    pub fn start_with_clock() -> Self {
        Self::start_with_clock_and(&[])
    }

    /// The same, with more arguments.
    pub fn start_with_clock_and(more: &[&str]) -> Self {
        let printed = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output();
        let library = printed.unwrap_or_else(|error| panic!("cannot run faketime: {error}")).stdout;
        let library = String::from_utf8_lossy(&library).trim().to_owned();
        Self::start_in(&Place::default(), more, |folder| {
            without_jemalloc(folder);
            set_clock(folder, Duration::ZERO);
            let (clock, folder) = (clock(folder).display().to_string(), folder.path().display().to_string());
            // The file is read at each clock call; only the time of day is changed, not the monotonic clock.
            [("LD_PRELOAD", &*library), ("FAKETIME_TIMESTAMP_FILE", &clock), ("FAKETIME_NO_CACHE", "1")]
                .into_iter()
                .chain([("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("LD_LIBRARY_PATH", &folder)])
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        })
    }

    /// Sets the clock of the server ahead of the machine's.
    pub fn set_clock(&self, ahead: Duration) {
        set_clock(&self.folder, ahead);
    }

    fn start_in(place: &Place, more: &[&str], environment: impl Fn(&Folder) -> Vec<(String, String)>) -> Self {
        // Another process may take the port between our check and the server's start.
        for _ in 0..4 {
            if let Ok(server) = Self::try_start(place, more, &environment) {
                return server;
            }
        }
        Self::try_start(place, more, &environment).unwrap_or_else(|log| panic!("redis-server does not start:\n{log}"))
    }

    /// Starts a replica, and waits until it is up to date.
    pub fn start_replica(&self) -> Self {
        let port = self.address.port().to_string();
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &port]);
        super::eventually("the replica is up to date", || {
            let is_up = replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
            // The master has to count it as online.
            let is_online = self.cli(&["INFO", "replication"]).contains("state=online");
            (is_up && is_online).then_some(())
        });
        replica
    }

    /// Returns the server that all tests of this process share. Each test uses separate keys, and none stops the server.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Redis> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn try_start(
        place: &Place,
        more: &[&str],
        environment: impl Fn(&Folder) -> Vec<(String, String)>,
    ) -> Result<Self, String> {
        let (port, folder) = (free_port(), Folder::new());
        let own = [
            ("--bind", place.address.to_string()),
            ("--protected-mode", "no".to_owned()),
            ("--port", port.to_string()),
            ("--dir", folder.path().display().to_string()),
            ("--unixsocket", socket(&folder).display().to_string()),
            ("--save", String::new()),
            ("--appendonly", "no".to_owned()),
            // Without a delay before the first synchronization of a replica.
            ("--repl-diskless-sync-delay", "0".to_owned()),
        ];
        let own = own.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        let arguments: Vec<_> = own.chain(more.iter().map(|argument| argument.to_string())).collect();
        let environment = environment(&folder);
        let within = place.within.clone();
        let process = launch(&within, &arguments, &environment, &folder);
        let address = SocketAddr::from((place.address, port));
        let mut server = Self { process, folder, within, arguments, environment, address };
        server.wait_until_up()?;
        Ok(server)
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for a manager.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The URL for a manager, through the socket.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The socket for clients on this machine.
    pub fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    /// The process, to stop it or to resume it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The folder with its data.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Whether it accepts connections.
    pub fn is_up(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// Kills it with SIGKILL. Its port and its data on disk are kept.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it is up, and starts it again, with its data on disk if it has persistence.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.process.kill();
            self.process = launch(&self.within, &self.arguments, &self.environment, &self.folder);
            match self.wait_until_up() {
                Ok(()) => return,
                // Its port may be in use for a moment, as the source port of a connection for example.
                Err(log) => assert!(Instant::now() < deadline, "redis-server does not start again:\n{log}"),
            }
        }
    }

    /// Runs a command and returns what redis-cli prints.
    ///
    /// # Panics
    ///
    /// If it fails, with its output.
    pub fn cli(&self, arguments: &[&str]) -> String {
        for attempt in 1.. {
            let output = self.cli_command().arg("-e").args(arguments).stdin(Stdio::null()).output();
            let output = output.unwrap_or_else(|error| panic!("cannot run redis-cli: {error}"));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
            let (said, error) = (text(&output.stdout), text(&output.stderr));
            if output.status.success() {
                return said;
            }
            // The server may close a connection before it answers, which redis-cli may report or not: a sentinel has it close them all when
            // it makes it a replica.
            let is_closed = said.is_empty() && (error.is_empty() || error.ends_with("Connection reset by peer"));
            assert!(is_closed && attempt < 5, "redis-cli {arguments:?}: {said}{error}");
        }
        unreachable!("the last attempt has panicked")
    }

    /// A redis-cli command for this server, without arguments.
    pub fn cli_command(&self) -> Command {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket());
        command
    }

    /// Whether it can report changes of keys, as from version 6 on.
    pub fn reports_changes(&self) -> bool {
        self.cli(&["INFO", "stats"]).contains("tracking_total_keys")
    }

    /// The names that match a pattern, in order.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        let printed = self.cli(&["KEYS", pattern]);
        let mut keys: Vec<_> = printed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        keys.sort_unstable();
        keys
    }

    /// The server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if UnixStream::connect(self.socket()).is_ok() && self.has_loaded() {
                return Ok(());
            }
            if let Some(status) = self.process.ended() {
                return Err(format!("{status}\n{}", self.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("no answer within {PATIENCE:?}\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it answers. A refusal for a missing password counts.
    fn has_loaded(&self) -> bool {
        let output = self.cli_command().arg("PING").stdin(Stdio::null()).output();
        output.is_ok_and(|output| {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.contains("PONG") || said.contains("NOAUTH")
        })
    }
}

fn socket(folder: &Folder) -> PathBuf {
    folder.path().join("socket")
}

/// Creates a library that makes the server use the system's allocator: libfaketime and jemalloc wait for each other at the start, and
/// the process hangs.
fn without_jemalloc(folder: &Folder) {
    let source = folder.path().join("jemalloc.c");
    // Each version of a server uses some of these. Later ones end without an arena, and divide by statistics.
    let text = "#include <stdlib.h>\nvoid malloc_stats_print(void) {}\n\
        int mallctl(const char *name, unsigned *found) { if (found) *found = 1; return 0; }\n\
        size_t nallocx(size_t size, int flags) { return size; }\n\
        void *mallocx(size_t size, int flags) { return flags & 0x40 ? calloc(1, size) : malloc(size); }\n\
        void *rallocx(void *memory, size_t size, int flags) { return realloc(memory, size); }\n\
        void dallocx(void *memory, int flags) { free(memory); }\n\
        void sdallocx(void *memory, size_t size, int flags) { free(memory); }\n";
    std::fs::write(&source, text).unwrap();
    let library = source.with_file_name("libjemalloc.so.2");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
    assert!(status.unwrap_or_else(|error| panic!("cannot run cc: {error}")).success());
}

fn clock(folder: &Folder) -> PathBuf {
    folder.path().join("clock")
}

fn set_clock(folder: &Folder, ahead: Duration) {
    // In one step: the server reads it all the time.
    let new = clock(folder).with_extension("new");
    std::fs::write(&new, format!("+{}\n", ahead.as_secs_f64())).unwrap();
    std::fs::rename(new, clock(folder)).unwrap();
}

/// Where a server runs.
struct Place {
    address: Ipv4Addr,
    within: Vec<String>,
}

impl Default for Place {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, within: Vec::new() }
    }
}

fn launch(within: &[String], arguments: &[String], environment: &[(String, String)], folder: &Folder) -> Process {
    let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    // Valkey, for example.
    let program = std::env::var("LEASEHOLD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    let words = [within, &[program], arguments].concat();
    Process::spawn(&words[0], |command| {
        command.args(&words[1..]).envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    })
}
