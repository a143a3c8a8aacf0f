//! Leasehold in etcd's metrics.

use std::time::Duration;

use leasehold::LockManager;
use support::etcd::{Etcd, metric};
use support::eventually;

/// gRPC's codes by name, but for OK.
const FAILED: [&str; 16] = [
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The number of keep-alive streams that have ended with this code.
fn ended(etcd: &Etcd, code: &str) -> u64 {
    let labels = ["grpc_method=\"LeaseKeepAlive\"", &format!("grpc_code=\"{code}\"")];
    metric(etcd.address(), "grpc_server_handled_total", &labels)
}

fn failed(etcd: &Etcd) -> Vec<(&'static str, u64)> {
    FAILED.into_iter().map(|code| (code, ended(etcd, code))).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_renewal_is_no_failed_call() {
    let etcd = Etcd::start();
    let manager = LockManager::builder().url(etcd.url()).ttl(Duration::from_secs(2)).build().wait().unwrap();
    let held = manager.lock("k").wait().unwrap();
    let own = manager.lock("own").isolated().wait().unwrap();
    let renewed = |count| (manager.stats().renewals >= count).then_some(());
    eventually("several renewals", || renewed(12));
    assert_eq!(failed(&etcd), []);
    eventually("each stream has ended", || (ended(&etcd, "OK") >= 12).then_some(()));
    drop((held, own));
    manager.close().wait().unwrap();
    let started = || metric(etcd.address(), "grpc_server_started_total", &["grpc_method=\"LeaseKeepAlive\""]);
    eventually("none is left", || (etcd.handled("LeaseKeepAlive") == started()).then_some(()));
    assert_eq!(failed(&etcd), []);
}
