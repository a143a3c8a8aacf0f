//! A real Redis with temporary refusals: a wait without a limit continues, a try ends with the manager's timeout.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Owner, Result};
use support::folder::Folder;
use support::redis::Redis;
use support::{PATIENCE, eventually};

/// The managers' timeout.
const TIMEOUT: Duration = Duration::from_secs(1);

fn manager(server: &Redis) -> LockManager {
    LockManager::builder().url(server.url()).timeout(TIMEOUT).build().wait().unwrap()
}

/// Waits without a limit on a separate thread.
fn waiting(manager: &LockManager, key: &str) -> Receiver<Result<LockGuard>> {
    let (got, guards) = channel();
    let request = manager.lock(key).owner(&Owner::new());
    std::thread::spawn(move || got.send(request.wait()));
    guards
}

/// While the server refuses, a wait continues and a try ends with the timeout; afterwards the lock is granted.
fn passes(server: &Redis, refuse: impl FnOnce(), relent: impl FnOnce()) {
    let manager = manager(server);
    let known = manager.lock("known").wait().unwrap();
    refuse();
    let guards = waiting(&manager, "k");
    let start = Instant::now();
    let error = manager.lock("other").owner(&Owner::new()).try_once().wait().unwrap_err();
    let took = start.elapsed();
    println!("{error} after {took:?}");
    assert_eq!(error.code(), "BACKEND");
    assert!(took > TIMEOUT / 2 && took < PATIENCE / 2, "{took:?}");
    match guards.recv_timeout(TIMEOUT) {
        Err(RecvTimeoutError::Timeout) => {}
        ended => panic!("the wait has ended: {ended:?}"),
    }
    relent();
    let start = Instant::now();
    let guard = guards.recv_timeout(PATIENCE).expect("it continues").unwrap();
    println!("the lock {:?} after the refusals have ended", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    guard.unlock().wait().unwrap();
    known.unlock().wait().unwrap();
    assert_eq!(manager.stats().failed_renewals, 0);
}

#[test]
fn a_master_without_the_replicas_that_it_wants_ends_no_wait() {
    let server = Redis::start();
    let set = |count: &str| server.cli(&["CONFIG", "SET", "min-replicas-to-write", count]);
    passes(&server, || drop(set("1")), || drop(set("0")));
}

#[test]
fn a_disk_that_cannot_be_written_ends_no_wait() {
    let folder = Folder::new();
    let server = Redis::start_with(&["--dir", folder.path().to_str().unwrap(), "--save", "3600", "1"]);
    let refuse = || {
        std::fs::remove_dir_all(folder.path()).unwrap();
        server.cli(&["SET", "x", "1"]);
        server.cli(&["BGSAVE"]);
        let status = || server.cli(&["INFO", "persistence"]);
        eventually("a save has failed", || status().contains("rdb_last_bgsave_status:err").then_some(()));
    };
    let relent = || drop(server.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]));
    passes(&server, refuse, relent);
}

#[test]
fn a_server_with_too_many_clients_ends_no_wait() {
    for (login, database) in [("", ""), ("me:secret@", ""), ("me:secret@", "/3")] {
        let server = Redis::start();
        server.cli(&["ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all"]);
        let url = server.url().replace("//", &format!("//{login}")) + database;
        let manager = LockManager::builder().url(url).timeout(TIMEOUT).build().wait().unwrap();
        let held = manager.lock("k").wait().unwrap();
        let guards = waiting(&manager, "k");
        // An earlier client, which can lift the limit.
        let mut before = Before::connect(&server);
        before.run("CONFIG SET maxclients 1");
        before.run("CLIENT KILL TYPE normal SKIPME yes");
        let start = Instant::now();
        let error = manager.lock("other").owner(&Owner::new()).try_once().wait().unwrap_err();
        println!("{error} after {:?}", start.elapsed());
        assert!(start.elapsed() > TIMEOUT / 2, "{:?}", start.elapsed());
        drop(held);
        let free = waiting(&manager, "free");
        for guards in [&guards, &free] {
            match guards.recv_timeout(3 * TIMEOUT) {
                Err(RecvTimeoutError::Timeout) => {}
                ended => panic!("{login}{database}: the wait has ended: {ended:?}"),
            }
        }
        before.run("CONFIG SET maxclients 1000");
        for guards in [guards, free] {
            guards.recv_timeout(PATIENCE).expect("there is room").unwrap().unlock().wait().unwrap();
        }
    }
}

/// A persistent connection through the socket.
struct Before(std::io::BufReader<std::os::unix::net::UnixStream>);

impl Before {
    fn connect(server: &Redis) -> Self {
        let path = server.folder().join("socket");
        let mut before = Self(std::io::BufReader::new(std::os::unix::net::UnixStream::connect(path).unwrap()));
        before.run("PING");
        before
    }

    /// Runs a command whose answer is one line.
    fn run(&mut self, command: &str) {
        use std::io::{BufRead, Write};
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.starts_with('-'), "{command}: {line}");
    }
}

#[test]
fn a_script_that_blocks_the_server_ends_no_wait() {
    let server = Redis::start();
    server.cli(&["CONFIG", "SET", "lua-time-limit", "5"]);
    let manager = manager(&server);
    let mut blocking = server.cli_command();
    blocking.args(["EVAL", "while true do end", "0"]);
    blocking.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut blocking = blocking.spawn().unwrap();
    eventually("the server is busy", || {
        let said = server.cli_command().arg("PING").output().unwrap();
        String::from_utf8_lossy(&said.stdout).contains("BUSY").then_some(())
    });
    let guards = waiting(&manager, "k");
    match guards.recv_timeout(TIMEOUT) {
        Err(RecvTimeoutError::Timeout) => {}
        ended => panic!("the wait has ended: {ended:?}"),
    }
    server.cli(&["SCRIPT", "KILL"]);
    guards.recv_timeout(PATIENCE).expect("it continues").unwrap().unlock().wait().unwrap();
    let _ = blocking.wait();
}
