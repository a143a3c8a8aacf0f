//! A subscriber that records.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use support::eventually;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

pub(super) type Fields = BTreeMap<&'static str, String>;

/// An event of the library.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) fields: Fields,
    /// The name of the span that it is in.
    pub(super) parent: Option<&'static str>,
}

/// A span of the library.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) name: &'static str,
    pub(super) fields: Fields,
    pub(super) parent: Option<&'static str>,
    pub(super) was_entered: bool,
    pub(super) is_closed: bool,
    id: Id,
}

/// What was recorded of the library.
#[derive(Clone, Default)]
pub(super) struct Recorded(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    spans: Vec<Span>,
}

impl Recorded {
    /// A subscriber that records here.
    pub(super) fn subscriber(&self) -> impl Subscriber + use<> {
        Registry::default().with(self.clone())
    }

    pub(super) fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().lines.clone()
    }

    /// The spans of this name, in the order in which they began.
    pub(super) fn spans(&self, name: &str) -> Vec<Span> {
        let state = self.0.lock().unwrap();
        state.spans.iter().filter(|span| span.name == name).cloned().collect()
    }

    /// Waits for a line of this manager that contains this text.
    pub(super) fn line(&self, manager: &str, text: &str) -> Line {
        eventually(&format!("{text:?} of {manager}"), || {
            let is_it =
                |line: &Line| line.fields.get("name").is_some_and(|name| name == manager) && line.text().contains(text);
            self.lines().into_iter().find(is_it)
        })
    }

    fn change(&self, id: &Id, change: impl FnOnce(&mut Span)) {
        let mut state = self.0.lock().unwrap();
        // Ids are used again.
        if let Some(span) = state.spans.iter_mut().rev().find(|span| span.id == *id) {
            change(span);
        }
    }
}

impl Line {
    pub(super) fn text(&self) -> &str {
        &self.fields["message"]
    }
}

struct Read<'a>(&'a mut Fields);

impl Visit for Read<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), format!("{value}u64"));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name(), format!("{value}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorded {
    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        if event.metadata().target().starts_with("leasehold") {
            let (level, mut fields) = (*event.metadata().level(), Fields::new());
            event.record(&mut Read(&mut fields));
            let parent = cx.event_span(event).map(|parent| parent.name());
            self.0.lock().unwrap().lines.push(Line { level, fields, parent });
        }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        if attributes.metadata().target().starts_with("leasehold") {
            let mut fields = Fields::new();
            attributes.record(&mut Read(&mut fields));
            let (name, parent) = (attributes.metadata().name(), cx.span(id).unwrap().parent());
            let parent = parent.map(|parent| parent.name());
            let span = Span { name, fields, parent, was_entered: false, is_closed: false, id: id.clone() };
            self.0.lock().unwrap().spans.push(span);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.change(id, |span| values.record(&mut Read(&mut span.fields)));
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        self.change(id, |span| span.was_entered = true);
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.change(&id, |span| span.is_closed = true);
    }
}
