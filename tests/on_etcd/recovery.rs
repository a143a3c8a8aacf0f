//! Managers on etcd after an outage or a restore of the server, and with narrow limits on the server.

use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::future::join_all;
use leasehold::{LockGuard, LockManager, Owner};
use support::etcd::Etcd;
use support::proxy::Proxy;
use support::{PATIENCE, eventually, lost};

const PREFIX: &str = "recovery/";

fn manager(url: impl AsRef<str>, ttl: Duration) -> LockManager {
    LockManager::builder().url(url).prefix(PREFIX).ttl(ttl).build().wait().unwrap()
}

fn lock_many(manager: &LockManager, count: usize) -> Vec<LockGuard> {
    block_on(join_all((0..count).map(|number| manager.lock(format!("k{number}")).into_future())))
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn a_hold_that_is_taken_away_during_a_reconnect_is_lost_where_transactions_are_small() {
    let etcd = Etcd::start_with(&["--max-txn-ops", "10"]);
    let proxy = Proxy::start(etcd.address());
    let ttl = Duration::from_secs(6);
    let (holder, other) = (manager(format!("etcd://{}", proxy.address()), ttl), manager(etcd.url(), ttl));
    let mut guards = lock_many(&holder, 80);
    // A fixed pause: until each hold has a watch.
    std::thread::sleep(Duration::from_millis(200));
    proxy.refuse(true);
    proxy.reset_all();
    other.force_unlock("k40").key_only().wait().unwrap();
    let _taken = other.lock("k40").timeout(PATIENCE).wait().unwrap();
    proxy.heal();
    let healed = Instant::now();
    let evicted = guards.remove(40);
    let (_, at) = lost(&evicted);
    let took = at.saturating_duration_since(healed);
    println!("lost {took:?} after the connection could be made again");
    assert!(took < ttl / 3 + Duration::from_secs(1), "{took:?}");
    assert_eq!(guards.iter().filter(|guard| guard.is_lost()).count(), 0, "others were lost");
}

#[test]
fn a_session_with_many_keys_is_forced_out_where_transactions_are_small() {
    let etcd = Etcd::start_with(&["--max-txn-ops", "10"]);
    let (holder, other) = (manager(etcd.url(), PATIENCE), manager(etcd.url(), PATIENCE));
    let guards = lock_many(&holder, 80);
    let eviction = other.force_unlock("k0").wait().unwrap();
    assert_eq!(eviction.released.len(), 80);
    guards.iter().for_each(|guard| {
        lost(guard);
    });
}

#[test]
fn four_operations_in_a_transaction_are_enough_and_fewer_are_refused() {
    let etcd = Etcd::start_with(&["--max-txn-ops", "4"]);
    let manager =
        LockManager::builder().url(etcd.url()).prefix(PREFIX).hand_over(Duration::ZERO, 0).build().wait().unwrap();
    let other = LockManager::builder().url(etcd.url()).prefix(PREFIX).build().wait().unwrap();
    for _ in 0..3 {
        let guards = lock_many(&manager, 20);
        drop(guards);
        let requests =
            (0..20).map(|number| manager.lock(format!("k{number}")).shared().owner(&Owner::new()).into_future());
        let readers = block_on(join_all(requests));
        readers.into_iter().for_each(|guard| drop(guard.unwrap()));
        let again = (0..5).map(|_| manager.lock("k0").shared().owner(&Owner::new()).into_future());
        block_on(join_all(again)).into_iter().for_each(|guard| drop(guard.unwrap()));
        manager.try_lock("k0").wait().unwrap().unwrap().unlock().wait().unwrap();
        let held = other.lock("k0").wait().unwrap();
        for _ in 0..3 {
            assert!(manager.try_lock("k0").wait().unwrap().is_none());
            assert!(manager.lock("k0").shared().try_once().wait().unwrap().is_none());
        }
        held.unlock().wait().unwrap();
        drop(manager.lock_all(["a", "b", "c"]).wait().unwrap());
    }
    let etcd = Etcd::start_with(&["--max-txn-ops", "3"]);
    let refused = LockManager::builder().url(etcd.url()).build().wait().unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("--max-txn-ops") && text.contains('4'), "{text}");
}

#[test]
fn many_releases_of_one_key_leave_it_free() {
    let etcd = Etcd::shared();
    for count in [126, 400] {
        let manager =
            LockManager::builder().url(etcd.url()).prefix(PREFIX).hand_over(Duration::ZERO, 0).build().wait().unwrap();
        let key = format!("shared{count}");
        let readers = (0..count).map(|_| manager.lock(&key).shared().owner(&Owner::new()).into_future());
        let readers: Vec<_> = block_on(join_all(readers)).into_iter().map(Result::unwrap).collect();
        drop(readers);
        let writer = manager.lock(&key).timeout(PATIENCE).wait().unwrap();
        writer.unlock().wait().unwrap();
    }
}

#[test]
fn a_key_that_was_released_in_an_outage_is_free_after_it() {
    let ttl = Duration::from_secs(2);
    for (isolated, outage) in [(true, Duration::from_secs(4)), (false, Duration::from_secs(10))] {
        let etcd = Etcd::start();
        let proxy = Proxy::start(etcd.address());
        let manager = manager(format!("etcd://{}", proxy.address()), ttl);
        let request = manager.lock("k");
        let guard = if isolated { request.isolated() } else { request }.wait().unwrap();
        proxy.cut();
        drop(guard);
        // A fixed pause: the outage.
        std::thread::sleep(outage);
        proxy.heal();
        eventually("the connection is up", || manager.ping().wait().ok());
        let up = Instant::now();
        // No lock() is called, which would send the release with its claim.
        let free = eventually("the key is free", || manager.try_lock("k").wait().ok().flatten());
        let took = up.elapsed();
        println!("isolated {isolated}: free after {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        free.unlock().wait().unwrap();
    }
}

#[test]
fn a_long_outage_of_the_cluster_prolongs_no_lock_that_was_released_in_it() {
    let ttl = Duration::from_secs(8);
    let mut etcd = Etcd::start();
    let (manager, other) = (manager(etcd.url(), ttl), manager(etcd.url(), ttl));
    drop(other.lock("warm").wait().unwrap());
    let (session, own) = (manager.lock("session").wait().unwrap(), manager.lock("own").isolated().wait().unwrap());
    let held = manager.lock("held").wait().unwrap();
    etcd.kill();
    drop((session, own));
    lost(&held);
    // A fixed pause: more than three TTLs after the last renewal.
    std::thread::sleep(ttl * 3);
    etcd.restart();
    eventually("the connection is up", || other.ping().wait().ok());
    let up = Instant::now();
    for key in ["session", "own", "held"] {
        let guard = other.lock(key).timeout(PATIENCE).wait().unwrap();
        guard.unlock().wait().unwrap();
    }
    let took = up.elapsed();
    println!("all are free {took:?} after the server is up");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_store_that_is_restored_from_a_backup_ends_the_sessions() {
    let ttl = Duration::from_secs(9);
    let mut etcd = Etcd::start();
    let (manager, other) = (manager(etcd.url(), ttl), manager(etcd.url(), ttl));
    let old = manager.lock("old").wait().unwrap();
    let released = manager.lock("released").wait().unwrap();
    let snapshot = etcd.save_snapshot();
    released.unlock().wait().unwrap();
    let young = manager.lock("young").wait().unwrap();
    for _ in 0..50 {
        other.lock("filler").wait().unwrap().unlock().wait().unwrap();
    }
    etcd.restore_snapshot(&snapshot);
    let restored = Instant::now();
    for guard in [&young, &old] {
        let (cause, at) = lost(guard);
        let took = at.saturating_duration_since(restored);
        println!("lost ({cause}) {took:?} after the restore");
        assert!(took < ttl / 3 + Duration::from_secs(3), "{took:?}");
    }
    let began = Instant::now();
    for key in ["young", "old", "released", "fresh"] {
        manager.lock(key).timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
        other.lock(key).timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    }
    // The leases from the backup were not kept alive, and the old session was revoked.
    let took = began.elapsed();
    println!("all locks work {took:?} after the loss");
    assert!(took < ttl / 2, "{took:?}");
    eventually("the claims of the old session are deleted", || {
        etcd.keys(PREFIX).iter().all(|name| name.contains("%session/")).then_some(())
    });
}
