//! The spans of waits and holds.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::field::Empty;
use tracing::level_filters::LevelFilter;
use tracing::{Span, debug_span};

use crate::info::{Loss, Mode};
use crate::process::line::is_subscribed;
use crate::process::report::{self, Foreign, catch};
use crate::token::FencingToken;

/// The span of one acquire, from its first poll. It ends as `cancelled` if it is dropped.
#[derive(Debug)]
pub(crate) struct WaitSpan(Option<Box<Wait>>);

#[derive(Debug)]
struct Wait {
    span: Span,
    /// What the caller was in: the parent of the hold's span as well.
    caller: Span,
    name: Arc<str>,
    key: Arc<str>,
    since: Instant,
}

impl WaitSpan {
    pub(crate) const NONE: Self = Self(None);

    /// Begins a span in the caller's.
    pub(crate) fn begin(name: &Arc<str>, key: &Arc<str>, mode: Mode) -> Self {
        if LevelFilter::current() < LevelFilter::DEBUG || !is_subscribed() {
            return Self::NONE;
        }
        let (name, key) = (name.clone(), key.clone());
        Self(catch(Foreign::Subscriber, || {
            let (name_text, key_text, mode) = (&*name, &*key, mode.word());
            let span = debug_span!(
                target: "leasehold", "leasehold.wait",
                name = name_text, key = key_text, mode, waited = Empty, outcome = Empty
            );
            Box::new(Wait { span, caller: Span::current(), name, key, since: Instant::now() })
        }))
    }

    /// Ends it with a share of a hold, whose span begins if this is the first one.
    pub(crate) fn acquired(&mut self, hold: &HoldSpan, mode: Mode, token: FencingToken) {
        if let Some(wait) = self.0.take() {
            hold.begin(&wait, mode, token);
            wait.end("acquired");
        }
    }

    /// Ends it without one.
    pub(crate) fn ended(&mut self, outcome: &'static str) {
        if let Some(wait) = self.0.take() {
            wait.end(outcome);
        }
    }

    /// Leaves it to the parent process.
    pub(crate) fn forget(&mut self) {
        std::mem::forget(self.0.take());
    }
}

impl Drop for WaitSpan {
    fn drop(&mut self) {
        self.ended("cancelled");
    }
}

impl Wait {
    fn end(self: Box<Self>, outcome: &'static str) {
        let waited = self.since.elapsed().as_secs_f64();
        report::run(Foreign::Subscriber, move || {
            self.span.record("waited", waited);
            self.span.record("outcome", outcome);
        });
    }
}

/// The span of a hold, until its last guard is dropped.
#[derive(Debug)]
pub(crate) struct HoldSpan(OnceLock<Mutex<Option<Span>>>);

impl HoldSpan {
    pub(crate) fn new() -> Self {
        Self(OnceLock::new())
    }

    fn begin(&self, wait: &Wait, mode: Mode, token: FencingToken) {
        let mut is_first = false;
        let slot = self.0.get_or_init(|| {
            is_first = true;
            Mutex::default()
        });
        if is_first {
            // The share that has just been acquired keeps the hold from ending meanwhile.
            let span = catch(Foreign::Subscriber, || {
                let (name, key, mode, token) = (&*wait.name, &*wait.key, mode.word(), token.get());
                debug_span!(
                    target: "leasehold", parent: &wait.caller, "leasehold.hold", name, key, mode, token, lost = Empty
                )
            });
            *slot.lock() = span;
        }
    }

    /// The hold has ended, lost or not.
    pub(crate) fn ended(&self, lost: Option<Loss>) {
        let Some(span) = self.0.get().and_then(|slot| slot.lock().take()) else { return };
        report::run(Foreign::Subscriber, move || {
            if let Some(cause) = lost {
                span.record("lost", tracing::field::display(cause));
            }
            drop(span);
        });
    }

    /// Leaves it to the parent process.
    pub(crate) fn forget(&mut self) {
        std::mem::forget(self.0.take());
    }
}
