//! A master with two replicas, and three sentinels that watch it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use redis::FromRedisValue;

use super::folder::Folder;
use super::ports::free_port;
use super::process::Process;
use super::redis::Redis;
use super::replication::request_failover;
use super::{PATIENCE, eventually, eventually_within};

/// The name of the master at the sentinels.
pub const NAME: &str = "main";

/// How long a server does not answer before a sentinel considers it down.
pub const DOWN_AFTER: Duration = Duration::from_secs(1);

/// The servers and their sentinels.
pub struct Watched {
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Sentinel>,
}

impl Watched {
    /// Starts them, the first server as the master. Waits until all know each other.
    pub fn start() -> Self {
        Self::start_with(&[], Redis::start_with)
    }

    /// Starts them; the servers with more arguments, and the replicas by `replica`.
    pub fn start_with(more: &[&str], replica: impl Fn(&[&str]) -> Redis) -> Self {
        Self::start_for(Redis::start_with(more), Ipv4Addr::LOCALHOST, |of| replica(&[of, more].concat()))
    }

    /// Starts two replicas of this master by `replica`, and three sentinels at this address.
    pub fn start_for(master: Redis, host: Ipv4Addr, replica: impl Fn(&[&str]) -> Redis) -> Self {
        let (ip, port) = (master.address().ip().to_string(), master.address().port().to_string());
        let of = ["--replicaof", &ip, &port];
        let servers = vec![master, replica(&of), replica(&of)];
        let sentinels: Vec<_> = (0..3).map(|_| Sentinel::start(host, &servers[0], "")).collect();
        let watched = Self { servers, sentinels };
        watched.wait_until_known();
        watched
    }

    /// Waits until each sentinel knows the others, and two replicas that are up to date.
    pub fn wait_until_known(&self) {
        // A sentinel looks every ten seconds whether a server that was restarted replicates the right one.
        let deadline = Instant::now() + 3 * PATIENCE;
        while !self.is_known() {
            assert!(Instant::now() < deadline, "not all know each other:\n{}", self.described());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether each sentinel knows the others, and two replicas that are up to date.
    pub fn is_known(&self) -> bool {
        let knows = |sentinel: &Sentinel| {
            let count = |field| sentinel.field(field).and_then(|count| count.parse().ok()).unwrap_or(0);
            count("num-slaves") >= 2 && count("num-other-sentinels") + 1 == self.sentinels.len()
        };
        let Some(master) = self.master() else { return false };
        let online = self.servers[master].cli(&["INFO", "replication"]).matches("state=online").count();
        online >= 2 && self.sentinels.iter().all(knows)
    }

    /// What each sentinel and each server says.
    fn described(&self) -> String {
        let fields = ["port", "flags", "config-epoch", "num-slaves", "num-other-sentinels"];
        let sentinel =
            |sentinel: &Sentinel| format!("{}: {:?}", sentinel.port, fields.map(|field| sentinel.field(field)));
        let role = |server: &Redis| server.cli(&["ROLE"]).lines().collect::<Vec<_>>().join(" ");
        let server = |server: &Redis| match server.is_up() {
            true => format!("{}: {}", server.address(), role(server)),
            false => format!("{}: down", server.address()),
        };
        let all = self.sentinels.iter().map(sentinel).chain(self.servers.iter().map(server));
        all.collect::<Vec<_>>().join("\n")
    }

    /// The URL for a manager.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(Sentinel::host).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The index of the server that most sentinels name as the master.
    pub fn master(&self) -> Option<usize> {
        let named: Vec<_> = self.sentinels.iter().filter_map(Sentinel::master).collect();
        let port =
            named.iter().find(|port| 2 * named.iter().filter(|other| other == port).count() > self.sentinels.len())?;
        self.servers.iter().position(|server| server.address().port() == *port)
    }

    /// Waits until any sentinel names another master than this. Returns its index.
    pub fn wait_for_another(&self, old: usize) -> usize {
        // An election that none of them wins is repeated after six seconds.
        eventually_within(3 * PATIENCE, "another master", || self.another(old))
    }

    /// Has a sentinel replace the master. Returns the index of the next one.
    pub fn fail_over(&self, sentinel: &Sentinel) -> usize {
        let old = self.master().expect("a master");
        let request = || sentinel.try_run::<()>(&["SENTINEL", "FAILOVER", NAME]).is_ok();
        request_failover(request, || self.another(old))
    }

    /// The index of another master than this that a sentinel names.
    pub fn another(&self, old: usize) -> Option<usize> {
        let old = self.servers[old].address().port();
        let port = self.sentinels.iter().filter_map(Sentinel::master).find(|port| *port != old)?;
        self.servers.iter().position(|server| server.address().port() == port)
    }
}

/// A sentinel.
pub struct Sentinel {
    process: Process,
    folder: Folder,
    host: Ipv4Addr,
    port: u16,
}

impl Sentinel {
    /// Starts a sentinel of this master, with more lines of its configuration.
    pub fn start(host: Ipv4Addr, master: &Redis, more: &str) -> Self {
        Self::start_for(host, master.address(), more)
    }

    /// The same, of the master at this address.
    pub fn start_for(host: Ipv4Addr, master: SocketAddr, more: &str) -> Self {
        Self::start_at(host, free_port(), master, more)
    }

    /// Starts one without memory on the port of this one, which is killed.
    pub fn start_anew(&mut self, master: &Redis) {
        self.kill();
        *self = Self::start_at(self.host, self.port, master.address(), "");
    }

    /// Kills it with SIGKILL. Its port and what it has written are kept.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, with what it has written.
    pub fn restart(&mut self) {
        self.process = launch(&self.folder);
        self.wait_until_up();
    }

    fn start_at(host: Ipv4Addr, port: u16, master: SocketAddr, more: &str) -> Self {
        let folder = Folder::new();
        let (ip, watched, after) = (master.ip(), master.port(), DOWN_AFTER.as_millis());
        let path = folder.path().display();
        let text = format!(
            "bind {host}\nport {port}\ndir {path}\nprotected-mode no\nsentinel announce-ip {host}\n\
             sentinel monitor {NAME} {ip} {watched} 2\nsentinel down-after-milliseconds {NAME} {after}\n\
             sentinel failover-timeout {NAME} 3000\n{more}\n"
        );
        std::fs::write(configuration(&folder), text).unwrap();
        let sentinel = Self { process: launch(&folder), folder, host, port };
        sentinel.wait_until_up();
        sentinel
    }

    fn wait_until_up(&self) {
        eventually("the sentinel answers", || {
            let refused = |error: &redis::RedisError| error.code() == Some("NOAUTH");
            self.try_run::<redis::Value>(&["PING"]).map_or_else(|error| refused(&error), |_| true).then_some(())
        });
    }

    /// Its host and port.
    pub fn host(&self) -> String {
        self.address().to_string()
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.host, self.port))
    }

    /// Makes it watch the master at this address by another name as well. It never considers that one down.
    pub fn watch(&self, name: &str, master: SocketAddr) {
        let (ip, port) = (master.ip().to_string(), master.port().to_string());
        eventually("the sentinel watches another master", || {
            // It knows the name already if its answer was late.
            let _ = self.try_run::<()>(&["SENTINEL", "MONITOR", name, &ip, &port, "1"]);
            self.try_run::<()>(&["SENTINEL", "SET", name, "down-after-milliseconds", "3600000"]).ok()
        });
    }

    /// The process, to stop it or to resume it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs a command. Fails if there is no answer within a moment.
    pub fn try_run<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://{}", self.host()))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_millis(300))?;
        connection.set_read_timeout(Some(Duration::from_millis(300)))?;
        words
            .iter()
            .fold(redis::Cmd::new(), |mut command, word| {
                command.arg(word);
                command
            })
            .query(&mut connection)
    }

    /// The port of the master that it names.
    pub fn master(&self) -> Option<u16> {
        let (_, port): (String, u16) = self.try_run(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).ok()?;
        Some(port)
    }

    /// A field of what it says about the master.
    pub fn field(&self, name: &str) -> Option<String> {
        let fields: std::collections::HashMap<String, String> = self.try_run(&["SENTINEL", "MASTER", NAME]).ok()?;
        fields.get(name).cloned()
    }

    /// How many commands it has served so far.
    pub fn commands(&self) -> u64 {
        let stats: String = self.try_run(&["INFO", "stats"]).unwrap();
        let count = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        count.trim().parse().unwrap()
    }
}

fn configuration(folder: &Folder) -> PathBuf {
    folder.path().join("sentinel.conf")
}

fn launch(folder: &Folder) -> Process {
    let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    let program = std::env::var("LEASEHOLD_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
    Process::spawn(program, |command| {
        command.arg(configuration(folder)).arg("--sentinel");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    })
}
