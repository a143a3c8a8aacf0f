//! Outages and temporary refusals in errors and in the log.

use std::error::Error;
use std::time::Duration;

use leasehold::{LockError, LockManager};
use log::Level;
use support::etcd::Etcd;
use support::process::Process;
use support::redis::Redis;
use support::{eventually, in_a_separate_process, logs, lost};

const TTL: Duration = Duration::from_secs(3);

fn manager(url: String, name: &str) -> LockManager {
    logs::collect();
    LockManager::builder().url(url).name(name).ttl(TTL).timeout(Duration::from_secs(2)).build().wait().unwrap()
}

/// The lines of this manager at this level that contain this text.
fn lines(name: &str, level: Level, words: &str) -> Vec<String> {
    let is_of_the_manager = |line: &&logs::Line| line.level == level && line.text.starts_with(&format!("{name}: "));
    logs::lines()
        .iter()
        .filter(is_of_the_manager)
        .map(|line| line.text.clone())
        .filter(|text| text.contains(words))
        .collect()
}

fn a_silent_server(url: String, name: &str, server: &Process) {
    let manager = manager(url, name);
    let guard = manager.lock("held").wait().unwrap();
    server.stop();
    let loss = lost(&guard).0;
    let error = manager.lock("k").timeout(TTL).wait().unwrap_err();
    assert!(matches!(error, LockError::Timeout { holder: None, .. }), "{error:?}");
    let source = error.source().unwrap_or_else(|| panic!("no source: {error}")).to_string();
    println!("{error}");
    assert!(source.contains(" at ") && error.to_string().contains(&source), "{error}");
    let error = manager.try_lock("k").wait().unwrap_err();
    assert_eq!(error.code(), "BACKEND");
    assert!(error.to_string().contains(" at "), "{error}");
    eventually("the loss is logged", || lines(name, Level::Warn, "lock \"held\" lost (token ").pop())
        .split_once(&loss.to_string())
        .filter(|(_, rest)| rest.contains("the last renewal failed: "))
        .unwrap_or_else(|| panic!("the loss without the failed renewal: {:?}", lines(name, Level::Warn, "lost")));
    server.resume();
    eventually("the end is logged", || lines(name, Level::Info, "serves again").pop());
    assert!(manager.try_lock("k").wait().unwrap().is_some());
    let begun = lines(name, Level::Warn, "does not serve");
    assert_eq!(begun.len(), 1, "{begun:?}");
}

#[test]
fn a_timeout_names_a_silent_redis() {
    in_a_separate_process!();
    let redis = Redis::start();
    a_silent_server(redis.url(), "silent-redis", redis.process());
}

#[test]
fn a_timeout_names_a_silent_etcd() {
    in_a_separate_process!();
    let etcd = Etcd::start();
    a_silent_server(etcd.url(), "silent-etcd", etcd.process());
}

#[test]
fn an_error_of_a_replica_quotes_its_answer() {
    in_a_separate_process!();
    let master = Redis::start();
    let replica = master.start_replica();
    let manager = manager(replica.url(), "on-a-replica");
    let error = manager.try_lock("k").wait().unwrap_err();
    assert!(error.to_string().contains("READONLY"), "{error}");
    let error = manager.lock("k").timeout(TTL).wait().unwrap_err();
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    assert!(error.source().unwrap().to_string().contains("READONLY"), "{error}");
    let begun = lines("on-a-replica", Level::Warn, "does not serve");
    assert!(begun.len() == 1 && begun[0].contains("READONLY"), "{begun:?}");
    assert_eq!(lines("on-a-replica", Level::Info, "").len(), 1, "but for the session: {:?}", logs::lines());
}

#[test]
fn a_holder_is_no_outage() {
    in_a_separate_process!();
    let redis = Redis::start();
    let (one, other) = (manager(redis.url(), "one"), manager(redis.url(), "other"));
    let _held = one.lock("k").wait().unwrap();
    let error = other.lock("k").timeout(Duration::from_millis(500)).wait().unwrap_err();
    assert!(matches!(&error, LockError::Timeout { holder: Some(holder), .. } if holder.name == "one"), "{error:?}");
    assert!(error.source().is_none(), "{error}");
}
