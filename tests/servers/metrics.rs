//! Metrics of connections.

use std::net::SocketAddr;
use std::time::Duration;

use leasehold::LockManager;
use support::etcd::Etcd;
use support::proxy::Proxy;
use support::recorder::Values;
use support::redis::Redis;
use support::{PATIENCE, eventually, in_a_separate_process};

fn reports_batches_and_reconnects(backend: &str, server: SocketAddr) {
    let (values, proxy) = (Values::install(), Proxy::start(server));
    let url = format!("{backend}://{}", proxy.address());
    let manager = LockManager::builder().url(url).timeout(Duration::from_secs(1)).build().wait().unwrap();
    let (reconnects, batches) =
        (format!("leasehold_reconnects_total backend={backend}"), format!("leasehold_batch_size backend={backend}"));
    for _ in 0..3 {
        manager.lock("k").wait().unwrap().unlock().wait().unwrap();
    }
    // A release of etcd may travel with the next acquire.
    eventually(&batches, || (values.get(&batches) >= 4.0).then_some(()));
    let (operations, requests) = (values.get(&batches), values.count(&batches));
    assert!(requests as f64 <= operations && operations <= 6.0, "{operations} operations in {requests} requests");
    assert_eq!(values.get(&reconnects), 0.0);
    // Silent, so that no transport connects again by itself.
    proxy.freeze();
    assert_eq!(manager.try_lock("k").wait().unwrap_err().code(), "BACKEND");
    manager.lock("k").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    eventually(&reconnects, || (values.get(&reconnects) >= 1.0).then_some(()));
}

#[test]
fn batches_and_reconnects_of_etcd_are_reported() {
    in_a_separate_process!();
    let etcd = Etcd::start();
    reports_batches_and_reconnects("etcd", etcd.address());
}

#[test]
fn batches_and_reconnects_of_redis_are_reported() {
    in_a_separate_process!();
    let redis = Redis::start();
    reports_batches_and_reconnects("redis", redis.address());
}
