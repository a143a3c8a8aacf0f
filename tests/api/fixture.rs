//! Managers on a memory store, and a check that a manager still works.

use std::time::Duration;

use leasehold::testing::MemoryStore;
use leasehold::{LockManager, Loss};

use support::{PATIENCE, lost};

pub(crate) const TTL: Duration = Duration::from_millis(1500);

/// A manager on the store.
pub(crate) async fn on(store: &MemoryStore) -> LockManager {
    LockManager::builder().backend(store.link()).ttl(TTL).build().await.unwrap()
}

/// Checks that a hold is renewed, that its loss is notified, and that the key can be locked again.
///
/// # Panics
///
/// If one of them fails.
pub(crate) fn works(manager: &LockManager, store: &MemoryStore, key: &str) {
    let guard = manager.lock(key).timeout(PATIENCE).wait().unwrap();
    std::thread::sleep(TTL * 4 / 3);
    assert!(!guard.is_lost(), "it is not renewed");
    drop(store.steal(key));
    assert_eq!(lost(&guard).0, Loss::Revoked, "no event was received");
    let again = manager.lock(key).timeout(PATIENCE).wait().unwrap();
    again.unlock().wait().unwrap();
}
