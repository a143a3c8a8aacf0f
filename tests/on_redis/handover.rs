//! Locks that were handed over by a message on Redis, as their guards see them.

use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Loss};
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background};

/// A guard that another manager has just handed over, and the manager that lives for it.
fn handed_over(server: &Redis) -> (LockManager, LockGuard) {
    let (a, b) =
        (LockManager::connect(server.url()).wait().unwrap(), LockManager::connect(server.url()).wait().unwrap());
    let first = a.lock("k").wait().unwrap();
    let waiting = in_the_background(b.lock("k"));
    eventually("it waits", || (a.info("k").wait().unwrap()?.waiters == 1).then_some(()));
    drop(first);
    (b, waiting.recv_timeout(PATIENCE).unwrap().0)
}

#[test]
fn a_guard_is_lost_in_time_if_the_handover_cannot_be_confirmed() {
    let server = Redis::start();
    let (_manager, guard) = handed_over(&server);
    server.process().stop();
    let stopped = Instant::now();
    // Unless it was confirmed before the stop: then it lasts for its TTL.
    if guard.remaining() < Duration::from_secs(3) {
        let cause = futures::executor::block_on(guard.lost());
        assert_eq!(cause, Loss::Unreachable);
        assert!(stopped.elapsed() < Duration::from_secs(3), "{:?}", stopped.elapsed());
        assert!(guard.is_lost() && guard.remaining().is_zero());
    }
    server.process().resume();
}

#[test]
fn a_guard_outlives_a_confirmed_handover() {
    let server = Redis::start();
    let (_manager, guard) = handed_over(&server);
    eventually("it is confirmed", || (guard.remaining() > Duration::from_secs(20)).then_some(()));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(3) {
        assert!(!guard.is_lost());
        std::thread::sleep(Duration::from_millis(20));
    }
    guard.unlock().wait().unwrap();
}
