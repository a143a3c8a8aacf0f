//! Losses are notified in time, and only real ones: suspended machines, cut connections, lost answers, blocked runtimes.

use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use leasehold::testing::{ManualClock, MemoryStore};
use leasehold::{LockError, LockManager, LockManagerBuilder, Loss, Owner};
use support::etcd::Etcd;
use support::folder::Folder;
use support::history::History;
use support::ports::free_port;
use support::proxy::Proxy;
use support::{PATIENCE, eventually, in_the_background, lost};

/// The shortest TTL that etcd grants.
const TTL: Duration = Duration::from_secs(2);

/// Managers on one etcd: one behind a proxy, and one with a separate connection.
struct Fixture {
    proxy: Proxy,
    behind: LockManager,
    direct: LockManager,
    prefix: String,
}

impl Fixture {
    fn new(name: &str) -> Self {
        Self::with(name, |builder| builder)
    }

    fn with(name: &str, configure: impl FnOnce(LockManagerBuilder) -> LockManagerBuilder) -> Self {
        let (proxy, prefix) = (Proxy::start(Etcd::shared().address()), format!("{name}/"));
        let build = |address| LockManager::builder().url(format!("etcd://{address}")).prefix(&prefix).ttl(TTL);
        let behind = configure(build(proxy.address())).name("behind").build().wait().unwrap();
        let direct = build(Etcd::shared().address()).name("direct").build().wait().unwrap();
        Self { proxy, behind, direct, prefix }
    }

    /// Loses all answers from now on, on an established connection.
    fn drop_answers(&self) {
        eventually("the connection is up", || self.behind.ping().wait().ok());
        self.proxy.drop_answers(true);
    }

    /// The number of claims of the key on the server.
    fn claims(&self, key: &str) -> usize {
        Etcd::shared().keys(&format!("{}{key}/", self.prefix)).len()
    }
}

fn cause(error: LockError) -> Loss {
    let LockError::Expired { cause, .. } = error else { panic!("{error:?}") };
    cause
}

#[test]
fn after_a_suspend_all_holds_are_lost_at_once() {
    let clock = ManualClock::new();
    let on_memory =
        LockManager::builder().backend(MemoryStore::with_clock(&clock).link()).clock(clock.clone()).ttl(TTL);
    let on_etcd = LockManager::builder().url(Etcd::shared().url()).prefix("suspend/").clock(clock.clone()).ttl(TTL);
    for manager in [on_memory.build().wait().unwrap(), on_etcd.build().wait().unwrap()] {
        let (guard, other) = (manager.lock("k").wait().unwrap(), manager.lock("l").wait().unwrap());
        let alone = manager.lock("m").isolated().wait().unwrap();
        assert!(!guard.is_lost());
        clock.advance(TTL);
        // The first check afterwards finds the loss, whatever the timers have done.
        assert!(guard.is_lost() && alone.is_lost());
        assert_eq!((guard.remaining(), guard.reenter().is_err()), (Duration::ZERO, true));
        let start = Instant::now();
        lost(&other);
        println!("{manager:?}: lost() fired {:?} after the suspend", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
        let again = manager.lock("k").timeout(PATIENCE).wait().unwrap();
        assert!(!again.is_lost() && again.depth() == 1);
    }
}

#[test]
fn a_disconnected_holder_loses_before_the_next_one_acquires() {
    let fixture = Fixture::new("cut-off");
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    for round in 0..2 {
        let guard = fixture.behind.lock("k").timeout(PATIENCE).wait().unwrap();
        let hold = history.acquired(&guard);
        let (request, recorder, (got, taken)) = (fixture.direct.lock("k"), history.clone(), channel());
        std::thread::spawn(move || {
            let guard = request.wait().unwrap();
            let hold = recorder.acquired(&guard);
            let _ = got.send((guard, hold, Instant::now()));
        });
        eventually("the other one waits", || (fixture.claims("k") == 2).then_some(()));
        let start = Instant::now();
        fixture.proxy.cut();
        assert_eq!(lost(&guard).0, Loss::Unreachable);
        hold.lost();
        let known = Instant::now();
        assert!(known - start < TTL, "{:?}", known - start);
        assert!(guard.is_lost());
        let (next, next_hold, at) = taken.recv_timeout(PATIENCE).unwrap();
        println!("cut off: lost after {:?}, the next one in {:?} later", known - start, at - known);
        assert!(at > known && next.token() > guard.token(), "round {round}");
        let dropping = Instant::now();
        drop(guard);
        assert!(dropping.elapsed() < Duration::from_millis(50));
        fixture.proxy.heal();
        // Late requests of the old holder have no effect on the new one.
        assert!(fixture.behind.lock("other").timeout(PATIENCE).wait().is_ok());
        assert!(!next.is_lost() && fixture.behind.try_lock("k").wait().unwrap().is_none());
        next_hold.released();
        next.unlock().wait().unwrap();
    }
    history.assert_clean(4);
}

#[test]
fn limits_are_kept_while_the_connection_hangs() {
    let fixture = Fixture::with("limits", |builder| builder.timeout(Duration::from_millis(700)));
    let held = fixture.behind.lock("held").ttl(Duration::from_secs(30)).wait().unwrap();
    let inner = held.reenter().unwrap();
    fixture.proxy.cut();
    let took = |what: &str, limit: u64, call: &dyn Fn() -> LockError| {
        let start = Instant::now();
        let error = call();
        println!("{what}: {} after {:?}", error.code(), start.elapsed());
        let limit = Duration::from_millis(limit);
        assert!(start.elapsed() >= limit && start.elapsed() < limit + Duration::from_secs(1), "{what}: {error}");
        assert!(error.to_string().len() < 300 && !error.to_string().is_empty());
        error.code()
    };
    let limit = Duration::from_millis(300);
    let request = |key: &str| fixture.behind.lock(key).owner(&Owner::new()).timeout(limit).wait().unwrap_err();
    assert_eq!(took("lock, with the session at hand", 300, &|| request("k")), "LOCK_TIMEOUT");
    assert_eq!(took("lock, behind an own hold", 300, &|| request("held")), "LOCK_TIMEOUT");
    assert_eq!(
        took("lock, with a lease to open", 300, &|| {
            fixture.behind.lock("k2").isolated().timeout(limit).wait().unwrap_err()
        }),
        "LOCK_TIMEOUT"
    );
    assert_eq!(took("try_lock", 700, &|| fixture.behind.try_lock("k3").wait().unwrap_err()), "BACKEND");
    assert_eq!(took("info", 700, &|| fixture.behind.info("k").wait().unwrap_err()), "BACKEND");
    assert_eq!(took("list", 700, &|| fixture.behind.list("").wait().unwrap_err()), "BACKEND");
    assert_eq!(took("ping", 700, &|| fixture.behind.ping().wait().unwrap_err()), "BACKEND");
    assert_eq!(took("force_unlock", 700, &|| fixture.behind.force_unlock("k").wait().unwrap_err()), "BACKEND");
    assert_eq!(took("renew", 700, &|| held.renew().wait().unwrap_err()), "BACKEND");
    let start = Instant::now();
    drop(inner);
    drop(held);
    println!("drop took {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(50));
    fixture.proxy.heal();
    let start = Instant::now();
    for key in ["k", "k2", "k3", "held"] {
        eventually("no claim of the timed-out attempts is left", || (fixture.claims(key) == 0).then_some(()));
        println!("nothing is left of {key} {:?} after the connection was mended", start.elapsed());
    }
}

#[test]
fn an_unlock_without_a_server_ends_at_the_deadline() {
    let fixture = Fixture::new("unlock-cut");
    let link = MemoryStore::new().link();
    let on_memory = LockManager::builder().backend(link.clone()).ttl(TTL).build().wait().unwrap();
    let guards = [fixture.behind.lock("k").wait().unwrap(), on_memory.lock("k").wait().unwrap()];
    link.partition();
    fixture.proxy.cut();
    let unlocks = guards.map(|guard| {
        std::thread::spawn(move || {
            let start = Instant::now();
            (guard.unlock().wait().unwrap_err(), start.elapsed())
        })
    });
    for unlock in unlocks {
        eventually("unlock() ends", || unlock.is_finished().then_some(()));
        let (error, took) = unlock.join().unwrap();
        println!("unlock() without a server: {:?} after {took:?}", error.to_string());
        assert_eq!(cause(error), Loss::Unreachable);
        assert!(took < TTL + Duration::from_millis(500), "{took:?}");
    }
    link.heal();
    fixture.proxy.heal();
    drop(fixture.direct.lock("k").timeout(PATIENCE).wait().unwrap());
}

#[test]
fn one_lost_renewal_is_no_loss() {
    let fixture = Fixture::with("renewal", |builder| builder.ttl(Duration::from_secs(6)));
    let guard = fixture.behind.lock("k").wait().unwrap();
    let renewed = eventually("the first renewal", || Some(fixture.behind.stats().renewals).filter(|&count| count > 0));
    fixture.drop_answers();
    eventually("a renewal fails", || (fixture.behind.stats().failed_renewals > 0).then_some(()));
    assert!(!guard.is_lost());
    fixture.proxy.drop_answers(false);
    let start = Instant::now();
    eventually("renewals continue", || (fixture.behind.stats().renewals > renewed + 2).then_some(()));
    println!("three renewals {:?} after the connection was mended", start.elapsed());
    assert!(!guard.is_lost() && fixture.direct.try_lock("k").wait().unwrap().is_none());
    guard.unlock().wait().unwrap();
}

#[test]
fn a_blocked_runtime_loses_nothing() {
    let fixture = Fixture::new("blocked");
    let on_memory = LockManager::builder().url("memory://blocked").ttl(TTL / 2).build().wait().unwrap();
    let beside = LockManager::connect("memory://blocked").wait().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let waiting = in_the_background(fixture.direct.lock("k"));
    let (first, _) = waiting.recv_timeout(PATIENCE).unwrap();
    drop(first);
    runtime.block_on(async {
        let (guard, memory) = (fixture.behind.lock("k").await.unwrap(), on_memory.lock("k").await.unwrap());
        let waiting = (in_the_background(fixture.direct.lock("k")), in_the_background(beside.lock("k")));
        // Blocks the only thread of the runtime.
        let start = Instant::now();
        while start.elapsed() < 2 * TTL {
            std::hint::spin_loop();
        }
        assert!(!guard.is_lost() && !memory.is_lost());
        assert!(waiting.0.try_recv().is_err() && waiting.1.try_recv().is_err());
        guard.unlock().await.unwrap();
        memory.unlock().await.unwrap();
        assert!(waiting.0.recv_timeout(PATIENCE).is_ok() && waiting.1.recv_timeout(PATIENCE).is_ok());
    });
}

#[test]
fn an_acquire_whose_answer_was_lost_leaves_one_hold_or_nothing() {
    let fixture = Fixture::with("acquire-lost", |builder| builder.ttl(Duration::from_secs(20)));
    // The session exists, and no request for the key is in flight.
    let recovered = || fixture.behind.lock("k").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();

    // Cancelled: by its timeout, and by being dropped.
    for by_timeout in [true, false] {
        recovered();
        fixture.drop_answers();
        let waiting = std::thread::spawn({
            let (request, limit) = (fixture.behind.lock("k"), Duration::from_millis(500));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            move || match by_timeout {
                true => assert_eq!(request.timeout(limit).wait().unwrap_err().code(), "LOCK_TIMEOUT"),
                false => assert!(runtime.block_on(async { tokio::time::timeout(limit, request).await.is_err() })),
            }
        });
        eventually("the claim is granted, and the answer lost", || (fixture.claims("k") == 1).then_some(()));
        waiting.join().unwrap();
        assert_eq!(fixture.behind.stats().waiting, 0);
        fixture.proxy.drop_answers(false);
        let start = Instant::now();
        eventually("the claim is removed", || (fixture.claims("k") == 0).then_some(()));
        println!("removed {:?} after the connection was mended", start.elapsed());
        fixture.direct.try_lock("k").wait().unwrap().expect("free").unlock().wait().unwrap();
    }

    // Not cancelled: it gets the lock, once.
    recovered();
    fixture.drop_answers();
    let waiting = in_the_background(fixture.behind.lock("k"));
    eventually("the claim is granted, and the answer lost", || (fixture.claims("k") == 1).then_some(()));
    fixture.proxy.drop_answers(false);
    let start = Instant::now();
    let (guard, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("acquired {:?} after the connection was mended", at.saturating_duration_since(start));
    assert_eq!((guard.depth(), guard.is_lost()), (1, false));
    eventually("one claim", || (fixture.claims("k") == 1).then_some(()));
    guard.unlock().wait().unwrap();
    drop(fixture.direct.lock("k").timeout(PATIENCE).wait().unwrap());
}

#[test]
fn a_release_whose_answer_was_lost_is_a_release() {
    let fixture = Fixture::with("release-lost", |builder| builder.ttl(Duration::from_secs(20)));
    for _ in 0..3 {
        let guard = fixture.behind.lock("k").wait().unwrap();
        let waiting = in_the_background(fixture.direct.lock("k"));
        eventually("the other one waits", || (fixture.claims("k") == 2).then_some(()));
        fixture.drop_answers();
        let start = Instant::now();
        let unlocking = std::thread::spawn(move || guard.unlock().wait());
        let (next, at) = waiting.recv_timeout(PATIENCE).unwrap();
        println!("the next one in after {:?}", at - start);
        fixture.proxy.drop_answers(false);
        let start = Instant::now();
        unlocking.join().unwrap().unwrap();
        println!("unlock() said so {:?} after the connection was mended", start.elapsed());
        assert!(!next.is_lost());
        next.unlock().wait().unwrap();
    }
}

#[test]
fn an_unreachable_server_is_a_clear_error_in_time() {
    // One that refuses connections, and one that accepts them and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [free_port(), silent.local_addr().unwrap().port()] {
        let url = format!("etcd://user:hunter2@127.0.0.1:{port}?timeout=500ms");
        let start = Instant::now();
        let error = LockManager::connect(&url).wait().unwrap_err();
        let took = start.elapsed();
        let text = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        println!("{error}, after {took:?}");
        assert_eq!(error.code(), "BACKEND");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(took < Duration::from_millis(1500), "{took:?}");
    }
}

#[test]
fn a_manager_recovers_from_cuts_of_any_length() {
    let fixture = Fixture::with("recovers", |builder| builder.timeout(Duration::from_millis(700)));
    for seconds in [1, 11] {
        let guard = fixture.behind.lock("k").ttl(Duration::from_secs(60)).timeout(PATIENCE).wait().unwrap();
        fixture.proxy.cut();
        drop(guard);
        let waiting = in_the_background(fixture.behind.lock("l"));
        // A fixed pause: up to longer than the timeout of the connection's own pings.
        std::thread::sleep(Duration::from_secs(seconds));
        fixture.proxy.heal();
        let start = Instant::now();
        eventually("the server answers", || fixture.behind.ping().wait().ok());
        println!("cut for {seconds} s: an answer {:?} after it was mended", start.elapsed());
        eventually("the release has arrived", || (fixture.claims("k") == 0).then_some(()));
        println!("cut for {seconds} s: released {:?} after it was mended", start.elapsed());
        drop(waiting.recv_timeout(PATIENCE).unwrap());
        println!("cut for {seconds} s: the waiter in {:?} after it was mended", start.elapsed());
    }
}
