//! Faults of the network, for any backend: each is a function of a server's address, which it puts behind a proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use leasehold::{LockError, LockGuard, LockInfo, LockManager, Loss};

use support::folder::Folder;
use support::history::{History, Hold};
use support::proxy::Proxy;
use support::{PATIENCE, eventually, soak};

/// The TTL for leases that should end: a busy machine may need a second for any operation.
const TTL: Duration = Duration::from_secs(4);

/// The TTL for leases that should not end.
const LONG: Duration = Duration::from_secs(60);

/// The managers' timeout.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The limit for an immediate effect, on a busy machine: sooner than any periodic check.
const SOON: Duration = Duration::from_secs(3);

/// Managers on one server: one behind a proxy, and one with a direct connection. Their holds are recorded in one history.
struct Network {
    proxy: Proxy,
    behind: LockManager,
    direct: LockManager,
    history: History,
    _folder: Folder,
}

impl Network {
    /// Makes managers with separate keys, on the server at `address` whose URLs begin with `scheme`.
    fn new(scheme: &str, address: SocketAddr, fault: &str, ttl: Duration) -> Self {
        let proxy = Proxy::start(address);
        let build = |address: SocketAddr| {
            let builder = LockManager::builder().url(format!("{scheme}://{address}")).prefix(format!("{fault}/"));
            builder.ttl(ttl).timeout(TIMEOUT)
        };
        let behind = eventually("connected", || build(proxy.address()).name("behind").build().wait().ok());
        // Its requests meet no fault, and have a long timeout for a busy machine.
        let direct = build(address).name("direct").timeout(PATIENCE).build().wait().unwrap();
        let folder = Folder::new();
        let history = History::open(folder.path().join("history"));
        Self { proxy, behind, direct, history, _folder: folder }
    }

    fn lock(&self, manager: &LockManager, key: &str) -> (LockGuard, Hold) {
        let guard = manager.lock(key).timeout(PATIENCE).wait().unwrap();
        let hold = self.history.acquired(&guard);
        (guard, hold)
    }

    /// Locks on a separate thread.
    fn waiting(&self, manager: &LockManager, key: &str) -> Receiver<(LockGuard, Hold, Instant)> {
        let (request, history, (got, guards)) = (manager.lock(key), self.history.clone(), channel());
        std::thread::spawn(move || {
            let guard = request.wait().unwrap();
            let hold = history.acquired(&guard);
            let _ = got.send((guard, hold, Instant::now()));
        });
        guards
    }

    fn info(&self, key: &str) -> Option<LockInfo> {
        self.direct.info(key).wait().unwrap()
    }

    /// Waits until the server has this many claims of the key.
    fn claims(&self, key: &str, count: usize) {
        eventually(&format!("{count} claims of {key}"), || {
            (self.info(key).map_or(0, |info| info.holders.len() + info.waiters) == count).then_some(())
        });
    }

    /// Waits until the manager behind the proxy gets an answer.
    fn is_back(&self) {
        eventually("the server answers", || self.behind.ping().wait().ok());
    }

    /// Freezes the connections. Returns their number.
    fn freeze(&self) -> usize {
        let frozen = self.proxy.connections();
        self.proxy.freeze();
        frozen
    }

    /// Waits for another connection.
    fn is_overtaken(&self, frozen: usize) {
        self.is_back();
        assert!(self.proxy.connections() > frozen, "no connection was frozen");
    }

    /// Delivers the frozen bytes. Returns once the server has received them: their connection, which is unused, ends then.
    fn thaw(&self, frozen: usize) {
        self.proxy.heal();
        eventually("the frozen bytes have arrived", || (self.proxy.connections() <= frozen).then_some(()));
    }
}

/// Unlocks, and records that in the history.
fn unlock((guard, hold): (LockGuard, Hold)) -> Result<(), LockError> {
    hold.released();
    guard.unlock().wait()
}

/// Waits for the loss on this thread.
fn lost(guard: &LockGuard, hold: &Hold) -> Loss {
    let (loss, _) = support::lost(guard);
    hold.lost();
    loss
}

/// Generates a test of each fault on each server.
macro_rules! network_tests {
    ($($fault:ident)*) => {
        mod etcd {
            use support::etcd::Etcd;
            $(
                #[test]
                fn $fault() {
                    super::$fault("etcd", Etcd::shared().address());
                }
            )*
        }

        mod redis {
            use support::redis::Redis;
            $(
                #[test]
                fn $fault() {
                    super::$fault("redis", Redis::shared().address());
                }
            )*
        }
    };
}

network_tests! {
    a_lost_answer_to_an_acquire_is_one_hold_or_none
    a_request_that_arrives_after_its_clean_up_has_no_effect
    a_lost_answer_to_a_release_is_a_release
    a_lost_release_is_repeated
    a_lost_answer_to_a_renewal_is_no_loss
    late_answers_prolong_no_hold
    a_late_release_leaves_the_successor_alone
    a_half_open_connection_is_a_loss_in_time
    a_connection_that_breaks_after_any_byte_breaks_nothing_else
}

fn a_lost_answer_to_an_acquire_is_one_hold_or_none(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "acquire-lost", LONG);
    // Other owners contend for the key all the time.
    let ended = Arc::new(AtomicBool::new(false));
    let crowd = crowd(&net, "k", &ended);
    for round in 0..4 {
        unlock(net.lock(&net.behind, "k")).unwrap();
        net.is_back();
        net.proxy.drop_answers(true);
        // Long enough to be seen at the server, on a busy machine.
        let limit = if round % 2 == 0 { Some(SOON) } else { None };
        let (request, history, (got, results)) = (net.behind.lock("k"), net.history.clone(), channel());
        std::thread::spawn(move || {
            let request = limit.into_iter().fold(request, leasehold::LockRequest::timeout);
            let _ = got.send(request.wait().map(|guard| {
                let hold = history.acquired(&guard);
                (guard, hold)
            }));
        });
        // The server has the request, and its answer is lost.
        eventually("the claim is known to the server", || {
            let info = net.info("k")?;
            let ours = info.holders.iter().any(|holder| holder.name == "behind");
            (ours || info.waiters > 0).then_some(())
        });
        match limit {
            Some(_) => {
                let error = results.recv_timeout(PATIENCE).unwrap().expect_err("no answer, no hold");
                assert_eq!(error.code(), "LOCK_TIMEOUT");
                net.proxy.drop_answers(false);
            }
            None => {
                std::thread::sleep(Duration::from_millis(200));
                net.proxy.drop_answers(false);
                let (guard, hold) = results.recv_timeout(PATIENCE).unwrap().unwrap();
                assert_eq!((guard.depth(), guard.is_lost()), (1, false));
                unlock((guard, hold)).unwrap();
            }
        }
    }
    ended.store(true, Ordering::SeqCst);
    let rounds = crowd.join().unwrap();
    assert!(rounds > 4, "{rounds}");
    net.claims("k", 0);
    net.history.assert_clean(rounds);
}

/// Locks and unlocks by the direct manager until `end` is set. Returns the number of holds.
fn crowd(net: &Network, key: &str, ended: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (manager, history, ended, key) = (net.direct.clone(), net.history.clone(), ended.clone(), key.to_owned());
    std::thread::spawn(move || {
        let mut rounds = 0;
        while !ended.load(Ordering::SeqCst) {
            let guard = manager.lock(&key).timeout(PATIENCE).wait().unwrap();
            let hold = history.acquired(&guard);
            // Holds for a while, so that other owners wait.
            std::thread::sleep(Duration::from_millis(2));
            unlock((guard, hold)).unwrap();
            rounds += 1;
        }
        rounds
    })
}

fn a_request_that_arrives_after_its_clean_up_has_no_effect(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "late", LONG);
    for by_timeout in [true, false] {
        // The session exists, and no request is in flight.
        unlock(net.lock(&net.behind, "warm")).unwrap();
        let frozen = net.freeze();
        let asked = Instant::now();
        if by_timeout {
            let error = net.behind.lock("k").timeout(Duration::from_millis(200)).wait().unwrap_err();
            assert_eq!(error.code(), "LOCK_TIMEOUT");
        } else {
            assert_eq!(net.behind.try_lock("k").wait().unwrap_err().code(), "BACKEND");
        }
        println!("given up after {:?}", asked.elapsed());
        net.is_overtaken(frozen);
        // The next attempt on the key begins after the clean-up of the last one.
        unlock(net.lock(&net.behind, "k")).unwrap();
        net.claims("k", 0);
        net.thaw(frozen);
        let other = net.direct.try_lock("k").wait().unwrap().expect("the key is free");
        other.unlock().wait().unwrap();
        net.claims("k", 0);
    }
}

fn a_lost_answer_to_a_release_is_a_release(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "release-lost", LONG);
    for _ in 0..3 {
        let ours = net.lock(&net.behind, "k");
        let waiting = net.waiting(&net.direct, "k");
        net.claims("k", 2);
        net.is_back();
        net.proxy.drop_answers(true);
        let start = Instant::now();
        let unlocking = std::thread::spawn(move || unlock(ours));
        let (guard, hold, at) = waiting.recv_timeout(PATIENCE).unwrap();
        println!("the next one in after {:?}", at - start);
        assert!(at - start < SOON);
        net.proxy.drop_answers(false);
        unlocking.join().unwrap().unwrap();
        assert!(!guard.is_lost());
        unlock((guard, hold)).unwrap();
    }
    net.claims("k", 0);
    net.history.assert_clean(6);
}

fn a_lost_release_is_repeated(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "release-repeated", LONG);
    for _ in 0..2 {
        let ours = net.lock(&net.behind, "k");
        let waiting = net.waiting(&net.direct, "k");
        net.claims("k", 2);
        net.proxy.freeze();
        let unlocking = std::thread::spawn(move || {
            let unlocked = unlock(ours);
            (unlocked, Instant::now())
        });
        let (guard, hold, at) = waiting.recv_timeout(PATIENCE).unwrap();
        let (unlocked, repeated) = unlocking.join().unwrap();
        unlocked.unwrap();
        println!("the next one in, confirmed {:?} later", repeated.saturating_duration_since(at));
        // The confirmation and the next grant are answers to the same write.
        assert!(at.saturating_duration_since(repeated) < SOON);
        unlock((guard, hold)).unwrap();
        net.proxy.heal();
    }
    net.claims("k", 0);
    net.history.assert_clean(4);
}

fn a_lost_answer_to_a_renewal_is_no_loss(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "renewal-lost", 2 * TTL);
    let (guard, hold) = net.lock(&net.behind, "k");
    let waiting = net.waiting(&net.direct, "k");
    net.claims("k", 2);
    for _ in 0..2 {
        let before = net.behind.stats();
        net.is_back();
        net.proxy.drop_answers(true);
        eventually("a renewal without an answer", || {
            (net.behind.stats().failed_renewals > before.failed_renewals).then_some(())
        });
        net.proxy.drop_answers(false);
        eventually("renewals continue", || (net.behind.stats().renewals > before.renewals + 1).then_some(()));
        assert!(!hold.is_lost(&guard) && waiting.try_recv().is_err());
    }
    hold.released();
    guard.unlock().wait().unwrap();
    let (guard, hold, _) = waiting.recv_timeout(PATIENCE).unwrap();
    unlock((guard, hold)).unwrap();
    net.history.assert_clean(2);
}

fn late_answers_prolong_no_hold(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "late-answers", TTL);
    let (guard, hold) = net.lock(&net.behind, "k");
    let waiting = net.waiting(&net.direct, "k");
    net.claims("k", 2);
    let start = Instant::now();
    net.proxy.delay(Duration::ZERO, TTL + TTL / 4);
    lost(&guard, &hold);
    let known = start.elapsed();
    // Its renewals reach the server all the time, so the lease lives there until the manager revokes it.
    println!("lost after {known:?}");
    assert!(known < TTL + SOON && guard.is_lost());
    assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
    net.proxy.delay(Duration::ZERO, Duration::ZERO);
    net.proxy.reset_all();
    let (next, next_hold, _) = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(!next.is_lost());
    unlock((next, next_hold)).unwrap();
    unlock(net.lock(&net.behind, "k")).unwrap();
    net.history.assert_clean(3);
}

fn a_late_release_leaves_the_successor_alone(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "late-release", TTL);
    for shared in [false, true] {
        let request = |manager: &LockManager| {
            let request = manager.lock("k").timeout(PATIENCE);
            if shared { request.shared() } else { request }
        };
        let guard = request(&net.behind).wait().unwrap();
        net.history.acquired(&guard).released();
        let frozen = net.freeze();
        // The release waits in the frozen connection, and a copy is sent on the next one.
        drop(guard);
        let next = request(&net.direct).wait().unwrap();
        let hold = net.history.acquired(&next);
        net.is_overtaken(frozen);
        net.thaw(frozen);
        assert!(net.behind.try_lock("k").wait().unwrap().is_none(), "still the successor's");
        assert!(!hold.is_lost(&next));
        next.renew().wait().unwrap();
        assert_eq!(net.info("k").unwrap().holders.len(), 1);
        unlock((next, hold)).unwrap();
        net.claims("k", 0);
    }
    net.history.assert_clean(4);
}

fn a_half_open_connection_is_a_loss_in_time(scheme: &str, server: SocketAddr) {
    let net = Network::new(scheme, server, "half-open", TTL);
    let guards: Vec<_> = (0..21).map(|n| net.lock(&net.behind, &format!("k{n}"))).collect();
    let waiting = net.waiting(&net.direct, "k0");
    net.claims("k0", 2);
    let start = Instant::now();
    net.proxy.cut();
    let limit = Duration::from_millis(300);
    let error = net.behind.lock("free").timeout(limit).wait().unwrap_err();
    let took = start.elapsed();
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    assert!(took >= limit && took < limit + SOON, "{took:?}");
    let mut guards = guards.into_iter();
    let (first, hold) = guards.next().unwrap();
    let mut drops: Vec<_> = guards
        .map(|(guard, hold)| {
            hold.released();
            let start = Instant::now();
            drop(guard);
            start.elapsed()
        })
        .collect();
    drops.sort();
    println!("a drop takes {:?}, at most {:?}", drops[drops.len() / 2], drops[drops.len() - 1]);
    // A busy machine may delay single tries, but not half of them.
    assert!(drops[drops.len() / 2] < Duration::from_millis(1), "{drops:?}");
    assert_eq!(lost(&first, &hold), Loss::Unreachable);
    let known = Instant::now();
    assert!(known - start < TTL + SOON / 4, "{:?}", known - start);
    let (next, next_hold, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("lost after {:?}, the next one in {:?} later", known - start, at - known);
    unlock((next, next_hold)).unwrap();
    net.proxy.heal();
    net.is_back();
    drop(first);
    for n in 0..21 {
        let guard = net.behind.lock(format!("k{n}")).ttl(LONG).timeout(PATIENCE).wait().unwrap();
        let hold = net.history.acquired(&guard);
        unlock((guard, hold)).unwrap();
    }
    net.history.assert_clean(43);
}

fn a_connection_that_breaks_after_any_byte_breaks_nothing_else(scheme: &str, server: SocketAddr) {
    // All bytes of connecting and a few locks, or a sample of them.
    const ALL: u64 = 1600;
    const WORKERS: u64 = 6;
    let step = if soak().is_some() { 1 } else { 23 };
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                let net = Network::new(scheme, server, &format!("bytes-{worker}"), LONG);
                let mut holds = 0;
                for bytes in (1 + worker * step..ALL).step_by((WORKERS * step) as usize) {
                    holds += breaks_after(&net, bytes);
                }
                net.history.assert_clean(holds);
            });
        }
    });
}

/// Locks over connections that are reset after `bytes` bytes of answers, and over good ones afterwards. Returns the number of locks.
fn breaks_after(net: &Network, bytes: u64) -> usize {
    let mut holds = 1;
    net.proxy.reset_after(Some(bytes));
    net.proxy.reset_all();
    for attempt in 0..2 {
        let request = net.behind.lock("k").timeout(Duration::from_millis(150));
        let request = if attempt == 0 { request } else { request.isolated() };
        match request.wait() {
            Ok(guard) => {
                holds += 1;
                let hold = net.history.acquired(&guard);
                assert_eq!((guard.depth(), guard.is_lost()), (1, false));
                hold.released();
                drop(guard);
            }
            Err(error) => assert!(["LOCK_TIMEOUT", "BACKEND"].contains(&error.code()), "{error}"),
        }
    }
    net.proxy.reset_after(None);
    net.proxy.reset_all();
    // Whatever is in flight, the next acquire succeeds, and afterwards nothing is left.
    unlock(net.lock(&net.direct, "k")).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
    unlock(net.lock(&net.behind, "k")).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
    net.claims("k", 0);
    assert_eq!(net.behind.stats().held + net.behind.stats().waiting, 0, "{bytes} bytes");
    holds + 1
}
