//! The conformance suite, on the memory backend: two managers on one named store, which contend like two processes.

use leasehold::LockManager;

async fn pair() -> (LockManager, LockManager) {
    let url = "memory://conformance";
    let connect = async |name: &str| LockManager::builder().url(url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
