//! Events are reported to the `metrics` facade.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leasehold::LockManager;
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use support::{eventually, in_a_separate_process};

/// A recorder that keeps the sum for each name with its labels.
#[derive(Clone, Default)]
struct Sums(Arc<Mutex<BTreeMap<String, f64>>>);

struct Sum(Sums, String);

impl Sums {
    fn sum(&self, key: &Key) -> Arc<Sum> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Sum(self.clone(), format!("{} {}", key.name(), labels.join(" "))))
    }

    fn get(&self, name: &str) -> f64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

impl Sum {
    fn add(&self, value: f64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
}

impl CounterFn for Sum {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }
    fn absolute(&self, value: u64) {
        panic!("counters count: {value}");
    }
}

impl HistogramFn for Sum {
    fn record(&self, value: f64) {
        self.add(value);
    }
}

impl Recorder for Sums {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.sum(key))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.sum(key))
    }
}

#[test]
fn events_are_reported() {
    in_a_separate_process!();
    let sums = Sums::default();
    metrics::set_global_recorder(sums.clone()).unwrap();
    let manager = LockManager::builder().name("shop").build().wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    let other = std::thread::scope(|scope| {
        let wait = || manager.lock("k").timeout(Duration::from_millis(30)).wait();
        scope.spawn(wait).join().unwrap()
    });
    assert_eq!(other.unwrap_err().code(), "LOCK_TIMEOUT");
    guard.unlock().wait().unwrap();
    let evicted = manager.lock("k").wait().unwrap();
    manager.force_unlock("k").wait().unwrap();
    futures::executor::block_on(evicted.lost());
    drop(evicted);
    manager.close().wait().unwrap();
    for (name, sum) in [
        ("leasehold_acquired_total name=shop", 2.0),
        ("leasehold_timeouts_total name=shop", 1.0),
        ("leasehold_released_total name=shop", 1.0),
        ("leasehold_lost_total name=shop cause=revoked", 1.0),
    ] {
        // Events of the keeper are reported by the watchdog thread.
        eventually(name, || (sums.get(name) == sum).then_some(()));
    }
    assert!(sums.get("leasehold_hold_seconds name=shop") >= 0.03);
    assert!(sums.get("leasehold_wait_seconds name=shop") < 0.03);
}
