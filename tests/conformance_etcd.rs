//! The conformance suite, on etcd.
#![cfg(feature = "etcd")]

use leasehold::LockManager;

async fn pair() -> (LockManager, LockManager) {
    let url = std::env::var("LEASEHOLD_ETCD").unwrap();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
