//! Leasehold signals python-redis-lock's waiters when a lock is free.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use leasehold_interop_tests::client::{Client, Kind, TTL};
use support::eventually;
use support::redis::Redis;

/// The limit for a signal, on a busy machine. Without a signal, a waiter checks after [`TTL`].
const SOON: Duration = Duration::from_secs(5);

/// Starts a client that waits for the lock, as it does for `lock-signal:k`.
fn waiting(server: &Redis) -> Client {
    let mut theirs = Client::start(Kind::PythonRedisLock, &server.url(), "lock:k");
    theirs.begin_to_wait();
    eventually("it waits", || server.cli(&["CLIENT", "LIST"]).contains("cmd=blpop").then_some(()));
    theirs
}

/// Asserts that the client acquires the lock because of a signal.
fn is_signalled(mut theirs: Client, what: &str, free: impl FnOnce()) {
    assert!(theirs.waits(), "{what}");
    let start = Instant::now();
    free();
    theirs.has_it();
    println!("{what}: signalled within {:?}", start.elapsed());
    assert!(start.elapsed() < SOON && SOON < TTL, "{what}: {:?}", start.elapsed());
    theirs.unlock();
}

#[test]
fn a_release_signals_a_waiter_of_python_redis_lock() {
    let server = Redis::start();
    let url = format!("{}?signal_lists=true", server.url());
    let connect = || LockManager::connect(&url).wait().unwrap();
    let (ours, closing) = (connect(), connect());

    let guard = ours.lock("k").wait().unwrap();
    is_signalled(waiting(&server), "unlock", || guard.unlock().wait().unwrap());
    let guard = ours.lock("k").wait().unwrap();
    is_signalled(waiting(&server), "drop", || drop(guard));
    let guard = ours.lock("k").shared().wait().unwrap();
    is_signalled(waiting(&server), "the last reader", || guard.unlock().wait().unwrap());
    let guard = ours.lock("k").wait().unwrap();
    is_signalled(waiting(&server), "force_unlock", || {
        assert_eq!(ours.force_unlock("k").wait().unwrap().released, ["k"]);
    });
    drop(guard);
    let guard = closing.lock("k").wait().unwrap();
    is_signalled(waiting(&server), "close", || closing.close().wait().unwrap());
    drop(guard);
    // The option, set in another way.
    let built = LockManager::builder().url(server.url()).signal_lists(true).build().wait().unwrap();
    let guard = built.lock("k").wait().unwrap();
    is_signalled(waiting(&server), "a builder's option", || guard.unlock().wait().unwrap());
}

#[test]
fn no_signal_without_the_option() {
    let server = Redis::start();
    let ours = LockManager::connect(server.url()).wait().unwrap();
    let guard = ours.lock("k").wait().unwrap();
    let mut theirs = waiting(&server);
    guard.unlock().wait().unwrap();
    assert!(theirs.waits(), "it would check after {TTL:?}");
    // The client works; it just got no signal.
    server.cli(&["LPUSH", "lock-signal:k", "1"]);
    theirs.has_it();
    theirs.unlock();
}
