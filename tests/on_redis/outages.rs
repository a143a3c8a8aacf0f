//! A Redis that is away for a while, loses its data, has no memory left, becomes a replica, deletes users, or whose clock jumps.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::{FenceGate, LockGuard, LockManager, Loss};
use support::folder::Folder;
use support::history::{History, Hold, judge};
use support::redis::Redis;
use support::{PATIENCE, eventually};

/// The TTL for leases that should end.
const SHORT: Duration = Duration::from_secs(3);
/// The TTL for leases that should survive an outage.
const LONG: Duration = Duration::from_secs(9);
/// The limit for an immediate effect, on a busy machine.
const SOON: Duration = Duration::from_secs(1);

/// Two managers on one server, and their history.
struct Fixture {
    holder: LockManager,
    waiter: LockManager,
    history: History,
    _folder: Folder,
}

impl Fixture {
    fn new(redis: &Redis, ttl: Duration) -> Self {
        Self::as_users(redis, ttl, |url| url)
    }

    /// The holder logs in with a separate URL.
    fn as_users(redis: &Redis, ttl: Duration, holder: impl FnOnce(String) -> String) -> Self {
        let build = |url: String| LockManager::builder().url(url).ttl(ttl).build().wait().unwrap();
        let folder = Folder::new();
        let history = History::open(folder.path().join("history"));
        Self { holder: build(holder(redis.url())), waiter: build(redis.url()), history, _folder: folder }
    }

    fn lock(&self, key: &str) -> (LockGuard, Hold) {
        let guard = self.holder.lock(key).timeout(PATIENCE).wait().unwrap();
        let hold = self.history.acquired(&guard);
        (guard, hold)
    }

    /// Locks on a separate thread; returns once the waiter is in the queue.
    fn wait_for(&self, key: &str) -> Receiver<(LockGuard, Hold, Instant)> {
        let (request, history, (got, guards)) = (self.waiter.lock(key), self.history.clone(), channel());
        std::thread::spawn(move || {
            let guard = request.wait().unwrap();
            let (hold, at) = (history.acquired(&guard), Instant::now());
            got.send((guard, hold, at))
        });
        eventually("the waiter is in the queue", || (self.holder.info(key).wait().ok()??.waiters == 1).then_some(()));
        guards
    }

    /// Waits until the hold has been renewed from now on, and its old deadline has passed.
    fn lives_on(&self, guard: &LockGuard, hold: &Hold, since: Instant, ttl: Duration) {
        let renewals = self.holder.stats().renewals;
        eventually("a renewal", || (self.holder.stats().renewals > renewals).then_some(()));
        eventually("the old deadline has passed", || (since.elapsed() > ttl + SOON).then_some(()));
        assert!(!hold.is_lost(guard));
    }
}

/// Waits for the loss on this thread. Returns when it was notified.
fn lost(guard: &LockGuard, hold: &Hold) -> (Loss, Instant) {
    let lost = support::lost(guard);
    hold.lost();
    lost
}

fn unlock((guard, hold): (LockGuard, Hold)) {
    hold.released();
    guard.unlock().wait().unwrap();
}

#[test]
fn a_server_stopped_for_longer_than_the_ttl_is_a_loss_before_it_resumes() {
    let redis = Redis::start();
    let fixture = Fixture::new(&redis, SHORT);
    let (guard, hold) = fixture.lock("k");
    let waiting = fixture.wait_for("k");
    redis.process().stop();
    let stopped = Instant::now();
    let (loss, at) = lost(&guard, &hold);
    println!("lost {:?} after the stop", at - stopped);
    assert_eq!(loss, Loss::Unreachable);
    assert!(at - stopped < SHORT + SOON, "{:?}", at - stopped);
    assert!(guard.is_lost() && waiting.try_recv().is_err());
    redis.process().resume();
    let (next, next_hold, _) = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(next.token() > guard.token());
    assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
    assert!(!next_hold.is_lost(&next), "the late release had no effect on it");
    unlock((next, next_hold));
    unlock(fixture.lock("k"));
    fixture.history.assert_clean(3);
}

#[test]
fn a_server_that_is_stopped_for_less_than_a_third_of_the_ttl_is_no_loss() {
    let redis = Redis::start();
    let fixture = Fixture::new(&redis, LONG);
    let (guard, hold) = fixture.lock("k");
    let waiting = fixture.wait_for("k");
    let start = Instant::now();
    redis.process().stop();
    // A fixed pause: the server is stopped.
    std::thread::sleep(LONG / 4);
    redis.process().resume();
    fixture.lives_on(&guard, &hold, start, LONG);
    assert!(waiting.try_recv().is_err());
    unlock((guard, hold));
    let released = Instant::now();
    let (guard, hold, at) = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(at.saturating_duration_since(released) < SOON);
    unlock((guard, hold));
    fixture.history.assert_clean(2);
}

#[test]
fn a_restart_without_data_is_a_loss_soon_and_the_next_token_is_greater() {
    let mut redis = Redis::start();
    let fixture = Fixture::new(&redis, LONG);
    let (guard, hold) = fixture.lock("k");
    redis.restart();
    let start = Instant::now();
    let (loss, at) = lost(&guard, &hold);
    println!("lost {:?} after the restart", at.saturating_duration_since(start));
    assert_eq!(loss, Loss::Revoked);
    // The next renewal, and the time to connect again.
    assert!(at.saturating_duration_since(start) < LONG / 3 + SOON);
    let (next, next_hold) = fixture.lock("k");
    assert!(next.token() > guard.token());
    drop(guard);
    next.renew().wait().unwrap();
    unlock((next, next_hold));
}

#[test]
fn a_server_that_writes_all_to_its_disk_may_restart() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let fixture = Fixture::new(&redis, LONG);
    let (guard, hold) = fixture.lock("k");
    let waiting = fixture.wait_for("k");
    let start = Instant::now();
    redis.restart();
    println!("restarted in {:?}", start.elapsed());
    fixture.lives_on(&guard, &hold, start, LONG);
    assert!(waiting.try_recv().is_err());
    unlock((guard, hold));
    let (guard, hold, _) = waiting.recv_timeout(PATIENCE).unwrap();
    unlock((guard, hold));
    fixture.history.assert_clean(2);
}

#[test]
fn a_flush_is_a_loss_within_a_third_of_the_ttl_and_tokens_grow() {
    let redis = Redis::start();
    let fixture = Fixture::new(&redis, LONG);
    let (guard, hold) = fixture.lock("k");
    let gate = FenceGate::new(());
    gate.enter(guard.token(), |()| ()).unwrap();
    redis.cli(&["FLUSHALL"]);
    let flushed = Instant::now();
    // No notification is possible before: another one may have it at once, with a greater token.
    let next = fixture.waiter.try_lock("k").wait().unwrap().expect("the server has no holder");
    assert!(next.token() > guard.token());
    gate.enter(next.token(), |()| ()).unwrap();
    assert!(gate.enter(guard.token(), |()| ()).is_err(), "the stale token is refused");
    let (loss, at) = lost(&guard, &hold);
    println!("lost {:?} after the flush", at - flushed);
    assert_eq!(loss, Loss::Revoked);
    assert!(at - flushed < LONG / 3 + SOON);
    assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
    next.unlock().wait().unwrap();
}

#[test]
fn scripts_that_are_forgotten_are_not_noticed() {
    let redis = Redis::start();
    let fixture = Fixture::new(&redis, SHORT);
    let start = Instant::now();
    while start.elapsed() < 2 * SHORT {
        let (guard, hold) = fixture.lock("k");
        let waiting = fixture.wait_for("k");
        redis.cli(&["SCRIPT", "FLUSH"]);
        guard.renew().wait().unwrap();
        redis.cli(&["SCRIPT", "FLUSH"]);
        unlock((guard, hold));
        let (guard, hold, _) = waiting.recv_timeout(PATIENCE).unwrap();
        redis.cli(&["SCRIPT", "FLUSH"]);
        assert!(fixture.waiter.info("k").wait().unwrap().is_some());
        unlock((guard, hold));
    }
    assert!(redis.keys("lock:*").is_empty());
    fixture.history.assert_clean(4);
    assert_eq!(fixture.holder.stats().failed_renewals, 0);
}

#[test]
fn without_memory_only_locking_fails_and_clearly() {
    let redis = Redis::start();
    let fixture = Fixture::new(&redis, SHORT);
    let (guard, hold) = fixture.lock("held");
    let (dropped, dropped_hold) = fixture.lock("dropped");
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let start = Instant::now();
    for error in [fixture.holder.lock("k").wait().unwrap_err(), fixture.holder.try_lock("k").wait().unwrap_err()] {
        println!("{error}");
        assert_eq!((error.code(), error.key()), ("BACKEND", Some("k")));
        assert!(error.to_string().contains("memory"), "{error}");
    }
    assert!(start.elapsed() < SOON, "retried for too long: {:?}", start.elapsed());
    dropped_hold.released();
    drop(dropped);
    fixture.lives_on(&guard, &hold, start, SHORT);
    unlock((guard, hold));
    eventually("both are released", || redis.keys("lock:*").is_empty().then_some(()));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    unlock(fixture.lock("k"));
}

#[test]
fn a_master_that_becomes_a_replica_is_a_loss_in_time() {
    let (redis, master) = (Redis::start(), Redis::start());
    let fixture = Fixture::new(&redis, SHORT);
    let (guard, hold) = fixture.lock("k");
    let start = Instant::now();
    redis.cli(&["REPLICAOF", "127.0.0.1", &master.address().port().to_string()]);
    let (loss, at) = lost(&guard, &hold);
    println!("{loss} {:?} after the change", at - start);
    assert!(at - start < SHORT + SOON);
    let error = fixture.holder.lock("k").timeout(SOON).wait().unwrap_err();
    assert_eq!(error.code(), "LOCK_TIMEOUT", "another may become the master: {error}");
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    unlock(fixture.lock("k"));
}

#[test]
fn a_deleted_user_gets_an_error_and_loses_in_time() {
    let redis = Redis::start();
    for change in [&["ACL", "DELUSER", "me"][..], &["ACL", "SETUSER", "me", "-@all"]] {
        let grant = ["ACL", "SETUSER", "me", "reset", "on", ">se?cret", "~*", "&*", "+@all"];
        redis.cli(&grant);
        let fixture = Fixture::as_users(&redis, SHORT, |url| url.replace("//", "//me:se%3Fcret@"));
        let (guard, hold) = fixture.lock("k");
        let waiting = fixture.wait_for("k");
        let start = Instant::now();
        redis.cli(change);
        for error in
            [fixture.holder.lock("other").wait().unwrap_err(), fixture.holder.try_lock("other").wait().unwrap_err()]
        {
            println!("{change:?}: {error}");
            assert_eq!(error.code(), "BACKEND");
            assert!(!format!("{error} {error:?}").contains("cret"));
        }
        assert!(start.elapsed() < SHORT, "retried for too long: {:?}", start.elapsed());
        let (_, at) = lost(&guard, &hold);
        println!("lost {:?} after {change:?}", at - start);
        assert!(at - start < SHORT + SOON);
        let (next, next_hold, _) = waiting.recv_timeout(PATIENCE).unwrap();
        unlock((next, next_hold));
        // Once the user exists again, it recovers automatically.
        redis.cli(&grant);
        unlock(fixture.lock("k"));
        fixture.history.assert_clean(3);
    }
}

#[test]
fn a_clock_that_jumps_ahead_is_a_loss_within_a_third_of_the_ttl() {
    let redis = Redis::start_with_clock();
    let fixture = Fixture::new(&redis, LONG);
    let (guard, hold) = fixture.lock("k");
    let waiting = fixture.wait_for("k");
    let gate = FenceGate::new(());
    gate.enter(guard.token(), |()| ()).unwrap();
    redis.set_clock(2 * LONG);
    let jumped = Instant::now();
    let (next, next_hold, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the next one in {:?} after the jump", at - jumped);
    gate.enter(next.token(), |()| ()).unwrap();
    assert!(gate.enter(guard.token(), |()| ()).is_err(), "the stale token is refused");
    let (loss, at) = lost(&guard, &hold);
    println!("{loss} {:?} after the jump", at - jumped);
    assert!(at - jumped < LONG / 3 + SOON);
    drop(guard);
    next.renew().wait().unwrap();
    unlock((next, next_hold));
    let verdict = judge(&fixture.history.records(), LONG / 3 + SOON);
    assert!(verdict.violations.is_empty(), "{verdict}");
    // With the clock set back, tokens still grow.
    let (before, hold) = fixture.lock("k");
    let token = before.token();
    unlock((before, hold));
    redis.set_clock(Duration::ZERO);
    let (after, hold) = fixture.lock("k");
    assert!(after.token() > token);
    unlock((after, hold));
}

#[test]
fn a_waiter_without_messages_checks_periodically() {
    let redis = Redis::start();
    let fixture = Fixture::new(&redis, LONG);
    let mut times = Vec::new();
    for _ in 0..7 {
        let ours = fixture.lock("k");
        let waiting = fixture.wait_for("k");
        redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        unlock(ours);
        let released = Instant::now();
        let (guard, hold, at) = waiting.recv_timeout(PATIENCE).unwrap();
        times.push(at.saturating_duration_since(released));
        unlock((guard, hold));
    }
    times.sort_unstable();
    println!("in after the release: {times:?}");
    // Each within a second, and most by the check when messages are received again, not by the periodic one.
    assert!(times[6] < SOON && times[3] < SOON / 4, "{times:?}");
    fixture.history.assert_clean(14);
}
