//! Managers by name.

use futures::executor::block_on;
use leasehold::{LockManager, Registry};

fn two() -> Registry {
    let registry = Registry::new();
    registry.register("jobs", LockManager::memory()).unwrap();
    registry.register("users", LockManager::memory()).unwrap();
    registry
}

#[test]
fn every_call_reaches_the_named_manager() {
    let registry = two();
    let guard = registry.lock("jobs", "k").unwrap().wait().unwrap();
    assert!(registry.is_locked("jobs", "k").unwrap().wait().unwrap());
    assert!(!registry.is_locked("users", "k").unwrap().wait().unwrap());
    assert!(registry.handle("jobs", "k").unwrap().is_held());
    assert_eq!(registry.info("jobs", "k").unwrap().wait().unwrap().unwrap().key, "k");
    assert_eq!(registry.list("jobs", "").unwrap().wait().unwrap().len(), 1);
    assert_eq!(registry.stats("jobs").unwrap().held, 1);
    assert_eq!(registry.stats("users").unwrap().held, 0);
    assert!(registry.try_lock("users", "k").unwrap().wait().unwrap().is_some());
    assert_eq!(registry.lock_all("users", ["a", "b"]).unwrap().wait().unwrap().len(), 2);
    assert_eq!(block_on(registry.with_lock("users", "k", async |guard| guard.depth()).unwrap()).unwrap(), 1);
    let tried = registry.try_with_lock("jobs", "k", async |_| panic!("another owner holds it")).unwrap();
    assert!(block_on(tried).unwrap().is_none());
    registry.ping("jobs").unwrap().wait().unwrap();
    assert_eq!(registry.force_unlock("jobs", "k").unwrap().wait().unwrap().released, ["k"]);
    block_on(guard.lost());
    assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
    registry.close("jobs").unwrap().wait().unwrap();
    assert_eq!(registry.lock("jobs", "k").unwrap().wait().unwrap_err().code(), "CLOSED");
    registry.lock("users", "k").unwrap().wait().unwrap().unlock().wait().unwrap();
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let registry = two();
    let error = registry.get("user").unwrap_err();
    assert_eq!(error.code(), "INVALID_CONFIG");
    let text = error.to_string();
    assert!(text.contains("\"user\"") && text.contains("jobs, users"), "{text}");
    assert!(Registry::new().get("k").unwrap_err().to_string().contains("none"));
    let error = registry.register("jobs", LockManager::memory()).unwrap_err();
    assert!(error.code() == "INVALID_CONFIG" && error.to_string().contains("\"jobs\""), "{error}");
    assert_eq!(registry.names(), ["jobs", "users"]);
    assert!(registry.remove("jobs").is_some() && registry.remove("jobs").is_none());
    registry.register("jobs", LockManager::memory()).unwrap();
}

#[test]
fn close_all_closes_all_and_may_be_called_again() {
    let registry = two();
    let (jobs, users) = (registry.get("jobs").unwrap(), registry.get("users").unwrap());
    let guard = jobs.lock("k").wait().unwrap();
    registry.close_all().wait().unwrap();
    assert!(guard.is_lost());
    for manager in [jobs, users] {
        assert_eq!(manager.lock("k").wait().unwrap_err().code(), "CLOSED");
    }
    assert_eq!(registry.names(), ["jobs", "users"]);
    registry.close_all().wait().unwrap();
}
