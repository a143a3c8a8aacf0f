//! The conformance suite, on a real etcd: two managers, each with a connection of its own.
#![cfg(all(feature = "etcd", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use leasehold::LockManager;
use support::etcd::Etcd;

async fn pair() -> (LockManager, LockManager) {
    let url = Etcd::shared().url();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
