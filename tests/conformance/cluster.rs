//! The conformance suite, on a cluster of three masters: two managers.

use std::sync::OnceLock;

use leasehold::LockManager;
use support::clusters::RedisCluster;

async fn pair() -> (LockManager, LockManager) {
    static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();
    let url = CLUSTER.get_or_init(|| RedisCluster::start_with(0, &[])).url();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
