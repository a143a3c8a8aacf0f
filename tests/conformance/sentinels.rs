//! The conformance suite, on a Redis that sentinels watch.

use std::sync::OnceLock;

use leasehold::LockManager;
use support::sentinels::Watched;

async fn pair() -> (LockManager, LockManager) {
    static WATCHED: OnceLock<Watched> = OnceLock::new();
    let url = WATCHED.get_or_init(Watched::start).url();
    let connect = async |name: &str| LockManager::builder().url(&url).name(name).build().await.unwrap();
    (connect("a").await, connect("b").await)
}

leasehold::conformance_tests!(pair);
