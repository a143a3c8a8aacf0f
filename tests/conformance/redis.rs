//! The conformance suite, on a real Redis: two managers with separate connections.

use leasehold::LockManager;
use support::redis::Redis;

async fn pair() -> (LockManager, LockManager) {
    let url = Redis::shared().url();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
