//! Each other client and leasehold exclude each other, in either order.

use std::time::{Duration, Instant};

use leasehold::{LockManager, Mode};
use leasehold_interop_tests::client::{Client, Kind, TTL};
use support::clusters::RedisCluster;
use support::redis::Redis;
use support::{eventually, in_the_background};

/// The limit for waiters that poll every 100 ms, on a busy machine; before any lock expires.
const SOON: Duration = Duration::from_secs(5);

fn manager(server: &Redis) -> LockManager {
    LockManager::connect(format!("{}?signal_lists=true", server.url())).wait().unwrap()
}

fn waits(manager: &LockManager, key: &str) {
    eventually("it waits", || (manager.info(key).wait().unwrap()?.waiters == 1).then_some(()));
}

/// Leasehold waits for another client, at the server with this URL, and gets the lock after it.
fn ours_waits(ours: &LockManager, kind: Kind, url: &str, key: &str) {
    let before = ours.lock(key).wait().unwrap().token();
    let mut theirs = Client::start(kind, url, &format!("lock:{key}"));
    eventually("the release has arrived", || theirs.try_lock().then_some(()));
    for request in [ours.lock(key), ours.lock(key).shared()] {
        assert!(request.try_once().wait().unwrap().is_none(), "{key}");
    }
    let info = ours.info(key).wait().unwrap().unwrap();
    assert!(info.foreign && info.holders.is_empty() && info.mode == Mode::Exclusive, "{info:?}");
    assert!(info.remaining.is_some_and(|left| !left.is_zero() && left <= TTL), "{info:?}");
    let error = ours.lock(key).timeout(Duration::from_millis(300)).wait().unwrap_err();
    assert_eq!(error.code(), "LOCK_TIMEOUT", "{key}: {error}");

    let waiting = in_the_background(ours.lock(key));
    waits(ours, key);
    assert!(waiting.try_recv().is_err(), "{key}");
    let start = Instant::now();
    theirs.unlock();
    let guard = waiting.recv_timeout(SOON).expect("it is free").0;
    println!("{key}: ours {:?} after the release began", start.elapsed());
    assert!(guard.token() > before && !theirs.try_lock(), "{key}");
    guard.unlock().wait().unwrap();
}

/// The other way round.
fn theirs_waits([one, two]: [&LockManager; 2], kind: Kind, url: &str, key: &str) {
    let mut theirs = Client::start(kind, url, &format!("lock:{key}"));
    let first = one.lock(key).wait().unwrap();
    assert!(!theirs.try_lock(), "{key}");
    let second = in_the_background(two.lock(key));
    waits(one, key);
    first.unlock().wait().unwrap();
    // Handed over within the process: the lock is never free.
    let second = second.recv_timeout(SOON).expect("it was handed over").0;
    assert!(!theirs.try_lock(), "{key}");
    second.unlock().wait().unwrap();
    assert!(theirs.try_lock(), "{key}");
    theirs.unlock();

    let readers = [one, two].map(|manager| manager.lock(key).shared().wait().unwrap());
    assert!(!theirs.try_lock(), "{key}");
    theirs.begin_to_wait();
    let [first, last] = readers;
    first.unlock().wait().unwrap();
    assert!(theirs.waits(), "{key}");
    let start = Instant::now();
    last.unlock().wait().unwrap();
    theirs.has_it();
    println!("{key}: theirs {:?} after our release began", start.elapsed());
    assert!(one.try_lock(key).wait().unwrap().is_none(), "{key}");
    theirs.unlock();
    drop(one.try_lock(key).wait().unwrap().expect("it is free"));
}

#[test]
fn leasehold_waits_for_other_clients_and_gets_the_lock_after_them() {
    let server = Redis::start();
    let ours = manager(&server);
    for kind in Kind::ALL {
        ours_waits(&ours, kind, &server.url(), kind.word());
    }
}

#[test]
fn other_clients_wait_for_leasehold_and_get_the_lock_after_it() {
    let server = Redis::start();
    let (one, two) = (manager(&server), manager(&server));
    for kind in Kind::ALL {
        theirs_waits([&one, &two], kind, &server.url(), kind.word());
    }
}

#[test]
fn in_a_cluster_another_client_and_leasehold_exclude_each_other_in_all_slots() {
    let cluster = RedisCluster::start_with(0, &[]);
    let connect = || LockManager::connect(cluster.url()).wait().unwrap();
    let (one, two) = (connect(), connect());
    for place in 0..3 {
        let url = cluster.nodes()[place].url();
        let mut keys = (0..).map(|number| format!("k{number}"));
        let key = keys.find(|key| cluster.master_of(cluster.slot(&format!("lock:{key}"))) == place).unwrap();
        // It is told of one node only, another one than has the key.
        let other = cluster.nodes()[(place + 1) % 3].url();
        ours_waits(&one, Kind::RedisPyCluster, &url, &key);
        theirs_waits([&one, &two], Kind::RedisPyCluster, &other, &key);
    }
}
