//! Real etcd servers, each on free ports with a temporary folder.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::PATIENCE;
use super::folder::Folder;
use super::peers::Peers;
use super::ports::free_port;
use super::process::Process;

/// One member of a cluster, most often the only one. It is killed, and its data removed, when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    folder: Folder,
    arguments: Vec<String>,
    /// The HTTP proxy through which it calls other members.
    front: Option<SocketAddr>,
    client: SocketAddr,
    /// The address of its health check, without TLS.
    health: SocketAddr,
}

impl Etcd {
    /// Starts a server.
    ///
    /// # Panics
    ///
    /// If it cannot, with the server's log.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_at("http", arguments)
    }

    /// Starts a server whose clients have to use TLS: the arguments name its certificate.
    pub fn start_over_tls(arguments: &[&str]) -> Self {
        Self::start_at("https", arguments)
    }

    fn start_at(scheme: &str, arguments: &[&str]) -> Self {
        // Another process may take a port between our check and etcd's start.
        for _ in 0..4 {
            if let Ok(server) = Self::alone(scheme, arguments) {
                return server;
            }
        }
        Self::alone(scheme, arguments).unwrap_or_else(|log| panic!("etcd does not start:\n{log}"))
    }

    /// Returns the server that all tests of this process share. Each test uses separate keys, and none stops the server.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Etcd> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server without a cluster. The error is its log.
    fn alone(scheme: &str, arguments: &[&str]) -> Result<Self, String> {
        let peer = format!("http://127.0.0.1:{}", free_port());
        let cluster = format!("m0={peer}");
        let more = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster];
        let mut server = Self::launch(0, scheme, None, &[&more, arguments].concat());
        server.wait_until_up().map(|()| server)
    }

    /// Launches a member of a cluster whose members listen for one another on these ports.
    fn member(number: usize, ports: &[u16], peers: &Peers) -> Self {
        // Go uses no proxy for loopback addresses, and sends CONNECT only for TLS.
        let urls: Vec<_> = ports.iter().map(|port| format!("https://0.0.0.0:{port}")).collect();
        let cluster: Vec<_> = urls.iter().enumerate().map(|(n, url)| format!("m{n}={url}")).collect();
        let cluster = cluster.join(",");
        let listen = format!("https://127.0.0.1:{}", ports[number]);
        let more = ["--peer-auto-tls", "--listen-peer-urls", &listen, "--initial-advertise-peer-urls", &urls[number]];
        let front = Some(peers.front(number));
        Self::launch(number, "http", front, &[&more[..], &["--initial-cluster", &cluster]].concat())
    }

    fn launch(number: usize, scheme: &str, front: Option<SocketAddr>, more: &[&str]) -> Self {
        let (folder, [client, health]) = (Folder::in_memory(), [free_port(), free_port()].map(local));
        let own = [
            ("--name", format!("m{number}")),
            ("--data-dir", folder.path().join("data").display().to_string()),
            ("--listen-client-urls", format!("{scheme}://{client}")),
            ("--advertise-client-urls", format!("{scheme}://{client}")),
            ("--listen-metrics-urls", format!("http://{health}")),
            ("--initial-cluster-state", "new".to_owned()),
        ];
        let own = own.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        let arguments: Vec<_> = own.chain(more.iter().map(|argument| argument.to_string())).collect();
        let process = run(&arguments, &folder, front);
        Self { process, folder, arguments, front, client, health }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        self.client.to_string()
    }

    /// The URL for a manager.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.client)
    }

    /// The process, to stop it or to resume it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The folder with its data.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Kills it with SIGKILL. Its data and its ports are kept.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it is up, and starts it again with its data.
    pub fn restart(&mut self) {
        self.restart_within(PATIENCE);
    }

    fn restart_within(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            self.process.kill();
            self.process = run(&self.arguments, &self.folder, self.front);
            match self.wait_until_up() {
                Ok(()) => return,
                // Its port may be in use for a moment, as the source port of a connection for example.
                Err(log) => assert!(Instant::now() < deadline, "etcd does not start again:\n{log}"),
            }
        }
    }

    /// Starts it again without data, on the same ports.
    pub fn restart_empty(&mut self) {
        self.process.kill();
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
        self.restart();
    }

    /// Saves a snapshot to a file in its folder, and returns the path.
    pub fn save_snapshot(&self) -> PathBuf {
        let file = self.folder.path().join("snapshot");
        self.etcdctl(&["snapshot", "save", file.to_str().unwrap()]);
        file
    }

    /// Starts it again on the same ports with the data of a snapshot.
    pub fn restore_snapshot(&mut self, file: &std::path::Path) {
        self.process.kill();
        let data = self.folder.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        let mut restore = self.etcdctl_command();
        restore.arg("snapshot").arg("restore").arg(file).arg("--data-dir").arg(&data);
        for name in ["--name", "--initial-cluster", "--initial-advertise-peer-urls"] {
            let value = self.arguments.iter().skip_while(|argument| *argument != name).nth(1).unwrap();
            restore.arg(name).arg(value);
        }
        let output = restore.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.restart();
    }

    /// Runs etcdctl and returns what it prints.
    ///
    /// # Panics
    ///
    /// If it fails, with its output.
    pub fn etcdctl(&self, arguments: &[&str]) -> String {
        self.try_etcdctl(arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    /// Runs etcdctl; the error is its output.
    pub fn try_etcdctl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.etcdctl_command().args(arguments).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run etcdctl: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Compacts the history up to the present revision.
    pub fn compact(&self) {
        let status = self.etcdctl(&["endpoint", "status", "-w", "fields"]);
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
        self.etcdctl(&["compaction", revision]);
    }

    /// An etcdctl command for this server, without arguments.
    pub fn etcdctl_command(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.client));
        command
    }

    /// The names that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let printed = match prefix {
            "" => self.etcdctl(&["get", "", "--from-key", "--keys-only"]),
            _ => self.etcdctl(&["get", prefix, "--prefix", "--keys-only"]),
        };
        printed.lines().filter(|line| !line.is_empty()).map(Into::into).collect()
    }

    /// The ids of all leases.
    pub fn leases(&self) -> Vec<String> {
        let printed = self.etcdctl(&["lease", "list"]);
        printed.lines().skip(1).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// The number of calls of a method, "Txn" for example, that this member has handled since its start.
    pub fn handled(&self, method: &str) -> u64 {
        metric(self.client, "grpc_server_handled_total", &[&format!("grpc_method=\"{method}\"")])
    }

    /// The server's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.folder)).unwrap_or_default()
    }

    fn wait_until_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !is_healthy(self.health) {
            if let Some(status) = self.process.ended() {
                return Err(format!("{status}\n{}", self.log()));
            }
            if Instant::now() > deadline {
                return Err(format!("no answer within {PATIENCE:?}\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Several members of one cluster.
#[derive(Debug)]
pub struct Cluster<const N: usize> {
    pub members: [Etcd; N],
    /// The network between them.
    pub peers: Peers,
}

impl<const N: usize> Cluster<N> {
    /// Starts a cluster.
    pub fn start() -> Self {
        let mut log = String::new();
        for _ in 0..4 {
            let ports: [_; N] = std::array::from_fn(|_| free_port());
            let peers = Peers::start(&ports);
            let mut members = std::array::from_fn(|number| Etcd::member(number, &ports, &peers));
            match members.iter_mut().try_for_each(Etcd::wait_until_up) {
                Ok(()) => return Self { members, peers },
                Err(error) => log = error,
            }
        }
        panic!("the etcd cluster does not start:\n{log}")
    }

    /// The URL that names all members.
    pub fn url(&self) -> String {
        self.url_from(0)
    }

    /// The URL with this member first: it is in use until it fails.
    pub fn url_from(&self, first: usize) -> String {
        let endpoints: Vec<_> = (0..N).map(|number| self.members[(first + number) % N].endpoint()).collect();
        format!("etcd://{}", endpoints.join(","))
    }

    /// The index of the leader, once there is one.
    pub fn leader(&self) -> usize {
        super::eventually("the cluster has a leader", || {
            self.members.iter().position(|member| {
                // Endpoint, id, version, size, "is leader", …
                let status = member.try_etcdctl(&["endpoint", "status", "--command-timeout=1s"]);
                status.is_ok_and(|line| line.split(", ").nth(4) == Some("true"))
            })
        })
    }
}

fn log_path(folder: &Folder) -> PathBuf {
    folder.path().join("log")
}

fn run(arguments: &[String], folder: &Folder, front: Option<SocketAddr>) -> Process {
    let log = File::options().create(true).append(true).open(log_path(folder)).unwrap();
    Process::spawn("etcd", |command| {
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        command.envs(front.map(|front| ("HTTPS_PROXY", format!("http://{front}"))));
    })
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Whether the server's health check passes: it has a leader and its disk works.
pub fn is_healthy(address: SocketAddr) -> bool {
    http_get(address, "/health").is_ok_and(|answer| answer.contains("\"true\""))
}

/// The sum of a metric's samples that have all of these labels.
pub fn metric(address: SocketAddr, name: &str, labels: &[&str]) -> u64 {
    let answer = http_get(address, "/metrics").unwrap();
    let samples =
        answer.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    let samples = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

fn http_get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: etcd\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
