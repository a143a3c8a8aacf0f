//! Redis over TLS: certificates are checked on both sides, and read again at each reconnect.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::authority::{Authority, Files, Identity};
use leasehold::backend::ErrorKind;
use leasehold::doctor::{Level, examine};
use leasehold::{LockError, LockManager};
use support::eventually;
use support::folder::Folder;
use support::ports::free_port;
use support::redis::Redis;
use support::sentinels::{NAME, Sentinel};

/// A Redis that asks for the client's certificate.
struct Server {
    redis: Redis,
    port: u16,
    /// The files that it was started with, which tests overwrite.
    folder: Folder,
}

impl Server {
    fn start(authority: &Authority, identity: &Identity) -> Self {
        let (port, folder) = (free_port(), Folder::new());
        let Files { ca, cert, key } = authority.write(folder.path(), "server", identity);
        let [ca, cert, key] = [ca, cert, key].map(|path| path.display().to_string());
        let files = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key];
        let redis = Redis::start_with(&[&["--tls-port", &port.to_string()], &files[..]].concat());
        Self { redis, port, folder }
    }

    fn url(&self, files: &Files) -> String {
        let Files { ca, cert, key } = files;
        format!("rediss://127.0.0.1:{}?ca={}&cert={}&key={}", self.port, ca.display(), cert.display(), key.display())
    }
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let folder = Folder::new();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let server = Server::start(&ours, &ours.sign("server"));
    let good = ours.write(folder.path(), "good", &ours.sign("client"));
    let (a, b) = (
        LockManager::connect(server.url(&good)).wait().unwrap(),
        LockManager::connect(server.url(&good)).wait().unwrap(),
    );
    let guard = a.lock("k").wait().unwrap();
    assert!(b.try_lock("k").wait().unwrap().is_none());
    guard.unlock().wait().unwrap();
    b.lock("k").wait().unwrap().unlock().wait().unwrap();

    let expired = Server::start(&ours, &ours.sign_expired("server"));
    let other_host = Server::start(&ours, &ours.sign_for_host("example.org"));
    let strange = ours.write(folder.path(), "strange", &theirs.sign("client"));
    let trusting_others = theirs.write(folder.path(), "trusting", &ours.sign("client"));
    let missing = Files { ca: folder.path().join("nowhere"), ..good.clone() };
    let without = format!("rediss://127.0.0.1:{}?ca={}", server.port, good.ca.display());
    for (what, url, said) in [
        // The server closes the connection without a reason, or sends the reason too late to be read.
        ("the client's is of another authority", server.url(&strange), ErrorKind::Unreachable),
        ("the client has none", without, ErrorKind::Unreachable),
        ("the server's has expired", expired.url(&good), ErrorKind::Denied),
        ("the server's is another's", other_host.url(&good), ErrorKind::Denied),
        ("the server's is of another authority", server.url(&trusting_others), ErrorKind::Denied),
        ("the file is not there", server.url(&missing), ErrorKind::Misconfigured),
    ] {
        let start = Instant::now();
        let error = LockManager::connect(url).wait().unwrap_err();
        println!("{what}: {error}");
        match &error {
            // Sometimes the reason arrives in time.
            LockError::Backend { kind, .. } => assert!(*kind == said || *kind == ErrorKind::Denied, "{what}: {error}"),
            LockError::InvalidConfig { .. } => assert_eq!(said, ErrorKind::Misconfigured, "{what}: {error}"),
            _ => panic!("{what}: {error:?}"),
        }
        assert!(error.to_string().contains("certificate") || error.to_string().contains("TLS"), "{what}: {error}");
        assert!(start.elapsed() < Duration::from_secs(3), "{what}: {:?}", start.elapsed());
    }
}

#[test]
fn a_server_is_examined_over_tls() {
    let folder = Folder::new();
    let ours = Authority::new("ours");
    let server = Server::start(&ours, &ours.sign("server"));
    let good = ours.write(folder.path(), "good", &ours.sign("client"));
    assert!(examine(server.url(&good)).wait().unwrap().level() < Level::Wrong);
    let theirs = Authority::new("theirs").write(folder.path(), "trusting", &ours.sign("client"));
    let report = examine(server.url(&theirs)).wait().unwrap();
    let advice = report.findings[0].advice.as_deref().unwrap();
    assert!(report.findings[0].check == "connection" && advice.contains("certificate"), "{report:#?}");
}

#[test]
fn certificates_may_be_exchanged_while_a_lock_is_held() {
    let folder = Folder::new();
    let old = Authority::new("old");
    let server = Server::start(&old, &old.sign("server"));
    let files = old.write(folder.path(), "client", &old.sign("client"));
    let manager = LockManager::connect(server.url(&files)).wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    let new = Authority::new("new");
    new.write(server.folder.path(), "server", &new.sign("server"));
    new.write(folder.path(), "client", &new.sign("client"));
    for option in ["tls-ca-cert-file", "tls-cert-file", "tls-key-file"] {
        let path = server.redis.cli(&["CONFIG", "GET", option]).lines().nth(1).unwrap().to_owned();
        // Read again when they are set; only together are they valid.
        server.redis.cli(&["CONFIG", "SET", option, &path]);
    }
    server.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    server.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("it is connected again", || guard.renew().wait().ok());
    guard.unlock().wait().unwrap();
}

#[test]
fn a_file_that_is_half_written_at_a_reconnect_ends_no_wait() {
    let folder = Folder::new();
    let authority = Authority::new("ours");
    let server = Server::start(&authority, &authority.sign("server"));
    let files = authority.write(folder.path(), "client", &authority.sign("client"));
    let holder = LockManager::connect(format!("redis://{}", server.redis.address())).wait().unwrap();
    let manager = LockManager::connect(server.url(&files)).wait().unwrap();
    let held = holder.lock("k").wait().unwrap();
    let request = manager.lock("k");
    let waiting = std::thread::spawn(move || request.wait());
    eventually("it waits", || (holder.info("k").wait().ok()??.waiters == 1).then_some(()));
    let whole = std::fs::read(&files.ca).unwrap();
    for content in [&whole[..whole.len() / 2], b"", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&files.ca, content).unwrap();
        server.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        server.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        // Several tries to connect.
        std::thread::sleep(Duration::from_secs(1));
        if waiting.is_finished() {
            panic!("the wait has ended: {:?}", waiting.join().unwrap());
        }
    }
    std::fs::write(&files.ca, &whole).unwrap();
    held.unlock().wait().unwrap();
    waiting.join().unwrap().unwrap().unlock().wait().unwrap();
}

#[test]
fn sentinels_and_their_master_are_reached_over_tls() {
    let folder = Folder::new();
    let authority = Authority::new("ours");
    let server = Server::start(&authority, &authority.sign("server"));
    let (client, others) = (folder.path().join("client"), folder.path().join("sentinel"));
    for folder in [&client, &others] {
        std::fs::create_dir(folder).unwrap();
    }
    let files = authority.write(&client, "client", &authority.sign("client"));
    let Files { ca, cert, key } = authority.write(&others, "sentinel", &authority.sign("sentinel"));
    let port = free_port();
    let lines = format!(
        "tls-port {port}\ntls-replication yes\ntls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file {}",
        ca.display(),
        cert.display(),
        key.display()
    );
    let _sentinel = Sentinel::start_for(Ipv4Addr::LOCALHOST, (Ipv4Addr::LOCALHOST, server.port).into(), &lines);
    let url = |scheme: &str| {
        let Files { ca, cert, key } = &files;
        let (ca, cert, key) = (ca.display(), cert.display(), key.display());
        format!("{scheme}://127.0.0.1:{port}/{NAME}?ca={ca}&cert={cert}&key={key}")
    };
    let manager = LockManager::connect(url("rediss+sentinel")).wait().unwrap();
    manager.lock("k").wait().unwrap().unlock().wait().unwrap();
    let error = LockManager::connect(format!("redis+sentinel://127.0.0.1:{port}/{NAME}")).wait().unwrap_err();
    assert_eq!(error.code(), "BACKEND", "without TLS: {error}");
}
