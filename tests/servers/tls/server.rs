//! A real etcd that uses TLS and requires client certificates.

use std::net::SocketAddr;

use support::etcd::Etcd;
use support::folder::Folder;

use super::authority::{Authority, Files, Identity};

pub(super) struct Server {
    etcd: Etcd,
    /// The files that it was started with, which tests overwrite.
    folder: Folder,
}

impl Server {
    /// Starts a server that trusts this authority and has this certificate.
    pub(super) fn start(authority: &Authority, identity: &Identity) -> Self {
        let folder = Folder::new();
        let Files { ca, cert, key } = authority.write(folder.path(), "server", identity);
        let [ca, cert, key] = [ca, cert, key].map(|path| path.display().to_string());
        let files = ["--trusted-ca-file", &ca, "--cert-file", &cert, "--key-file", &key, "--client-cert-auth"];
        Self { etcd: Etcd::start_over_tls(&files), folder }
    }

    /// Restarts it on the same port and with its data, with another authority and another certificate.
    pub(super) fn restart(&mut self, authority: &Authority, identity: &Identity) {
        self.etcd.kill();
        authority.write(self.folder.path(), "server", identity);
        self.etcd.restart();
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.etcd.address()
    }

    /// The URL of a manager with these files.
    pub(super) fn url(&self, files: &Files) -> String {
        url(self.address(), files)
    }
}

/// The URL of a manager with these files, for any server.
pub(super) fn url(address: SocketAddr, files: &Files) -> String {
    let Files { ca, cert, key } = files;
    format!("etcds://{address}?ca={}&cert={}&key={}", ca.display(), cert.display(), key.display())
}
