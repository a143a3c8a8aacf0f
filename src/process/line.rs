//! [`Line`]: a log line with its fields, for `log`, or as an event for `tracing` where a subscriber is set.

use std::fmt::{Arguments, Display};

use log::kv::{Error, Key, Source, Value, VisitSource};
use log::{Level, Record};

/// The place in the source that writes a line.
pub(crate) struct Callsite {
    pub(crate) level: Level,
    pub(crate) target: &'static str,
    pub(crate) module: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    /// Emits the line as an event.
    #[cfg(feature = "tracing")]
    pub(crate) event: fn(&Line<'_>),
}

/// One line, with what it is about. The text names that too, since most loggers drop fields by default.
pub(crate) struct Line<'a> {
    callsite: &'static Callsite,
    pub(crate) text: Arguments<'a>,
    pub(crate) name: Option<&'a str>,
    pub(crate) key: Option<&'a str>,
    pub(crate) token: Option<u64>,
    pub(crate) lease: Option<&'a (dyn Display + 'a)>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(callsite: &'static Callsite, text: Arguments<'a>) -> Self {
        Self { callsite, text, name: None, key: None, token: None, lease: None }
    }

    /// Adds the manager's name.
    pub(crate) fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    pub(crate) fn key(self, key: &'a str) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(crate) fn token(self, token: u64) -> Self {
        Self { token: Some(token), ..self }
    }

    pub(crate) fn lease(self, lease: &'a dyn Display) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// Emits it, once.
    pub(super) fn emit(&self) {
        #[cfg(feature = "tracing")]
        if is_subscribed() {
            return (self.callsite.event)(self);
        }
        let Callsite { level, target, module, file, line, .. } = self.callsite;
        if is_logged(*level) {
            let mut record = Record::builder();
            record.level(*level).target(target).key_values(self);
            record.module_path_static(Some(module)).file_static(Some(file)).line(Some(*line));
            log::logger().log(&record.args(self.text).build());
        }
    }

    /// Copies it for another thread.
    pub(super) fn keep(&self) -> Kept {
        Kept {
            callsite: self.callsite,
            text: self.text.to_string(),
            name: self.name.map(Into::into),
            key: self.key.map(Into::into),
            token: self.token,
            lease: self.lease.map(ToString::to_string),
        }
    }
}

impl Source for Line<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        let fields = [
            ("name", self.name.map(Value::from)),
            ("key", self.key.map(Value::from)),
            ("token", self.token.map(Value::from)),
            ("lease", self.lease.map(Value::from_dyn_display)),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                visitor.visit_pair(Key::from_str(name), value)?;
            }
        }
        Ok(())
    }
}

/// An owned line.
pub(super) struct Kept {
    callsite: &'static Callsite,
    text: String,
    name: Option<String>,
    key: Option<String>,
    token: Option<u64>,
    lease: Option<String>,
}

impl Kept {
    pub(super) fn emit(&self) {
        let lease = self.lease.as_ref().map(|lease| lease as &dyn Display);
        let (name, key, token) = (self.name.as_deref(), self.key.as_deref(), self.token);
        Line { callsite: self.callsite, text: format_args!("{}", self.text), name, key, token, lease }.emit();
    }
}

/// Whether anything may want lines of this level.
#[inline]
pub(crate) fn is_on(level: Level) -> bool {
    #[cfg(feature = "tracing")]
    if severity(level) <= tracing::level_filters::LevelFilter::current() {
        return true;
    }
    is_logged(level)
}

fn is_logged(level: Level) -> bool {
    level <= log::STATIC_MAX_LEVEL && level <= log::max_level()
}

/// Whether this thread has a subscriber, its own or the global one.
#[cfg(feature = "tracing")]
pub(crate) fn is_subscribed() -> bool {
    tracing::dispatcher::get_default(|set| !set.is::<tracing::subscriber::NoSubscriber>())
}

/// The level as `tracing` has it.
#[cfg(feature = "tracing")]
pub(crate) const fn severity(level: Level) -> tracing::Level {
    match level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    }
}
