//! What is logged, with its fields. The logger is the process's, so there is one test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;

use leasehold::LockManager;
use log::kv::{Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record};
use support::eventually;

/// A line, and its fields.
#[derive(Clone, Debug)]
struct Line {
    level: Level,
    target: String,
    text: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Logger;

struct Fields(BTreeMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Fields(BTreeMap::new());
        record.key_values().visit(&mut fields).unwrap();
        let (level, target, text) = (record.level(), record.target().to_owned(), record.args().to_string());
        LINES.lock().unwrap().push(Line { level, target, text, fields: fields.0 });
    }

    fn flush(&self) {}
}

/// Waits for a line of this manager that has these words in its text, and takes the first of them away.
fn next(manager: &str, text: &str) -> Line {
    eventually(&format!("{text:?} of {manager}"), || {
        let mut lines = LINES.lock().unwrap();
        let is_of = |line: &Line| line.fields.get("name").is_some_and(|name| name == manager);
        let at = lines.iter().position(|line| is_of(line) && line.text.contains(text))?;
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
fn what_happens_to_a_lock_is_logged() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
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
    assert!(forced.text.contains(NAME), "who held it: {forced:?}");
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
