//! [`Gauge`]: a present number, for the `metrics` facade.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::process::report::{self, Foreign};

/// A number that is reported at each change. A report that is dropped is made up for by the next one.
#[derive(Debug)]
pub(super) struct Gauge {
    metric: &'static str,
    /// The label.
    name: Arc<str>,
    value: AtomicU64,
}

impl Gauge {
    pub(super) fn new(metric: &'static str, name: Arc<str>) -> Arc<Self> {
        Arc::new(Self { metric, name, value: AtomicU64::new(0) })
    }

    pub(super) fn increment(self: &Arc<Self>) {
        self.value.fetch_add(1, Ordering::SeqCst);
        self.report();
    }

    pub(super) fn decrement(self: &Arc<Self>) {
        self.value.fetch_sub(1, Ordering::SeqCst);
        self.report();
    }

    fn report(self: &Arc<Self>) {
        let this = self.clone();
        report::run(Foreign::Recorder, move || {
            let gauge = metrics::gauge!(this.metric, "name" => this.name.clone());
            // Of several threads that report at the same time, the last one must report the present value.
            let mut reported = None;
            while reported != Some(this.value.load(Ordering::SeqCst)) {
                let value = this.value.load(Ordering::SeqCst);
                gauge.set(value as f64);
                reported = Some(value);
            }
        });
    }
}
