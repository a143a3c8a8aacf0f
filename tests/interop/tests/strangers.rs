//! Foreign values at the key of a lock.

use std::time::{Duration, Instant};

use leasehold::backend::ErrorKind;
use leasehold::{LockError, LockManager};
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background};

/// The limit for a waiter that polls every 100 ms, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_lock_without_an_end_is_waited_for_and_can_be_forced_out() {
    let server = Redis::start();
    let ours = LockManager::connect(server.url()).wait().unwrap();
    let wait_for_theirs = || {
        assert_eq!(server.cli(&["SET", "lock:k", "somebody", "NX"]), "OK");
        assert!(ours.try_lock("k").wait().unwrap().is_none());
        let info = ours.info("k").wait().unwrap().unwrap();
        assert!(info.foreign && info.remaining.is_none() && info.holders.is_empty(), "{info:?}");
        let guards = in_the_background(ours.lock("k"));
        eventually("we wait", || (ours.info("k").wait().unwrap()?.waiters == 1).then_some(()));
        guards
    };
    let waiting = wait_for_theirs();
    server.cli(&["DEL", "lock:k"]);
    let (guard, _) = waiting.recv_timeout(SOON).expect("it is free");
    guard.unlock().wait().unwrap();

    let waiting = wait_for_theirs();
    let eviction = ours.force_unlock("k").wait().unwrap();
    assert!(eviction.released == ["k"] && eviction.holders.is_empty(), "{eviction:?}");
    let (guard, _) = waiting.recv_timeout(SOON).expect("it was granted to the waiter");
    guard.unlock().wait().unwrap();

    assert_eq!(server.cli(&["SET", "lock:k", "somebody", "NX"]), "OK");
    assert_eq!(ours.force_unlock("k").wait().unwrap().released, ["k"]);
    drop(ours.try_lock("k").wait().unwrap().expect("it is free"));
}

#[test]
fn a_lock_of_another_type_is_an_error_that_says_so_at_once() {
    let server = Redis::start();
    let ours = LockManager::connect(server.url()).wait().unwrap();
    // Like Redisson's: the holder, and its depth.
    let holder = "285475da-9152-4c83-822a-67ee2f116a79:52";
    server.cli(&["HSET", "lock:k", holder, "1"]);
    server.cli(&["PEXPIRE", "lock:k", "300000"]);
    let start = Instant::now();
    let refused = |what: &str, error: LockError| {
        println!("{what}: {error}");
        assert_eq!((error.code(), error.key()), ("BACKEND", Some("k")), "{what}: {error}");
        assert!(matches!(error, LockError::Backend { kind: ErrorKind::Incompatible, .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("\"k\"") && text.contains("incompatible client"), "{what}: {error}");
    };
    refused("try_lock", ours.try_lock("k").wait().unwrap_err());
    refused("lock", ours.lock("k").wait().unwrap_err());
    refused("lock, with a limit", ours.lock("k").timeout(PATIENCE * 2).wait().unwrap_err());
    refused("shared", ours.lock("k").shared().wait().unwrap_err());
    refused("lock_all", ours.lock_all(["a", "k"]).wait().unwrap_err());
    refused("force_unlock", ours.force_unlock("k").wait().unwrap_err());
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    let info = ours.info("k").wait().unwrap().unwrap();
    assert!(info.foreign && info.holders.is_empty() && ours.is_locked("k").wait().unwrap(), "{info:?}");
    assert!(!ours.is_locked("a").wait().unwrap(), "all or none");
    assert_eq!(server.cli(&["HGET", "lock:k", holder]), "1", "unchanged");
    server.cli(&["DEL", "lock:k"]);
    ours.lock("k").wait().unwrap().unlock().wait().unwrap();
}
