//! Managers with equal settings share their connections, counted by a proxy in front of the server.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Barrier;
use std::task::{Context, Waker};
use std::time::Duration;

use leasehold::{LockManager, LockManagerBuilder};
use support::eventually;
use support::proxy::Proxy;

/// Builds `count` managers at the same time.
fn build(count: usize, configure: impl Fn(usize) -> LockManagerBuilder + Sync) -> Vec<LockManager> {
    let (barrier, configure) = (&Barrier::new(count), &configure);
    std::thread::scope(|scope| {
        let build = |number| {
            scope.spawn(move || {
                barrier.wait();
                configure(number).build().wait().unwrap()
            })
        };
        let building: Vec<_> = (0..count).map(build).collect();
        building.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Asserts that each of them can lock, and that they exclude each other.
fn work(managers: &[LockManager]) {
    for manager in managers {
        let guard = manager.lock("reuse").wait().unwrap();
        assert!(managers[0].is_locked("reuse").wait().unwrap());
        guard.unlock().wait().unwrap();
    }
}

fn a_hundred_managers_have_one_client(scheme: &str, server: SocketAddr, connections: u64) {
    let proxy = Proxy::start(server);
    let managers = build(100, |number| {
        // Settings that do not concern the connection may differ.
        let builder = LockManager::builder().url(format!("{scheme}://{}", proxy.address()));
        builder.name(format!("m{number}")).ttl(Duration::from_secs(10 + number as u64 % 2))
    });
    work(&managers);
    assert_eq!(proxy.accepted(), connections);
    // The first ones are dropped: the others keep the connections.
    let mut managers = managers;
    managers.drain(..50).for_each(drop);
    work(&managers);
    assert_eq!((proxy.accepted(), proxy.connections() as u64), (connections, connections));
    // A broken connection is replaced once for all: on etcd by the client, and once more by the search for another endpoint.
    proxy.reset_all();
    work(&managers);
    eventually("all connections are replaced", || (proxy.connections() as u64 == connections).then_some(()));
    assert!(proxy.accepted() <= 3 * connections, "{}", proxy.accepted());
    // It is closed with the last.
    drop(managers);
    eventually("closed", || (proxy.connections() == 0).then_some(()));
    let before = proxy.accepted();
    let again = build(2, |_| LockManager::builder().url(format!("{scheme}://{}", proxy.address())));
    work(&again);
    assert_eq!(proxy.accepted() - before, connections);
    // And with the last that is closed, for one in a `static` is never dropped.
    again[0].close().wait().unwrap();
    work(&again[1..]);
    again[1].close().wait().unwrap();
    eventually("closed", || (proxy.connections() == 0).then_some(()));
    assert_eq!(again[1].lock("reuse").wait().unwrap_err().code(), "CLOSED");
}

/// A build that is not polled any more, at any point, blocks no other one.
fn an_unpolled_build_blocks_no_other(scheme: &str, server: SocketAddr) {
    let proxy = Proxy::start(server);
    let build = || LockManager::builder().url(format!("{scheme}://{}", proxy.address())).build();
    for polls in 1..6 {
        let mut left = build();
        for _ in 0..polls {
            if Pin::new(&mut left).poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                break;
            }
            // A fixed pause, for its next step to be ready.
            std::thread::sleep(Duration::from_millis(2));
        }
        work(&[build().wait().unwrap()]);
        drop(left);
        eventually("closed", || (proxy.connections() == 0).then_some(()));
    }
}

mod etcd {
    use super::*;
    use support::etcd::Etcd;

    #[test]
    fn an_unpolled_build_blocks_no_other() {
        super::an_unpolled_build_blocks_no_other("etcd", Etcd::shared().address());
    }

    #[test]
    fn a_hundred_managers_have_one_client() {
        super::a_hundred_managers_have_one_client("etcd", Etcd::shared().address(), 1);
    }

    #[test]
    fn the_order_of_endpoints_makes_no_difference() {
        let server = Etcd::shared().address();
        let (first, second) = (Proxy::start(server), Proxy::start(server));
        let (a, b) = (first.address(), second.address());
        let urls = [format!("etcd://{a},{b}"), format!("etcd://{b},{a}"), format!("etcd://{b},{a},{b}")];
        let managers = build(9, |number| LockManager::builder().url(&urls[number % 3]));
        work(&managers);
        assert_eq!(first.accepted() + second.accepted(), 1);
    }

    #[test]
    fn other_credentials_are_another_client() {
        let etcd = Etcd::start();
        for command in [
            "user add root:root",
            "user add me:secret",
            "role add all",
            "role grant-permission all --prefix=true readwrite leasehold/",
            "user grant-role me all",
            "user grant-role root root",
            "auth enable",
        ] {
            etcd.etcdctl(&command.split(' ').collect::<Vec<_>>());
        }
        let proxy = Proxy::start(etcd.address());
        let at = |user: &str| LockManager::builder().url(format!("etcd://{user}@{}", proxy.address()));
        let managers = build(6, |number| at(["me:secret", "root:root"][number % 2]));
        work(&managers);
        assert_eq!(proxy.accepted(), 2);
        let error = at("me:wrong").build().wait().unwrap_err();
        assert_eq!(error.code(), "BACKEND");
        let error = at("me:secret").prefix("elsewhere/").build().wait().unwrap_err();
        assert!(error.to_string().contains("denied"), "another error: {error}");
    }
}

mod redis {
    use super::*;
    use support::redis::Redis;

    #[test]
    fn an_unpolled_build_blocks_no_other() {
        super::an_unpolled_build_blocks_no_other("redis", Redis::shared().address());
    }

    #[test]
    fn a_hundred_managers_have_one_client() {
        // One connection for commands, one for messages.
        super::a_hundred_managers_have_one_client("redis", Redis::shared().address(), 2);
    }

    #[test]
    fn other_credentials_and_databases_are_other_clients() {
        let redis = Redis::start();
        redis.cli(&["ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all"]);
        let proxy = Proxy::start(redis.address());
        let at = |user: &str, database: &str| {
            LockManager::builder().url(format!("redis://{user}{}/{database}", proxy.address()))
        };
        let managers =
            build(9, |number| [at("me:secret@", "0"), at("", "0"), at("", "1")].into_iter().nth(number % 3).unwrap());
        managers.iter().for_each(|manager| work(std::slice::from_ref(manager)));
        assert_eq!(proxy.accepted(), 6);
        let error = at("me:wrong@", "0").build().wait().unwrap_err();
        assert_eq!(error.code(), "BACKEND");
    }
}
