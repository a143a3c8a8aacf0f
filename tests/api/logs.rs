//! Log records and their fields.

use leasehold::LockManager;
use log::Level;
use support::logs::Line;
use support::{eventually, in_a_separate_process, logs};

/// Waits for a line of this manager that contains this text, removes the first one and returns it.
fn next(manager: &str, text: &str) -> Line {
    eventually(&format!("{text:?} of {manager}"), || {
        let mut lines = logs::lines();
        let at = lines.iter().position(|line| line.is_of(manager) && line.text.contains(text))?;
        let found = lines.remove(at);
        assert_eq!(found.target, "leasehold");
        // Loggers drop the fields by default.
        assert!(found.text.starts_with(&format!("{manager}: ")), "{found:?}");
        if let Some(key) = found.fields.get("key") {
            assert!(found.text.contains(&format!("lock {key:?}")), "{found:?}");
        }
        if let Some(token) = found.fields.get("token") {
            assert!(found.text.contains(&format!("(token {token})")), "{found:?}");
        }
        Some(found)
    })
}

#[test]
fn the_events_of_a_lock_are_logged() {
    in_a_separate_process!();
    logs::collect();
    const NAME: &str = "user-service.dlock";
    let manager = LockManager::builder().url("memory://logs").name(NAME).build().wait().unwrap();
    let admin = LockManager::builder().url("memory://logs").name("admin").build().wait().unwrap();

    let guard = manager.lock("k").wait().unwrap();
    let established = next(NAME, " established, TTL");
    assert_eq!(established.level, Level::Info);
    let session = established.field("lease");
    let acquired = next(NAME, "acquired");
    assert_eq!((acquired.level, acquired.field("key"), acquired.field("lease")), (Level::Debug, "k", session));
    assert_eq!(acquired.field("token"), guard.token().to_string());
    guard.unlock().wait().unwrap();
    let released = next(NAME, "released");
    assert_eq!((released.level, released.field("key"), released.field("lease")), (Level::Debug, "k", session));
    assert_eq!(released.field("token"), acquired.field("token"));

    let guard = manager.lock("k").wait().unwrap();
    assert_eq!(next(NAME, "acquired").field("lease"), session, "one session for all");
    admin.force_unlock("k").wait().unwrap();
    futures::executor::block_on(guard.lost());
    let forced = next("admin", "force-unlocked");
    assert_eq!((forced.level, forced.field("key")), (Level::Warn, "k"));
    assert!(forced.text.contains(NAME), "without the holder: {forced:?}");
    let lost = next(NAME, "session ");
    assert_eq!((lost.level, lost.field("lease")), (Level::Warn, session));
    let lost = next(NAME, " lost (token ");
    assert_eq!((lost.level, lost.field("key"), lost.field("lease")), (Level::Warn, "k", session));
    assert_eq!(lost.field("token"), guard.token().to_string());
    assert!(lost.text.contains("revoked"), "{lost:?}");

    let _again = manager.lock("k").wait().unwrap();
    let established = next(NAME, " established, TTL");
    assert_ne!(established.field("lease"), session);
    assert_eq!(next(NAME, "acquired").field("lease"), established.field("lease"));
}
