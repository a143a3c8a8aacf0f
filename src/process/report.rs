//! Log records, metrics, and the panics of foreign code: loggers, recorders, wakers, backends.
//!
//! A panic is caught and logged once, so that it ends no task of the library and does not reach an unrelated caller.
//!
//! Records of a caller are written by the caller. Those of the keeper pass through a bounded queue to the watchdog thread, since a
//! logger or a recorder may block, and the keeper must renew in time.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use log::kv::{Key, Source, Value, VisitSource};
use log::{Level, Log, Metadata, Record};

macro_rules! debug {
    ($($record:tt)+) => { log::debug!(logger: $crate::process::report::Logger, $($record)+) };
}
macro_rules! info {
    ($($record:tt)+) => { log::info!(logger: $crate::process::report::Logger, $($record)+) };
}
macro_rules! warning {
    ($($record:tt)+) => { log::warn!(logger: $crate::process::report::Logger, $($record)+) };
}
macro_rules! error {
    ($($record:tt)+) => { log::error!(logger: $crate::process::report::Logger, $($record)+) };
}
pub(crate) use {debug, error, info, warning as warn};

/// A kind of foreign code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Foreign {
    Waker,
    Logger,
    #[cfg(feature = "metrics")]
    Recorder,
    Backend,
    #[cfg(any(feature = "etcd", feature = "redis"))]
    Credentials,
}

impl Foreign {
    fn name(self) -> &'static str {
        match self {
            Self::Waker => "a waker",
            Self::Logger => "the logger",
            #[cfg(feature = "metrics")]
            Self::Recorder => "the metrics recorder",
            Self::Backend => "the backend",
            #[cfg(any(feature = "etcd", feature = "redis"))]
            Self::Credentials => "a credentials callback",
        }
    }
}

/// Calls foreign code; `None` if it panics, which is logged once.
pub(crate) fn catch<T>(what: Foreign, call: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => Some(result),
        Err(panic) => {
            // The payload of a panic may panic again when it is dropped.
            std::mem::forget(panic);
            log_once(what);
            None
        }
    }
}

fn log_once(what: Foreign) {
    static LOGGED: AtomicU8 = AtomicU8::new(0);
    let bit = 1 << what as u8;
    if LOGGED.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
        error!(target: "leasehold", "{} panicked; this is logged once", what.name());
    }
}

/// The capacity of the queue; further records are dropped, and counted.
pub(crate) const QUEUE: usize = 4096;

/// A job for the watchdog thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

static DROPPED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The queue for this thread's records; empty on threads that write their own.
    static QUEUED: OnceCell<SyncSender<Job>> = const { OnceCell::new() };
}

/// Sends the records of this thread through `queue` from now on.
pub(crate) fn defer(queue: SyncSender<Job>) {
    // The first queue stays, but a thread has only one.
    let _ = QUEUED.try_with(|queued| queued.set(queue));
}

/// Runs the job here, or on the watchdog thread if this one must not block.
pub(crate) fn run(what: Foreign, job: impl FnOnce() + Send + 'static) {
    let queue = QUEUED.try_with(|queued| queued.get().cloned()).ok().flatten();
    let Some(queue) = queue else {
        catch(what, job);
        return;
    };
    match queue.try_send(Box::new(move || {
        catch(what, job);
    })) {
        Ok(()) => {}
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => drop(DROPPED.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Logs the number of records dropped since the last call, if any.
pub(crate) fn report_dropped() {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        warn!(target: "leasehold", "{dropped} records of the background thread were dropped: the logger or the metrics recorder is too slow");
    }
}

/// The process's logger, called through [`run`].
pub(crate) struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        catch(Foreign::Logger, || log::logger().enabled(metadata)).unwrap_or(false)
    }

    fn log(&self, record: &Record<'_>) {
        let is_deferred = QUEUED.try_with(|queued| queued.get().is_some()).unwrap_or(false);
        if is_deferred {
            let kept = Kept::new(record);
            run(Foreign::Logger, move || kept.log());
        } else {
            catch(Foreign::Logger, || log::logger().log(record));
        }
    }

    fn flush(&self) {}
}

/// An owned log record.
struct Kept {
    level: Level,
    target: String,
    text: String,
    fields: Fields,
}

enum Field {
    Number(u64),
    Text(String),
}

#[derive(Default)]
struct Fields(Vec<(String, Field)>);

impl Kept {
    fn new(record: &Record<'_>) -> Self {
        let mut fields = Fields::default();
        // Visiting into a list does not fail.
        let _ = record.key_values().visit(&mut fields);
        Self { level: record.level(), target: record.target().into(), text: record.args().to_string(), fields }
    }

    fn log(&self) {
        let mut record = Record::builder();
        record.level(self.level).target(&self.target).key_values(&self.fields);
        log::logger().log(&record.args(format_args!("{}", self.text)).build());
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let field = value.to_u64().map_or_else(|| Field::Text(value.to_string()), Field::Number);
        self.0.push((key.to_string(), field));
        Ok(())
    }
}

impl Source for Fields {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), log::kv::Error> {
        for (key, field) in &self.0 {
            let value = match field {
                Field::Number(number) => Value::from(*number),
                Field::Text(text) => Value::from(text.as_str()),
            };
            visitor.visit_pair(Key::from_str(key), value)?;
        }
        Ok(())
    }
}
