//! What the server reports of locks that others change, as guards and waiters see it.

use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Loss};
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background, lost_since};

/// No renewal and no deadline comes during a test.
const TTL: Duration = Duration::from_secs(600);

/// Sooner than a waiter polls, which is after 0.8 s at the earliest.
const SOON: Duration = Duration::from_millis(600);

fn manager(redis: &Redis) -> LockManager {
    LockManager::builder().url(redis.url()).ttl(TTL).retry_interval(TTL).build().wait().unwrap()
}

fn tracks(redis: &Redis, count: usize) {
    let line = format!("tracking_total_keys:{count}\r");
    eventually("they are tracked", || redis.cli(&["INFO", "stats"]).contains(&line).then_some(()));
}

#[test]
fn a_removed_hold_is_lost_soon() {
    let redis = Redis::start();
    if !redis.reports_changes() {
        return;
    }
    let manager = manager(&redis);
    for change in [&["DEL", "lock:k"][..], &["SET", "lock:k", "other"], &["FLUSHALL"], &["PEXPIRE", "lock:k", "1"]] {
        for isolated in [false, true] {
            let request = manager.lock("k");
            let guard = if isolated { request.isolated() } else { request }.wait().unwrap();
            tracks(&redis, 1);
            let start = Instant::now();
            redis.cli(change);
            let (loss, took) = lost_since(&guard, start);
            assert!(loss == Loss::Revoked && took < SOON, "{change:?}: {loss} after {took:?}");
            redis.cli(&["FLUSHALL"]);
        }
    }
}

#[test]
fn many_removed_holds_are_lost_soon_and_none_that_is_left() {
    const HOLDS: usize = 300;
    let redis = Redis::start();
    if !redis.reports_changes() {
        return;
    }
    let manager = manager(&redis);
    let guards: Vec<_> = (0..HOLDS).map(|key| manager.lock(format!("k{key}")).wait().unwrap()).collect();
    tracks(&redis, HOLDS);
    let (removed, left) = guards.split_at(HOLDS / 2);
    let keys: Vec<_> = (0..HOLDS / 2).map(|key| format!("lock:k{key}")).collect();
    let start = Instant::now();
    redis.cli(&["DEL"].into_iter().chain(keys.iter().map(String::as_str)).collect::<Vec<_>>());
    let all_lost = |guards: &[LockGuard]| guards.iter().all(LockGuard::is_lost).then_some(());
    eventually("they are lost", || all_lost(removed));
    println!("{} losses in {:?}", removed.len(), start.elapsed());
    assert!(start.elapsed() < 3 * SOON, "{:?}", start.elapsed());
    assert!(left.iter().all(|guard| !guard.is_lost()));
    redis.cli(&["FLUSHALL"]);
    eventually("they are lost as well", || all_lost(left));
}

#[test]
fn a_foreign_lock_that_is_released_goes_to_its_waiter_soon() {
    let redis = Redis::start();
    if !redis.reports_changes() {
        return;
    }
    let (first, second) = (manager(&redis), manager(&redis));
    for round in 1..=5 {
        redis.cli(&["SET", "lock:k", "other"]);
        let waiting = in_the_background(first.lock("k"));
        eventually("it waits", || (first.info("k").wait().unwrap()?.waiters == 1).then_some(()));
        let next = in_the_background(second.lock("k"));
        eventually("both wait", || (first.info("k").wait().unwrap()?.waiters == 2).then_some(()));
        tracks(&redis, 1);
        let start = Instant::now();
        redis.cli(&["DEL", "lock:k"]);
        let (guard, granted) = waiting.recv_timeout(PATIENCE).unwrap();
        println!("round {round}: granted after {:?}", granted - start);
        assert!(granted - start < SOON, "{:?}", granted - start);
        drop(guard);
        drop(next.recv_timeout(PATIENCE).unwrap());
        eventually("all is released", || first.info("k").wait().unwrap().is_none().then_some(()));
        tracks(&redis, 0);
    }
}
