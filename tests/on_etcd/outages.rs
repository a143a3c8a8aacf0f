//! An etcd that is away for a while, stops sending some answers, compacts its history or has no space left.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Loss};
use support::etcd::Etcd;
use support::folder::Folder;
use support::grpc::Grpc;
use support::history::{History, Hold};
use support::ports::free_port;
use support::proxy::Proxy;
use support::{PATIENCE, eventually, in_the_background, lost};

const PREFIX: &str = "outages/";
/// The limit for noticing a release.
const SOON: Duration = Duration::from_secs(1);

fn manager(url: impl AsRef<str>, ttl: Duration) -> LockManager {
    LockManager::builder().url(url).prefix(PREFIX).ttl(ttl).build().wait().unwrap()
}

/// The number of claims of a key.
fn claims(etcd: &Etcd, key: &str) -> usize {
    etcd.keys(&format!("{PREFIX}{key}/")).len()
}

/// Locks on a separate thread; returns once the waiter is second in the queue.
fn wait_for(manager: &LockManager, key: &str, etcd: &Etcd) -> Receiver<(LockGuard, Instant)> {
    let guards = in_the_background(manager.lock(key));
    eventually("the waiter is in the queue", || (claims(etcd, key) == 2).then_some(()));
    guards
}

#[test]
fn a_compaction_while_the_watch_is_down_hides_no_release() {
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address());
    let ttl = Duration::from_secs(30);
    let (holder, waiter) = (manager(etcd.url(), ttl), manager(format!("etcd://{}", proxy.address()), ttl));
    for (silent, late, seconds) in
        [(false, false, 0), (false, true, 0), (false, false, 3), (false, true, 3), (true, false, 2), (true, true, 2)]
    {
        let guard = holder.lock("k").timeout(PATIENCE).wait().unwrap();
        let waiting = wait_for(&waiter, "k", &etcd);
        if silent {
            proxy.cut();
        } else {
            proxy.refuse(true);
            proxy.reset_all();
        }
        etcd.etcdctl(&["put", "something", "else"]);
        let mut guard = Some(guard);
        if !late && let Some(guard) = guard.take() {
            guard.unlock().wait().unwrap();
        }
        etcd.compact();
        // A fixed pause: the connection is down.
        std::thread::sleep(Duration::from_secs(seconds));
        proxy.heal();
        let mut released = Instant::now();
        if let Some(guard) = guard {
            eventually("the connection is up", || waiter.ping().wait().ok());
            released = Instant::now();
            guard.unlock().wait().unwrap();
        }
        let (guard, at) = waiting.recv_timeout(PATIENCE).unwrap();
        let took = at.saturating_duration_since(released);
        println!("silent {silent}, released afterwards {late}, down for {seconds} s: in after {took:?}");
        assert!(took < SOON, "{took:?}");
        guard.unlock().wait().unwrap();
    }
}

#[test]
fn waiters_with_a_silent_watch_check_periodically() {
    let etcd = Etcd::start();
    let proxy = Grpc::start(etcd.address());
    let ttl = Duration::from_secs(60);
    let (holder, waiter) = (manager(etcd.url(), ttl), manager(format!("etcd://{}", proxy.address()), ttl));
    // Each waiter checks at different times, and the latest check is in time as well.
    let keys: Vec<_> = (0..24).map(|number| format!("k{number}")).collect();
    let guards: Vec<_> = keys.iter().map(|key| holder.lock(key).wait().unwrap()).collect();
    let waiting: Vec<_> = keys.iter().map(|key| wait_for(&waiter, key, &etcd)).collect();
    proxy.silence("/etcdserverpb.Watch/Watch");
    let released = Instant::now();
    guards.into_iter().for_each(|guard| guard.unlock().wait().unwrap());
    let times = waiting.iter().map(|waiting| {
        let (guard, at) = waiting.recv_timeout(PATIENCE).unwrap();
        guard.unlock().wait().unwrap();
        at - released
    });
    let longest = times.max().unwrap();
    println!("the last of {} in after {longest:?}", keys.len());
    assert!(longest < Duration::from_secs(6), "{longest:?}");
}

#[test]
fn locks_work_with_watches_that_are_silent_from_the_start() {
    let etcd = Etcd::start();
    let proxy = Grpc::start(etcd.address());
    proxy.silence("/etcdserverpb.Watch/Watch");
    let ttl = Duration::from_secs(60);
    let (holder, waiter) = (manager(etcd.url(), ttl), manager(format!("etcd://{}", proxy.address()), ttl));
    let guard = holder.lock("k").wait().unwrap();
    let waiting = wait_for(&waiter, "k", &etcd);
    guard.unlock().wait().unwrap();
    waiting.recv_timeout(PATIENCE).unwrap().0.unlock().wait().unwrap();
}

#[test]
fn the_ttl_that_was_granted_is_shown() {
    let etcd = Etcd::shared();
    let manager = manager(etcd.url(), Duration::from_secs(1));
    let guard = manager.lock("granted").wait().unwrap();
    let remaining = guard.remaining();
    assert!(remaining > Duration::from_millis(1200) && remaining < Duration::from_secs(2), "{remaining:?}");
    assert!(guard.renew().wait().unwrap() > Duration::from_millis(1200));
    // A fixed pause: longer than the requested TTL.
    std::thread::sleep(Duration::from_millis(1300));
    assert!(!guard.is_lost());
}

#[test]
fn the_search_for_another_endpoint_begins_behind_the_one_that_failed() {
    let etcd = Etcd::start();
    let (first, second) = (Proxy::start(etcd.address()), Proxy::start(etcd.address()));
    // The first one refuses connections, so the manager begins with the second.
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let url = format!("etcd://{nobody},{},{}", first.address(), second.address());
    let manager = manager(url, Duration::from_secs(60));
    let before = first.accepted();
    assert_eq!((before > 0, second.accepted()), (true, 0));
    first.cut();
    drop(manager.lock("moved").timeout(PATIENCE).wait().unwrap());
    assert_eq!(first.accepted(), before, "the one that had just failed was tried again");
    first.heal();
}

#[test]
fn a_short_restart_is_no_loss() {
    let mut etcd = Etcd::start();
    let ttl = Duration::from_secs(10);
    let (holder, waiter) = (manager(etcd.url(), ttl), manager(etcd.url(), ttl));
    let guard = holder.lock("k").wait().unwrap();
    let waiting = wait_for(&waiter, "k", &etcd);
    let renewed = holder.stats().renewals;
    let start = Instant::now();
    etcd.restart();
    println!("restarted in {:?}", start.elapsed());
    eventually("a renewal", || (holder.stats().renewals > renewed).then_some(()));
    eventually("the old deadline has passed", || (start.elapsed() > ttl + SOON).then_some(()));
    assert!(!guard.is_lost() && waiting.try_recv().is_err());
    guard.unlock().wait().unwrap();
    let released = Instant::now();
    let (guard, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the waiter in after {:?}", at.saturating_duration_since(released));
    assert!(at.saturating_duration_since(released) < SOON);
    guard.unlock().wait().unwrap();
}

#[test]
fn a_long_restart_is_a_loss_in_time() {
    let mut etcd = Etcd::start();
    let ttl = Duration::from_secs(3);
    let (holder, waiter) = (manager(etcd.url(), ttl), manager(etcd.url(), ttl));
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    let guard = holder.lock("k").wait().unwrap();
    let hold = history.acquired(&guard);
    let (request, recorder, (got, taken)) = (waiter.lock("k"), history.clone(), channel());
    std::thread::spawn(move || {
        let guard = request.wait().unwrap();
        let hold: Hold = recorder.acquired(&guard);
        got.send((guard, hold))
    });
    eventually("the waiter is in the queue", || (claims(&etcd, "k") == 2).then_some(()));
    etcd.kill();
    let start = Instant::now();
    assert_eq!(lost(&guard).0, Loss::Unreachable);
    hold.lost();
    println!("lost {:?} after the server's end", start.elapsed());
    // A busy machine notifies it a little late; what matters is that no other hold began before.
    assert!(start.elapsed() < ttl + SOON / 2, "{:?}", start.elapsed());
    etcd.restart();
    // The server still has the old claims, for a whole TTL from its start or until their managers have revoked them.
    let (next, next_hold) = taken.recv_timeout(PATIENCE).unwrap();
    println!("the next one in {:?} after the server's end", start.elapsed());
    assert!(next.token() > guard.token());
    next_hold.released();
    next.unlock().wait().unwrap();
    drop(guard);
    holder.lock("k").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    history.assert_clean(2);
}

#[test]
fn all_managers_recover_at_once_after_an_outage() {
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address());
    let ttl = Duration::from_secs(2);
    let managers: Vec<_> = (0..6).map(|_| manager(format!("etcd://{}", proxy.address()), ttl)).collect();
    proxy.refuse(true);
    proxy.reset_all();
    // They begin at different times, so that their backoffs differ when the outage ends; all have lost their sessions by then.
    let wait = |(number, manager): (usize, &LockManager)| {
        let guards = in_the_background(manager.lock(format!("k{number}")));
        std::thread::sleep(Duration::from_millis(700));
        guards
    };
    let waiting: Vec<_> = managers.iter().enumerate().map(wait).collect();
    std::thread::sleep(Duration::from_secs(6));
    proxy.heal();
    let start = Instant::now();
    let times = waiting.iter().map(|waiting| waiting.recv_timeout(PATIENCE).unwrap().1 - start);
    let longest = times.max().unwrap();
    println!("all are back after {longest:?}");
    assert!(longest < 3 * SOON, "{longest:?}");
}

#[test]
fn without_space_only_locking_fails_and_clearly() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=500000"]);
    let ttl = Duration::from_secs(3);
    let (manager, other) = (manager(etcd.url(), ttl), manager(etcd.url(), ttl));
    let guards = ["held", "dropped", "again"].map(|key| manager.lock(key).wait().unwrap());
    let value = "x".repeat(100_000);
    eventually("the server is full", || {
        etcd.try_etcdctl(&["put", "filler", &value]).err().filter(|error| error.contains("space exceeded"))
    });
    let start = Instant::now();
    for error in [
        manager.lock("k").wait().unwrap_err(),
        manager.try_lock("k").wait().unwrap_err(),
        // These need separate leases.
        manager.lock("k").isolated().wait().unwrap_err(),
        manager.lock("k").ttl(2 * ttl).wait().unwrap_err(),
    ] {
        println!("{error}");
        assert_eq!(error.code(), "BACKEND");
        assert!(error.to_string().contains("space exceeded") && error.to_string().contains("\"k\""), "{error}");
    }
    assert!(start.elapsed() < SOON, "retried for too long: {:?}", start.elapsed());
    // Renewals continue.
    eventually("the first deadline has passed", || (start.elapsed() > 2 * ttl).then_some(()));
    assert!(guards.iter().all(|guard| !guard.is_lost()));
    // So do releases, also one that would have been sent with a claim.
    let [held, dropped, again] = guards;
    drop(again);
    assert_eq!(manager.lock("again").wait().unwrap_err().code(), "BACKEND");
    drop(dropped);
    held.unlock().wait().unwrap();
    for key in ["held", "dropped", "again", "k"] {
        eventually("it is released", || (claims(&etcd, key) == 0).then_some(()));
    }
    etcd.compact();
    etcd.etcdctl(&["defrag"]);
    etcd.etcdctl(&["alarm", "disarm"]);
    for manager in [&manager, &other] {
        manager.lock("k").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    }
}
