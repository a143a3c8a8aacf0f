//! Requests and answers that are larger than etcd or its client accepts.

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
    // So that only the server hands a key over.
    LockManager::builder().url(url).ttl(PATIENCE).hand_over(Duration::ZERO, 0).build().wait().unwrap()
}

/// Locks all of them at the same time, each in a separate task.
fn lock_all(manager: &LockManager, keys: &[String]) -> Vec<Result<LockGuard, LockError>> {
    block_on(join_all(keys.iter().map(|key| manager.lock(key).timeout(PATIENCE).into_future())))
}

/// The counters that show that the connection was replaced: connections, and watch streams.
fn generation(etcd: &Etcd, proxy: &Proxy) -> (u64, u64) {
    let streams = metric(etcd.address(), "grpc_server_started_total", &["grpc_method=\"Watch\""]);
    (proxy.accepted(), streams)
}

/// The number of transactions that the server has refused for their size.
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
    let _alone = crate::ALONE.blocking_lock();
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
fn a_batch_that_is_too_large_is_halved_and_one_key_fails_no_other() {
    let _alone = crate::ALONE.blocking_lock();
    let etcd = Etcd::start_with(&["--max-request-bytes", "8192"]);
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://{}?timeout=20s", proxy.address());
    let (manager, bystander) = (manager(&url), manager(&url));
    let held = watched(&bystander, &etcd);
    let before = generation(&etcd, &proxy);
    let mut keys: Vec<_> = (0..60).map(|number| long(number, 'k')).collect();
    // Even a single request for this one is too large.
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
    // At most three refusals: with a small one, as part of a pair, and alone.
    assert!(refusals[3] - refusals[2] <= 3, "{refusals:?}");
    assert_eq!(generation(&etcd, &proxy).0, before.0, "the connection was replaced");
    assert!(!held.is_lost());
    assert!(etcd.keys("leasehold/").iter().all(|name| !name.contains("%2F")), "a refused request has left a claim");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_megabytes_hide_no_lock() {
    let _alone = crate::ALONE.lock().await;
    let etcd = Etcd::start_with(&["--max-request-bytes", "10485760"]);
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://{}", proxy.address());
    let builder = || LockManager::builder().url(&url).ttl(PATIENCE).name("holder");
    let (manager, admin) = (builder().build().await.unwrap(), builder().build().await.unwrap());
    let mut guards = Vec::new();
    for number in 0..150 {
        guards.push(manager.lock(format!("k{number:03}")).await.unwrap());
    }
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let large = vec![b'x'; 5_000_000];
    // Behind a holder, with a name like leasehold's and with a foreign one; as holders; and a hundred of 40 kB each.
    for name in ["k000/ff-1", "k000/theirs", "large/ff-2", "theirs/x", "k001/read/ff-3"] {
        client.put(format!("leasehold/{name}"), large.clone(), None).await.unwrap();
    }
    for number in 0..120 {
        client.put(format!("leasehold/many{number:03}/ff-{number}"), vec![b'x'; 40_000], None).await.unwrap();
    }
    let accepted = proxy.accepted();
    let info = admin.info("k000").await.unwrap().unwrap();
    assert_eq!((info.holders.len(), &*info.holders[0].name, info.waiters, info.foreign), (1, "holder", 2, false));
    for key in ["large", "theirs", "many007"] {
        let info = admin.info(key).await.unwrap().unwrap();
        assert!(info.foreign && info.holders.is_empty(), "{info:?}");
    }
    let listed = admin.list("").await.unwrap();
    assert_eq!(listed.len(), 150 + 2 + 120);
    let known = listed.iter().filter(|info| info.key.starts_with('k') && info.holders.len() == 1 && !info.foreign);
    assert_eq!(known.count(), 150, "a holder is not shown");
    assert!(listed.iter().filter(|info| !info.key.starts_with('k')).all(|info| info.foreign));
    for key in ["large", "theirs", "many007"] {
        assert_eq!(admin.force_unlock(key).await.unwrap().released, [key]);
        drop(admin.try_lock(key).await.unwrap().expect("it was forced out"));
    }
    assert_eq!(admin.force_unlock("k149").key_only().await.unwrap().holders.len(), 1);
    assert_eq!(admin.force_unlock("k000").await.unwrap().released.len(), 149);
    assert_eq!(proxy.accepted(), accepted, "the connection was replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_more_names_than_fit_in_an_answer_is_forced_out() {
    let _alone = crate::ALONE.lock().await;
    const COUNT: usize = 4_500;
    let etcd = Etcd::start();
    let manager = LockManager::builder().url(format!("{}?timeout=20s", etcd.url())).build().await.unwrap();
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let options = etcd_client::PutOptions::new().with_lease(lease);
    let keys: Vec<_> = (0..COUNT).map(|number| long(number, 'k')).collect();
    for hundred in keys.chunks(100) {
        let put =
            |key: &String| etcd_client::TxnOp::put(format!("leasehold/{key}/{lease:x}-1"), "", Some(options.clone()));
        client.txn(etcd_client::Txn::new().and_then(hundred.iter().map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let guard = manager.lock("other").await.unwrap();
    let eviction = manager.force_unlock(&keys[7]).await.unwrap();
    assert_eq!(eviction.released.len(), COUNT);
    assert!(manager.list("k").await.unwrap().is_empty());
    assert!(!guard.is_lost());
}
