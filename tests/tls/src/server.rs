//! A real etcd that speaks TLS and asks for the client's certificate.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;

use crate::authority::{Authority, Files, Identity};
use crate::support::etcd::is_healthy;
use crate::support::eventually;
use crate::support::folder::Folder;
use crate::support::ports::free_port;
use crate::support::process::Process;

/// An etcd on free ports with a temporary folder.
pub struct Server {
    process: Process,
    folder: Folder,
    client: u16,
    arguments: Vec<String>,
    /// Where it tells of its health, without TLS.
    health: SocketAddr,
}

impl Server {
    /// Starts one that trusts this authority and has this certificate.
    pub fn start(authority: &Authority, identity: &Identity) -> Self {
        let folder = Folder::new();
        let [client, peer, health] = std::array::from_fn(|_| free_port());
        let (client_url, peer_url) = (format!("https://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let files = authority.write(folder.path(), "server", identity);
        let shown = |path: &std::path::Path| path.display().to_string();
        let arguments = [
            ("--data-dir", shown(&folder.path().join("data"))),
            ("--listen-client-urls", client_url.clone()),
            ("--advertise-client-urls", client_url),
            ("--listen-peer-urls", peer_url.clone()),
            ("--initial-advertise-peer-urls", peer_url.clone()),
            ("--initial-cluster", format!("default={peer_url}")),
            ("--listen-metrics-urls", format!("http://127.0.0.1:{health}")),
            ("--trusted-ca-file", shown(&files.ca)),
            ("--cert-file", shown(&files.cert)),
            ("--key-file", shown(&files.key)),
        ];
        let arguments = arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        let arguments = arguments.chain(["--client-cert-auth".to_owned()]).collect::<Vec<_>>();
        let health = SocketAddr::from(([127, 0, 0, 1], health));
        let server = Self { process: launch(&arguments, &folder), folder, client, arguments, health };
        server.wait_until_up();
        server
    }

    /// Starts it again, on the same port and with the data that it had, with another authority and another certificate.
    pub fn restart(&mut self, authority: &Authority, identity: &Identity) {
        self.process.kill();
        authority.write(self.folder.path(), "server", identity);
        self.process = launch(&self.arguments, &self.folder);
        self.wait_until_up();
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.client))
    }

    /// The URL of a manager with these files.
    pub fn url(&self, files: &Files) -> String {
        url(self.address(), files)
    }

    fn wait_until_up(&self) {
        eventually("etcd is up", || is_healthy(self.health).then_some(()));
    }
}

/// The URL of a manager with these files, for any server.
pub fn url(address: SocketAddr, files: &Files) -> String {
    let Files { ca, cert, key } = files;
    format!("etcds://{address}?ca={}&cert={}&key={}", ca.display(), cert.display(), key.display())
}

fn launch(arguments: &[String], folder: &Folder) -> Process {
    let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    Process::spawn("etcd", |command| {
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    })
}
