//! The `metrics` facade: what the metrics are, and those of connections, which managers share.

#[cfg(feature = "metrics")]
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

#[cfg(feature = "metrics")]
use super::report::{self, Foreign};

/// Describes all metrics to the recorder.
#[cfg(feature = "metrics")]
pub(crate) fn describe() {
    report::run(Foreign::Recorder, || {
        describe_gauge!("leasehold_held", Unit::Count, "Holds at present, until their last guard is dropped");
        describe_gauge!("leasehold_waiting", Unit::Count, "Acquires that wait at present");
        for (name, description) in [
            ("leasehold_acquired_total", "Holds acquired, without reentrant ones"),
            ("leasehold_released_total", "Releases that the server has confirmed"),
            ("leasehold_timeouts_total", "Acquires that reached their timeout"),
            ("leasehold_lost_total", "Grants lost, by cause"),
            ("leasehold_renewals_total", "Renewals of leases that succeeded"),
            ("leasehold_failed_renewals_total", "Renewals of leases that failed, each of which is tried again"),
            ("leasehold_reconnects_total", "Connections opened in place of broken ones, by backend"),
        ] {
            describe_counter!(name, Unit::Count, description);
        }
        describe_histogram!(
            "leasehold_wait_seconds",
            Unit::Seconds,
            "Times from the first poll of an acquire to its hold"
        );
        describe_histogram!("leasehold_hold_seconds", Unit::Seconds, "Times from a hold to the drop of its last guard");
        describe_histogram!("leasehold_batch_size", Unit::Count, "Acquires and releases in one request, by backend");
    });
}

/// Counts a connection that was opened in place of a broken one.
#[cfg(any(feature = "etcd", feature = "redis"))]
pub(crate) fn reconnected(_backend: &'static str) {
    #[cfg(feature = "metrics")]
    report::run(Foreign::Recorder, move || {
        metrics::counter!("leasehold_reconnects_total", "backend" => _backend).increment(1);
    });
}

/// Records how many operations of locks went to the server together.
#[cfg(any(feature = "etcd", feature = "redis"))]
pub(crate) fn sent_together(_backend: &'static str, _operations: usize) {
    #[cfg(feature = "metrics")]
    report::run(Foreign::Recorder, move || {
        metrics::histogram!("leasehold_batch_size", "backend" => _backend).record(_operations as f64);
    });
}
