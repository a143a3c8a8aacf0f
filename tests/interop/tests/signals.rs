//! python-redis-lock's waiters are told by us when a lock is free.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use leasehold_interop_tests::client::{Client, Kind, TTL};
use support::eventually;
use support::redis::Redis;

/// Who is told is told within this, on a busy machine. By himself he looks after [`TTL`].
const SOON: Duration = Duration::from_secs(5);

/// Starts a client that waits for the lock, as it does for `lock-signal:k`.
fn waiting(server: &Redis) -> Client {
    let mut theirs = Client::start(Kind::PythonRedisLock, server, "lock:k");
    theirs.begin_to_wait();
    eventually("it waits", || server.cli(&["CLIENT", "LIST"]).contains("cmd=blpop").then_some(()));
    theirs
}

/// Demands that the client gets the lock by being told.
fn is_told(mut theirs: Client, what: &str, free: impl FnOnce()) {
    assert!(theirs.waits(), "{what}");
    let start = Instant::now();
    free();
    theirs.has_it();
    println!("{what}: told within {:?}", start.elapsed());
    assert!(start.elapsed() < SOON && SOON < TTL, "{what}: {:?}", start.elapsed());
    theirs.unlock();
}

#[test]
fn a_waiter_of_python_redis_lock_is_told_of_our_release() {
    let server = Redis::start();
    let url = format!("{}?signal_lists=true", server.url());
    let connect = || LockManager::connect(&url).wait().unwrap();
    let (ours, closing) = (connect(), connect());

    let guard = ours.lock("k").wait().unwrap();
    is_told(waiting(&server), "unlock", || guard.unlock().wait().unwrap());
    let guard = ours.lock("k").wait().unwrap();
    is_told(waiting(&server), "drop", || drop(guard));
    let guard = ours.lock("k").shared().wait().unwrap();
    is_told(waiting(&server), "the last reader", || guard.unlock().wait().unwrap());
    let guard = ours.lock("k").wait().unwrap();
    is_told(waiting(&server), "force_unlock", || {
        assert_eq!(ours.force_unlock("k").wait().unwrap().released, ["k"]);
    });
    drop(guard);
    let guard = closing.lock("k").wait().unwrap();
    is_told(waiting(&server), "close", || closing.close().wait().unwrap());
    drop(guard);
    // Set in another way.
    let built = LockManager::builder().url(server.url()).signal_lists(true).build().wait().unwrap();
    let guard = built.lock("k").wait().unwrap();
    is_told(waiting(&server), "a builder's option", || guard.unlock().wait().unwrap());
}

#[test]
fn nobody_is_told_unless_that_is_wanted() {
    let server = Redis::start();
    let ours = LockManager::connect(server.url()).wait().unwrap();
    let guard = ours.lock("k").wait().unwrap();
    let mut theirs = waiting(&server);
    guard.unlock().wait().unwrap();
    assert!(theirs.waits(), "it would look after {TTL:?}");
    // It is there, and was just not told.
    server.cli(&["LPUSH", "lock-signal:k", "1"]);
    theirs.has_it();
    theirs.unlock();
}
