//! The conformance suite, on a real etcd: two managers with separate connections.

use leasehold::LockManager;
use support::etcd::Etcd;

async fn pair() -> (LockManager, LockManager) {
    let url = Etcd::shared().url();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
