//! The conformance suite, on a real Redis: two managers, each with connections of its own.

use leasehold::LockManager;
use support::redis::Redis;

async fn pair() -> (LockManager, LockManager) {
    let url = Redis::shared().url();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
