//! A Redis that is shared with hostile clients: forged messages, and damaged or huge values.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leasehold::{LockManager, Loss};
use support::redis::Redis;
use support::{eventually, lost};

const TTL: Duration = Duration::from_secs(3);

fn manager(redis: &Redis) -> LockManager {
    LockManager::builder().url(redis.url()).ttl(TTL).build().wait().unwrap()
}

/// The holder of a lock on the server: manager and attempt.
fn holder(redis: &Redis, key: &str) -> (String, String) {
    let value = redis.cli(&["GET", &format!("lock:{key}")]);
    let mut parts = value.trim().split(':').map(str::to_owned);
    (parts.next().unwrap(), parts.next().unwrap())
}

#[test]
fn attempts_cannot_be_guessed() {
    let redis = Redis::start();
    let manager = manager(&redis);
    let attempts: Vec<u64> = (0..4)
        .map(|n| {
            let key = format!("k{n}");
            let _guard = manager.lock(&key).wait().unwrap();
            u64::from_str_radix(&holder(&redis, &key).1, 16).unwrap()
        })
        .collect();
    let near = |pair: &[u64]| pair[0].abs_diff(pair[1]) < 1 << 32;
    assert!(!attempts.windows(2).any(near), "{attempts:x?}");
}

#[test]
fn a_message_of_a_loss_is_checked_before_it_is_believed() {
    let redis = Redis::start();
    let (manager, other) = (manager(&redis), manager(&redis));
    let guard = manager.lock("k").wait().unwrap();
    let (name, attempt) = holder(&redis, "k");
    let renewals = || redis.cli(&["INFO", "commandstats"]).matches("cmdstat_evalsha").count();
    assert_eq!(renewals(), 1);
    for _ in 0..100 {
        assert_eq!(redis.cli(&["PUBLISH", &format!("lock:%wake:{name}"), &format!("l{attempt}")]).trim(), "1");
    }
    // It was received when a later message was: that of a real eviction of another lock.
    let evicted = manager.lock("evicted").wait().unwrap();
    other.force_unlock("evicted").wait().unwrap();
    let start = Instant::now();
    assert_eq!(lost(&evicted).0, Loss::Revoked);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(!guard.is_lost());
    assert_eq!(holder(&redis, "k"), (name, attempt), "its own key is not deleted");
    guard.unlock().wait().unwrap();
}

/// The memory of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_flood_of_messages_fills_no_memory_and_ends_no_hold() {
    let redis = Redis::start();
    let manager = manager(&redis);
    let guard = manager.lock("k").wait().unwrap();
    let (name, _) = holder(&redis, "k");
    let message = format!("PUBLISH lock:%wake:{name} {}\r\n", "x".repeat(40)).repeat(1000);
    let before = resident();
    let (mut most, flooding) = (before, AtomicBool::new(true));
    std::thread::scope(|scope| {
        let mut writer = TcpStream::connect(redis.address()).unwrap();
        let mut reader = writer.try_clone().unwrap();
        let flooding = &flooding;
        scope.spawn(move || {
            while flooding.load(Ordering::Relaxed) {
                writer.write_all(message.as_bytes()).unwrap();
            }
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(move || {
            let mut answers = [0; 1 << 16];
            while reader.read(&mut answers).is_ok_and(|read| read > 0) {}
        });
        let start = Instant::now();
        while start.elapsed() < 2 * TTL {
            most = most.max(resident());
            std::thread::sleep(Duration::from_millis(50));
        }
        flooding.store(false, Ordering::Relaxed);
    });
    println!("{} MiB more at most", (most - before) >> 20);
    assert!(most - before < 8 << 20, "{} MiB more", (most - before) >> 20);
    assert!(!guard.is_lost());
    manager.lock("other").timeout(TTL).wait().unwrap().unlock().wait().unwrap();
}

#[test]
fn a_huge_value_at_a_key_costs_no_memory() {
    let redis = Redis::start();
    let manager = manager(&redis);
    let bystander = manager.lock("bystander").wait().unwrap();
    redis.cli(&["SETRANGE", "lock:huge", "104857599", "x"]);
    redis.cli(&["SET", "lock:small", "x"]);
    let mut took = [Duration::ZERO; 2];
    for _ in 0..50 {
        for (key, took) in ["small", "huge"].into_iter().zip(&mut took) {
            let start = Instant::now();
            assert!(manager.try_lock(key).wait().unwrap().is_none());
            let info = manager.info(key).wait().unwrap().unwrap();
            assert!(info.foreign && info.holders.is_empty(), "{info:?}");
            *took += start.elapsed();
        }
    }
    println!("50 tries and lookups of a small value and a huge one: {took:?}");
    assert!(took[1] < 5 * took[0] + Duration::from_secs(1), "{took:?}");
    assert!(!bystander.is_lost());
    // It excludes, and can be evicted, like any other foreign lock.
    let request = manager.lock("huge");
    let waiting = std::thread::spawn(move || request.wait());
    eventually("it waits", || (manager.info("huge").wait().ok()??.waiters == 1).then_some(()));
    redis.cli(&["DEL", "lock:huge"]);
    waiting.join().unwrap().unwrap().unlock().wait().unwrap();
    // An empty value is a lock as well.
    redis.cli(&["SET", "lock:empty", ""]);
    assert!(manager.try_lock("empty").wait().unwrap().is_none());
    assert!(manager.info("empty").wait().unwrap().unwrap().foreign);
    assert_eq!(manager.force_unlock("empty").wait().unwrap().released, ["empty"]);
    assert!(manager.try_lock("empty").wait().unwrap().is_some());
}

/// Another client has written beside one lock. The others of the same session are renewed as before.
#[test]
fn a_damaged_lock_ends_no_other_hold() {
    let redis = Redis::start();
    let manager = manager(&redis);
    let guards: Vec<_> = (0..5).map(|n| manager.lock(format!("k{n}")).wait().unwrap()).collect();
    let damaged = manager.lock("{t}shared").shared().wait().unwrap();
    redis.cli(&["DEL", "{t}%r2:lock:{t}shared"]);
    redis.cli(&["SET", "{t}%r2:lock:{t}shared", "x"]);
    let (cause, _) = lost(&damaged);
    assert!(matches!(cause, Loss::Revoked | Loss::Expired), "{cause}");
    std::thread::sleep(TTL);
    for guard in guards {
        guard.unlock().wait().unwrap();
    }
}

/// The members of a sharing period are read up to the same bound as a value.
#[test]
fn a_huge_member_of_a_sharing_period_is_cut() {
    let redis = Redis::start();
    let manager = manager(&redis);
    redis.cli(&["SET", "lock:{t}r", "shared:2:5"]);
    redis.cli(&[
        "EVAL",
        "return redis.call('ZADD', KEYS[1], '+inf', string.rep('x', 33554432))",
        "1",
        "{t}%r2:lock:{t}r",
    ]);
    manager.info("{t}r").wait().unwrap();
    let before = resident();
    for _ in 0..8 {
        assert!(manager.info("{t}r").wait().unwrap().is_some());
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}
