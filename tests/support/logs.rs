//! The log records of this process. A process has one logger, so a test that uses it runs in a separate one:
//! [`in_a_separate_process`](crate::in_a_separate_process).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, Once};

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// A log record, with its fields.
#[derive(Clone, Debug)]
pub struct Line {
    pub level: Level,
    pub target: String,
    pub text: String,
    pub fields: BTreeMap<String, String>,
}

impl Line {
    /// Returns a field.
    ///
    /// # Panics
    ///
    /// If the line does not have it.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// Whether the line is a manager's.
    pub fn is_of(&self, manager: &str) -> bool {
        self.fields.get("name").is_some_and(|name| name == manager)
    }
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// Collects all lines from the first call on.
///
/// # Panics
///
/// If the process has another logger.
pub fn collect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(LevelFilter::Trace);
    });
}

/// The lines so far.
pub fn lines() -> MutexGuard<'static, Vec<Line>> {
    LINES.lock().unwrap()
}

struct Collector;

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut fields = Fields(BTreeMap::new());
        record.key_values().visit(&mut fields).unwrap();
        let (level, target, text) = (record.level(), record.target().to_owned(), record.args().to_string());
        lines().push(Line { level, target, text, fields: fields.0 });
    }

    fn flush(&self) {}
}

struct Fields(BTreeMap<String, String>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}
