//! The conformance suite, on the example of a backend.

#[path = "../../examples/backend/map.rs"]
mod map;

use leasehold::LockManager;

use self::map::Link;

async fn pair() -> (LockManager, LockManager) {
    let (a, b) = Link::pair();
    let connect = async |link, name| LockManager::builder().backend(link).name(name).build().await.unwrap();
    (connect(a, "a").await, connect(b, "b").await)
}

leasehold::conformance_tests!(pair);
