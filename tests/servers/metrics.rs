//! Metrics of connections.

use std::time::Duration;

use leasehold::LockManager;
use support::etcd::Etcd;
use support::recorder::Values;
use support::redis::Redis;
use support::{PATIENCE, eventually, in_a_separate_process};

/// A server that can be killed and started again.
trait Server {
    fn kill(&mut self);
    fn restart(&mut self);
}

impl Server for Etcd {
    fn kill(&mut self) {
        self.kill();
    }
    fn restart(&mut self) {
        self.restart();
    }
}

impl Server for Redis {
    fn kill(&mut self) {
        self.kill();
    }
    fn restart(&mut self) {
        self.restart();
    }
}

fn reports_batches_and_reconnects(url: String, backend: &str, server: &mut dyn Server) {
    let values = Values::install();
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
    server.kill();
    assert_eq!(manager.try_lock("k").wait().unwrap_err().code(), "BACKEND");
    server.restart();
    manager.lock("k").timeout(PATIENCE).wait().unwrap().unlock().wait().unwrap();
    eventually(&reconnects, || (values.get(&reconnects) >= 1.0).then_some(()));
}

#[test]
fn batches_and_reconnects_of_etcd_are_reported() {
    in_a_separate_process!();
    let mut etcd = Etcd::start();
    reports_batches_and_reconnects(etcd.url(), "etcd", &mut etcd);
}

#[test]
fn batches_and_reconnects_of_redis_are_reported() {
    in_a_separate_process!();
    let mut redis = Redis::start();
    reports_batches_and_reconnects(redis.url(), "redis", &mut redis);
}
