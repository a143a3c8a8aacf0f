//! The ends of attempts and holds on a real Redis: their remains, and the reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use leasehold::{LockManager, Owner};
use support::proxy::Proxy;
use support::redis::Redis;
use support::{PATIENCE, eventually, in_a_separate_process};

/// The longest delay of a thread on a busy machine.
const LATE: Duration = Duration::from_millis(500);

fn manager(address: std::net::SocketAddr, ttl: Duration) -> LockManager {
    LockManager::builder().url(format!("redis://{address}")).ttl(ttl).timeout(PATIENCE).build().wait().unwrap()
}

#[test]
fn a_copy_of_a_request_that_was_answered_busy_takes_nothing_later() {
    for isolated in [false, true] {
        let server = Redis::start();
        let proxy = Proxy::start(server.address());
        let (holder, trying) = (manager(server.address(), PATIENCE), manager(proxy.address(), PATIENCE));
        let held = holder.lock("k").wait().unwrap();
        let frozen = proxy.connections();
        proxy.freeze();
        let request = if isolated { trying.lock("k").isolated() } else { trying.lock("k") };
        // Sent on the frozen connection, and again on the next one.
        assert!(request.try_once().wait().unwrap().is_none());
        assert!(proxy.connections() > frozen, "it was sent twice");
        held.unlock().wait().unwrap();
        // The old copy arrives: when its connection has ended, the server has read it.
        proxy.heal();
        eventually("the old copy has arrived", || (proxy.connections() <= frozen).then_some(()));
        server.cli(&["PING"]);
        let left = eventually("the effect of the copy is visible", || Some(server.keys("lock:k")));
        assert!(left.is_empty(), "isolated: {isolated}: the key is free: {}", server.cli(&["GET", "lock:k"]));
        assert!(holder.try_lock("k").wait().unwrap().is_some());
    }
}

/// The pages of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn busy_tries_leave_nothing_in_memory() {
    in_a_separate_process!();
    const KEYS: usize = 64;
    const TRIES: usize = 100_000;
    let server = Redis::start();
    let proxy = Proxy::start(server.address());
    let (holder, trying) = (manager(server.address(), PATIENCE), manager(proxy.address(), PATIENCE));
    let keys: Vec<_> = (0..KEYS).map(|number| format!("k{number}")).collect();
    let _held: Vec<_> = keys.iter().map(|key| holder.lock(key).owner(&Owner::new()).wait().unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tries = |count: usize| {
        let left = Arc::new(AtomicUsize::new(count));
        runtime.block_on(futures::future::join_all(keys.iter().map(|key| {
            let (trying, key, left) = (trying.clone(), key.clone(), left.clone());
            async move {
                let more =
                    || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
                while more() {
                    assert!(trying.try_lock(&key).await.unwrap().is_none());
                }
            }
        })));
    };
    // Allocations that are made once.
    tries(TRIES / 10);
    let (before, start) = (resident(), Instant::now());
    tries(TRIES);
    let grown = resident().saturating_sub(before);
    println!("{TRIES} tries in {:?}: {} KiB more", start.elapsed(), grown / 1024);
    assert!(grown < 8 << 20, "{grown} bytes more after {TRIES} tries");
    // The first lock after an outage.
    proxy.reset_all();
    let start = Instant::now();
    trying.lock("free").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    let (first, start) = (start.elapsed(), Instant::now());
    trying.close().wait().unwrap();
    let closed = start.elapsed();
    println!("the first lock after the outage in {first:?}, closed in {closed:?}");
    assert!(first < Duration::from_millis(1500), "{first:?}");
    assert!(closed < Duration::from_millis(500), "{closed:?}");
}

const TTL: Duration = Duration::from_secs(5);

/// Holds a key behind a proxy that is cut after a tenth of the TTL; unlocks after three tenths. Returns the outcome.
fn unlock_in_the_dark(
    server: &Redis,
    also: bool,
    meanwhile: impl FnOnce(&Proxy),
) -> (leasehold::Result<()>, Duration, LockManager) {
    let proxy = Proxy::start(server.address());
    let behind = LockManager::builder().url(format!("redis://{}", proxy.address())).ttl(TTL).build().wait().unwrap();
    let (start, guard) = (Instant::now(), behind.lock("k").wait().unwrap());
    let other = also.then(|| behind.lock("other").owner(&Owner::new()).wait().unwrap());
    let at = |tenths: u32| std::thread::sleep((TTL * tenths / 10).saturating_sub(start.elapsed()));
    at(1);
    proxy.cut();
    meanwhile(&proxy);
    at(3);
    let (done, outcome) = channel();
    std::thread::spawn(move || {
        let outcome = guard.unlock().wait();
        // Fails only if the test has failed.
        let _ = done.send((outcome, start.elapsed()));
    });
    let (outcome, took) = outcome.recv_timeout(TTL + PATIENCE).expect("unlock() ends");
    drop(other);
    proxy.heal();
    (outcome, took, behind)
}

#[test]
fn an_unlock_while_the_server_is_away_ends_at_the_deadline_of_its_hold() {
    for also in [false, true] {
        let server = Redis::start();
        let direct = manager(server.address(), PATIENCE);
        let (outcome, took, _behind) = unlock_in_the_dark(&server, also, |_| ());
        println!("another hold: {also}: {outcome:?} after {took:?}");
        assert_eq!(outcome.unwrap_err().code(), "LOCK_EXPIRED");
        assert!(took > TTL * 8 / 10, "{took:?}: it was tried until then");
        assert!(took < TTL + LATE, "{took:?}: not beyond its deadline");
        let next = direct.lock("k").timeout(PATIENCE).wait().unwrap();
        assert!(!next.is_lost());
    }
}

#[test]
fn an_unlock_ends_although_the_server_never_returns() {
    let mut server = Redis::start();
    let address = server.address();
    let proxy = Proxy::start(address);
    let behind = LockManager::builder().url(format!("redis://{}", proxy.address())).ttl(TTL).build().wait().unwrap();
    let (start, guard) = (Instant::now(), behind.lock("k").wait().unwrap());
    server.kill();
    let error = guard.unlock().wait().unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    assert_eq!(error.code(), "LOCK_EXPIRED");
    assert!(start.elapsed() < TTL + LATE, "{:?}", start.elapsed());
}

#[test]
fn an_unlock_of_a_lock_that_was_removed_says_so() {
    let server = Redis::start();
    let manager = manager(server.address(), PATIENCE);
    for shared in [false, true] {
        for taken in [false, true] {
            let request = if shared { manager.lock("k").shared() } else { manager.lock("k") };
            let guard = request.wait().unwrap();
            server.cli(&["DEL", "lock:k"]);
            if taken {
                server.cli(&["SET", "lock:k", "somebody", "NX"]);
            }
            let error = guard.unlock().wait().unwrap_err();
            assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some("k")), "shared: {shared}, taken: {taken}");
            assert_eq!(server.keys("lock:k").len(), usize::from(taken), "the successor keeps its lock");
            server.cli(&["DEL", "lock:k"]);
        }
    }
}

#[test]
fn an_unlock_whose_answer_was_lost_is_an_unlock() {
    let server = Redis::start();
    let (proxy, direct) = (Proxy::start(server.address()), manager(server.address(), PATIENCE));
    let behind = manager(proxy.address(), PATIENCE);
    let guard = behind.lock("k").wait().unwrap();
    proxy.drop_answers(true);
    let unlocking = std::thread::spawn(move || guard.unlock().wait());
    let next = direct.lock("k").timeout(PATIENCE).wait().unwrap();
    proxy.drop_answers(false);
    unlocking.join().unwrap().unwrap();
    assert!(!next.is_lost());
    next.unlock().wait().unwrap();
}
