//! Requests and answers that are larger than etcd or its client takes.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use std::future::IntoFuture;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use leasehold::{LockError, LockGuard, LockManager};
use support::PATIENCE;
use support::etcd::{Etcd, metric};
use support::proxy::Proxy;

/// The longest key, most of which is `filler`.
fn long(number: usize, filler: char) -> String {
    let number = number.to_string();
    filler.to_string().repeat(995 - number.len()) + &number
}

fn manager(url: &str) -> LockManager {
    // So that nothing but the server hands a key over.
    LockManager::builder().url(url).ttl(PATIENCE).hand_over(Duration::ZERO, 0).build().wait().unwrap()
}

/// Locks all of them at the same time, each in a place of its own.
fn lock_all(manager: &LockManager, keys: &[String]) -> Vec<Result<LockGuard, LockError>> {
    block_on(join_all(keys.iter().map(|key| manager.lock(key).timeout(PATIENCE).into_future())))
}

/// What shows that the connection was replaced: new ones, and streams of watches that are made again.
fn generation(etcd: &Etcd, proxy: &Proxy) -> (u64, u64) {
    let streams = metric(etcd.address(), "grpc_server_started_total", &["grpc_method=\"Watch\""]);
    (proxy.accepted(), streams)
}

/// How many transactions the server has refused for their size.
fn refused(etcd: &Etcd) -> u64 {
    ["InvalidArgument", "ResourceExhausted"]
        .into_iter()
        .map(|code| format!("grpc_code=\"{code}\""))
        .map(|code| metric(etcd.address(), "grpc_server_handled_total", &["grpc_method=\"Txn\"", &code]))
        .sum()
}

/// A hold that is old enough for its watch: then there is a stream.
fn watched(manager: &LockManager, etcd: &Etcd) -> LockGuard {
    let guard = manager.lock("watched").wait().unwrap();
    support::eventually("the hold and the session have their watches", || {
        (metric(etcd.address(), "etcd_debugging_mvcc_watcher_total", &[]) >= 2).then_some(())
    });
    guard
}

#[test]
fn batches_of_long_keys_are_no_outage() {
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://{}?timeout=20s", proxy.address());
    // Equal settings: they share the connection.
    let (manager, bystander) = (manager(&url), manager(&url));
    let held = watched(&bystander, &etcd);
    let before = generation(&etcd, &proxy);
    // Three bytes on the server for each of these.
    let keys: Vec<_> = (0..400).map(|number| long(number, '/')).collect();
    for _ in 0..2 {
        let guards = lock_all(&manager, &keys);
        guards.into_iter().for_each(|guard| drop(guard.unwrap()));
        let tries = block_on(join_all(keys.iter().map(|key| manager.try_lock(key))));
        tries.into_iter().for_each(|guard| drop(guard.unwrap()));
    }
    // The manager's own watches are on one more stream at most, if any hold got so old.
    let after = generation(&etcd, &proxy);
    assert_eq!(after.0, before.0, "the connection was replaced");
    assert!(after.1 <= before.1 + 1, "watches were made again: {before:?} {after:?}");
    assert_eq!(refused(&etcd), 0, "a batch was larger than etcd takes by default");
    assert!(!held.is_lost());
}

#[test]
fn what_is_too_large_for_the_server_is_halved_and_remembered_and_one_key_fails_no_other() {
    let etcd = Etcd::start_with(&["--max-request-bytes", "8192"]);
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://{}?timeout=20s", proxy.address());
    let (manager, bystander) = (manager(&url), manager(&url));
    let held = watched(&bystander, &etcd);
    let before = generation(&etcd, &proxy);
    let mut keys: Vec<_> = (0..60).map(|number| long(number, 'k')).collect();
    // Of this one, not even one request is small enough.
    let hopeless = long(60, '/');
    keys.push(hopeless.clone());
    let mut refusals = Vec::new();
    for _ in 0..4 {
        for guard in lock_all(&manager, &keys) {
            match guard {
                Ok(guard) => drop(guard),
                Err(error) => {
                    assert_eq!((error.key(), error.code()), (Some(&*hopeless), "BACKEND"), "{error}");
                    assert!(error.to_string().contains("too large"), "{error}");
                }
            }
        }
        refusals.push(refused(&etcd));
    }
    println!("refused after each round: {refusals:?}");
    // It goes with one that is small at most: those two, the pair and itself.
    assert!(refusals[3] - refusals[2] <= 3, "{refusals:?}");
    assert_eq!(generation(&etcd, &proxy).0, before.0, "the connection was replaced");
    assert!(!held.is_lost());
    assert!(etcd.keys("leasehold/").iter().all(|name| !name.contains("%2F")), "something is left of what was refused");
}
