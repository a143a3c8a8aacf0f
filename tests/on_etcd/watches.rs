//! The watch stream, which all managers on a connection share.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use support::etcd::{Etcd, metric};
use support::proxy::Proxy;
use support::{PATIENCE, eventually, lost};

/// The number of watch streams that the server has begun.
fn streams(etcd: &Etcd) -> u64 {
    metric(etcd.address(), "grpc_server_started_total", &["grpc_method=\"Watch\""])
}

fn watchers(etcd: &Etcd) -> u64 {
    metric(etcd.address(), "etcd_debugging_mvcc_watcher_total", &[])
}

#[test]
fn thirty_managers_need_one_stream_and_keep_their_holds_where_streams_are_few() {
    let etcd = Etcd::start_with(&["--max-concurrent-streams", "20"]);
    let ttl = Duration::from_secs(4);
    let manager = || LockManager::builder().url(etcd.url()).ttl(ttl).build().wait().unwrap();
    let managers: Vec<_> = (0..30).map(|_| manager()).collect();
    let lock = |n: usize| managers[n].lock(format!("k{n}")).timeout(PATIENCE).wait().unwrap();
    let guards: Vec<_> = (0..30).map(lock).collect();
    for manager in &managers {
        eventually("several renewals", || (manager.stats().renewals >= 4).then_some(()));
    }
    assert_eq!(guards.iter().filter(|guard| guard.is_lost()).count(), 0);
    // A session and a hold each; and one stream for the check at connecting.
    assert_eq!(watchers(&etcd), 60);
    assert!(streams(&etcd) <= 2, "{} streams", streams(&etcd));
    // Each is notified of its own losses, and has no others.
    etcd.etcdctl(&["del", "--prefix", "leasehold/k7/"]);
    lost(&guards[7]);
    assert_eq!(guards.iter().filter(|guard| guard.is_lost()).count(), 1);
    // A manager that ends cancels its own watches only.
    let mut managers = managers;
    managers.remove(3).close().wait().unwrap();
    eventually("its watches have ended", || (watchers(&etcd) == 60 - 3).then_some(()));
}

#[test]
fn a_hold_that_may_not_be_watched_any_more_affects_no_other() {
    let etcd = Etcd::start();
    for command in [
        &["user", "add", "root:secret"][..],
        &["user", "add", "joe:pass"],
        &["role", "add", "locks"],
        &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "leasehold/%session/"],
        &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "leasehold/a/"],
        &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "leasehold/b/"],
        &["user", "grant-role", "joe", "locks"],
        &["auth", "enable"],
    ] {
        etcd.etcdctl(command);
    }
    let root = |command: &[&str]| etcd.etcdctl(&[&["--user", "root:secret"], command].concat());
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://joe:pass@{}", proxy.address());
    let manager = LockManager::builder().url(url).ttl(PATIENCE).build().wait().unwrap();
    let (a, b) = (manager.lock("a").wait().unwrap(), manager.lock("b").wait().unwrap());
    eventually("all have their watches", || (watchers(&etcd) >= 3).then_some(()));
    root(&["role", "revoke-permission", "locks", "--prefix=true", "leasehold/a/"]);
    // So that the watches are created again: existing ones stay.
    proxy.reset_all();
    eventually("the others are watched again", || (watchers(&etcd) == 2).then_some(()));
    let before = streams(&etcd);
    // A fixed pause: the watch that is refused could be asked for a few times.
    std::thread::sleep(Duration::from_secs(6));
    let more = streams(&etcd) - before;
    assert!(more <= 1, "{more} more streams");
    assert!(!a.is_lost() && !b.is_lost());
    let deleted = Instant::now();
    root(&["del", "--prefix", "leasehold/b/"]);
    let (_, at) = lost(&b);
    let took = at.saturating_duration_since(deleted);
    println!("notified of a loss {took:?} after the deletion began");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!a.is_lost());
}
