//! The tools of the tests work: the proxy's faults, child processes, starts and restarts of servers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::child::{self, Child};
use support::proxy::Proxy;

/// The time without an event after which there will be none.
const SILENCE: Duration = Duration::from_millis(150);

/// An echo server.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    read(stream, text.len())
}

fn read(stream: &mut TcpStream, count: usize) -> std::io::Result<String> {
    let mut buffer = vec![0; count];
    stream.read_exact(&mut buffer)?;
    Ok(String::from_utf8(buffer).unwrap())
}

fn is_silent(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let answer = stream.read(&mut [0; 16]);
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn a_proxy_forwards_and_holds_back() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, "one").unwrap(), "one");
    proxy.cut();
    stream.write_all(b"two").unwrap();
    assert!(is_silent(&mut stream));
    assert_eq!(proxy.connections(), 1);
    proxy.heal();
    assert_eq!(read(&mut stream, 3).unwrap(), "two");
    proxy.hold_answers();
    stream.write_all(b"three").unwrap();
    assert!(is_silent(&mut stream));
    proxy.heal();
    assert_eq!(read(&mut stream, 5).unwrap(), "three");
}

#[test]
fn a_held_request_arrives_after_its_connection_was_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap());
    let mut stream = connect(&proxy);
    let (mut server, _) = listener.accept().unwrap();
    proxy.hold_requests();
    stream.write_all(b"late").unwrap();
    drop(stream);
    std::thread::sleep(SILENCE);
    proxy.heal();
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "late");
}

#[test]
fn a_proxy_loses_answers_and_then_the_connection() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    proxy.drop_answers(true);
    stream.write_all(b"lost").unwrap();
    assert!(is_silent(&mut stream));
    proxy.drop_answers(false);
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(ask(&mut connect(&proxy), "again").unwrap(), "again");
}

#[test]
fn a_proxy_resets() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, "a").unwrap(), "a");
    proxy.reset_all();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.reset_after(Some(3));
    let mut stream = connect(&proxy);
    stream.write_all(b"abcdef").unwrap();
    assert_eq!(read(&mut stream, 3).unwrap(), "abc");
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.heal();
    proxy.refuse(true);
    let refused = TcpStream::connect(proxy.address()).and_then(|mut stream| ask(&mut stream, "a"));
    assert!(refused.is_err());
    proxy.heal();
    assert_eq!(ask(&mut connect(&proxy), "b").unwrap(), "b");
    support::eventually("the connections are closed", || (proxy.connections() == 0).then_some(()));
    assert_eq!(proxy.accepted(), 4);
}

#[test]
fn a_proxy_delays() {
    let proxy = Proxy::start(echo());
    let mut stream = connect(&proxy);
    proxy.delay(Duration::from_millis(20), Duration::from_millis(80));
    let asked = Instant::now();
    assert_eq!(ask(&mut stream, "late").unwrap(), "late");
    assert!(asked.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_stopped_child_says_nothing() {
    let mut child = Child::of_this_test("harness::a_child_that_repeats", &[]);
    child.send("a");
    child.expect("a");
    child.process.stop();
    child.send("b");
    assert_eq!(child.line_within(SILENCE), None);
    child.process.resume();
    child.expect("b");
    assert!(child.finish());
}

#[test]
#[ignore = "a child of another test"]
fn a_child_that_repeats() {
    if child::role().is_none() {
        return;
    }
    while let Some(line) = child::hear() {
        child::say(&line);
    }
}

mod etcd {
    use leasehold::LockManager;

    use super::*;
    use support::etcd::{Cluster, Etcd};
    use support::eventually;

    #[test]
    fn a_server_stops_and_comes_back_with_and_without_its_data() {
        let mut etcd = Etcd::start();
        etcd.etcdctl(&["put", "k", "v"]);
        assert_eq!(etcd.keys(""), ["k"]);
        assert_eq!(etcd.leases(), <[&str; 0]>::default());
        etcd.process().stop();
        let asked = etcd.try_etcdctl(&["get", "k", "--command-timeout=300ms"]);
        etcd.process().resume();
        assert!(asked.is_err());
        etcd.kill();
        assert!(TcpStream::connect(etcd.address()).is_err());
        etcd.restart();
        assert_eq!(etcd.keys("k"), ["k"]);
        etcd.restart_empty();
        assert_eq!(etcd.keys(""), <[&str; 0]>::default());
    }

    #[test]
    fn a_cluster_has_a_leader_and_gets_another() {
        let mut cluster = Cluster::<3>::start();
        let first = cluster.leader();
        cluster.members[first].kill();
        let second = cluster.leader();
        assert_ne!(first, second);
        cluster.members[first].restart();
        assert_eq!(cluster.url().split(',').count(), 3);
    }

    #[test]
    fn a_member_is_cut_off_in_both_directions() {
        let cluster = Cluster::<3>::start();
        let first = cluster.leader();
        let reads = |member: usize| cluster.members[member].try_etcdctl(&["get", "k", "--command-timeout=3s"]).is_ok();
        cluster.peers.isolate(first);
        eventually("the others have another leader", || reads((first + 1) % 3).then_some(()));
        eventually("the isolated member is no leader", || (!reads(first)).then_some(()));
        assert!(cluster.members[first].try_etcdctl(&["get", "k", "--consistency=s"]).is_ok());
        cluster.peers.heal();
        eventually("all are together again", || reads(first).then_some(()));
    }

    #[tokio::test]
    async fn a_manager_locks_through_a_proxy() {
        let etcd = Etcd::shared();
        let proxy = Proxy::start(etcd.address());
        let manager = LockManager::connect(format!("etcd://{}?prefix=harness/", proxy.address())).await.unwrap();
        let guard = manager.lock("k").await.unwrap();
        assert_eq!(etcd.keys("harness/k/").len(), 1);
        guard.unlock().await.unwrap();
        assert_eq!(etcd.keys("harness/k/").len(), 0);
    }
}
