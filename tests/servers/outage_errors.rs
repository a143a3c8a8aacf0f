//! Outages and temporary refusals in errors and in the log.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use leasehold::{LockError, LockManager, Owner};
use log::Level;
use support::etcd::Etcd;
use support::process::Process;
use support::proxy::Proxy;
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
    for attempt in [manager.try_lock("k").wait(), manager.lock("k").try_for(TTL).wait()] {
        let error = attempt.expect_err("nobody has said that it is held");
        assert_eq!(error.code(), "BACKEND");
        assert!(error.to_string().contains(" at "), "{error}");
    }
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

/// The server answers late, or not at all, while another client holds the key.
fn a_try_knows_what_the_server_has_said(scheme: &str, server: SocketAddr, process: &Process) {
    let proxy = Proxy::start(server);
    let near = manager(format!("{scheme}://{server}"), "near");
    let far = manager(format!("{scheme}://{}", proxy.address()), "far");
    drop(far.lock("free").wait().unwrap());
    let _held = near.lock("k").auto_renew(false).ttl(Duration::from_secs(60)).wait().unwrap();
    let ten = || (0..10).map(|_| far.lock("k").owner(&Owner::new()));
    proxy.delay(Duration::from_millis(100), Duration::from_millis(100));
    for time in [700, 1000] {
        let tries = ten().map(|request| request.try_for(Duration::from_millis(time)));
        for attempt in block_on(join_all(tries)) {
            assert!(attempt.expect("the server has answered").is_none());
        }
    }
    let error = far.lock("k").timeout(TTL).wait().unwrap_err();
    assert!(matches!(&error, LockError::Timeout { holder: Some(holder), .. } if holder.name == "near"), "{error:?}");
    assert!(error.source().is_none(), "{error}");
    proxy.delay(Duration::ZERO, Duration::ZERO);
    for time in [50, 150, 400] {
        let time = Duration::from_millis(time);
        eventually("an answer in time", || matches!(far.lock("k").try_for(time).wait(), Ok(None)).then_some(()));
        process.stop();
        for attempt in block_on(join_all(ten().map(|request| request.try_for(time)))) {
            let error = attempt.expect_err("what was said before is outdated");
            assert_eq!(error.code(), "BACKEND", "{error}");
        }
        process.resume();
    }
}

#[test]
fn a_try_knows_what_redis_has_said() {
    let redis = Redis::start();
    a_try_knows_what_the_server_has_said("redis", redis.address(), redis.process());
}

#[test]
fn a_try_knows_what_etcd_has_said() {
    let etcd = Etcd::start();
    a_try_knows_what_the_server_has_said("etcd", etcd.address(), etcd.process());
}

#[test]
fn a_free_key_that_cannot_be_granted_is_not_called_held() {
    let redis = Redis::start();
    let confirmed = LockManager::builder().url(redis.url()).min_replicas(1).build().wait().unwrap();
    let plain = manager(redis.url(), "no-replicas");
    for time in [50, 1500] {
        let error = confirmed.lock("k").try_for(Duration::from_millis(time)).wait().expect_err("no replica has it");
        assert_eq!(error.code(), "BACKEND", "{error}");
    }
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let error = plain.lock("k").try_for(Duration::from_secs(1)).wait().expect_err("it is not written");
    assert!(error.code() == "BACKEND" && error.to_string().contains("NOREPLICAS"), "{error}");
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
