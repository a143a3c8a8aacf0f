//! A recorder for the `metrics` facade. A process has one, so a test that uses it runs in a separate one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// The values of metrics by name and labels, such as `leasehold_lost_total name=shop cause=revoked`: the sums of counters and histograms,
/// and the present values of gauges.
#[derive(Clone, Default)]
pub struct Values(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    values: BTreeMap<String, f64>,
    /// How many values histograms have.
    counts: BTreeMap<String, u64>,
    /// What was described, by name.
    described: BTreeMap<String, Description>,
}

/// What a metric is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub kind: &'static str,
    pub unit: Option<Unit>,
    pub text: String,
}

impl Values {
    /// Creates the recorder of this process.
    ///
    /// # Panics
    ///
    /// If the process has another one.
    pub fn install() -> Self {
        let values = Self::default();
        metrics::set_global_recorder(values.clone()).unwrap_or_else(|_| panic!("another recorder"));
        values
    }

    /// Returns a value; 0 if there is none.
    pub fn get(&self, name: &str) -> f64 {
        self.state().values.get(name).copied().unwrap_or_default()
    }

    /// Returns the number of values of a histogram.
    pub fn count(&self, name: &str) -> u64 {
        self.state().counts.get(name).copied().unwrap_or_default()
    }

    /// Returns the names of all metrics that have a value.
    pub fn names(&self) -> Vec<String> {
        self.state().values.keys().filter_map(|name| name.split(' ').next().map(str::to_owned)).collect()
    }

    /// Returns what was described, by name.
    pub fn described(&self) -> BTreeMap<String, Description> {
        self.state().described.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn value(&self, key: &Key) -> Arc<Value> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Value(self.clone(), format!("{} {}", key.name(), labels.join(" "))))
    }

    fn describe(&self, kind: &'static str, name: &KeyName, unit: Option<Unit>, text: &SharedString) {
        self.state().described.insert(name.as_str().to_owned(), Description { kind, unit, text: text.to_string() });
    }
}

struct Value(Values, String);

impl Value {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.0.state().values.entry(self.1.clone()).or_default());
    }
}

impl CounterFn for Value {
    fn increment(&self, by: u64) {
        self.change(|value| *value += by as f64);
    }
    fn absolute(&self, value: u64) {
        panic!("counters count: {value}");
    }
}

impl GaugeFn for Value {
    fn increment(&self, by: f64) {
        self.change(|value| *value += by);
    }
    fn decrement(&self, by: f64) {
        self.change(|value| *value -= by);
    }
    fn set(&self, to: f64) {
        self.change(|value| *value = to);
    }
}

impl HistogramFn for Value {
    fn record(&self, by: f64) {
        self.change(|value| *value += by);
        *self.0.state().counts.entry(self.1.clone()).or_default() += 1;
    }
}

impl Recorder for Values {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("counter", &name, unit, &text);
    }
    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("gauge", &name, unit, &text);
    }
    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe("histogram", &name, unit, &text);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.value(key))
    }
}
