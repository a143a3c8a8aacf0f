//! Log lines, metrics, and the panics of foreign code: loggers, recorders, wakers, backends.
//!
//! A panic is caught and logged once, so that it ends no task of the library and does not reach an unrelated caller.
//!
//! What a caller reports is written by the caller. What the keeper does passes through a bounded queue to the watchdog thread, since a
//! logger or a recorder may block, and the keeper must renew in time.

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};

use super::line::Line;

/// Writes a line, if anything may want it: `target: "…", field = value, …; "text"`, or without fields `target: "…", "text"`.
macro_rules! write_line {
    ($level:ident, target: $target:literal, $($field:ident = $value:expr),+; $($text:tt)+) => {
        $crate::process::report::write_line!(@ $level, $target, [$(.$field($value))+], $($text)+)
    };
    ($level:ident, target: $target:literal, $($text:tt)+) => {
        $crate::process::report::write_line!(@ $level, $target, [], $($text)+)
    };
    (@ $level:ident, $target:literal, [$($fields:tt)*], $($text:tt)+) => {
        if $crate::process::line::is_on(log::Level::$level) {
            static CALLSITE: $crate::process::line::Callsite = $crate::process::line::Callsite {
                level: log::Level::$level,
                target: $target,
                module: module_path!(),
                file: file!(),
                line: line!(),
                #[cfg(feature = "tracing")]
                event: |line| tracing::event!(
                    target: $target,
                    $crate::process::line::severity(log::Level::$level),
                    {
                        name = line.name,
                        key = line.key,
                        token = line.token,
                        lease = line.lease.map(tracing::field::display),
                    },
                    "{}",
                    line.text
                ),
            };
            $crate::process::report::write(
                &$crate::process::line::Line::new(&CALLSITE, format_args!($($text)+))$($fields)*
            );
        }
    };
}
macro_rules! debug {
    ($($line:tt)+) => { $crate::process::report::write_line!(Debug, $($line)+) };
}
macro_rules! info {
    ($($line:tt)+) => { $crate::process::report::write_line!(Info, $($line)+) };
}
macro_rules! warning {
    ($($line:tt)+) => { $crate::process::report::write_line!(Warn, $($line)+) };
}
macro_rules! error {
    ($($line:tt)+) => { $crate::process::report::write_line!(Error, $($line)+) };
}
pub(crate) use {debug, error, info, warning as warn, write_line};

/// A kind of foreign code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Foreign {
    Waker,
    Logger,
    #[cfg(feature = "tracing")]
    Subscriber,
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
            #[cfg(feature = "tracing")]
            Self::Subscriber => "the tracing subscriber",
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
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            catch(what, || drop(job));
        }
    }
}

/// Logs the number of records dropped since the last call, if any.
pub(crate) fn report_dropped() {
    let dropped = DROPPED.swap(0, Ordering::Relaxed);
    if dropped > 0 {
        warn!(target: "leasehold", "{dropped} records of the background thread were dropped: the logger or the metrics recorder is too slow");
    }
}

/// Writes a line here, or has the watchdog thread write it if this one must not block.
pub(crate) fn write(line: &Line<'_>) {
    if QUEUED.try_with(|queued| queued.get().is_some()).unwrap_or(false) {
        let kept = line.keep();
        run(Foreign::Logger, move || kept.emit());
    } else {
        catch(Foreign::Logger, || line.emit());
    }
}
