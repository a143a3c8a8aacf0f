//! The conformance suite, on the memory backend: two managers on one named store, which contend like two processes.
#![cfg(feature = "testing")]
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

use leasehold::LockManager;

async fn pair() -> (LockManager, LockManager) {
    let url = "memory://conformance";
    let connect = async |name: &str| LockManager::builder().url(url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
