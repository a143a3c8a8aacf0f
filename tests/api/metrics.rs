//! Events are reported to the `metrics` facade.

use std::time::Duration;

use futures::FutureExt;
use leasehold::{LockManager, Owner};
use support::recorder::Values;
use support::{eventually, in_a_separate_process};

#[test]
fn events_are_reported() {
    in_a_separate_process!();
    let values = Values::install();
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
    for (name, value) in [
        ("leasehold_acquired_total name=shop", 2.0),
        ("leasehold_timeouts_total name=shop", 1.0),
        ("leasehold_released_total name=shop", 1.0),
        ("leasehold_lost_total name=shop cause=revoked", 1.0),
    ] {
        // Events of the keeper are reported by the watchdog thread.
        eventually(name, || (values.get(name) == value).then_some(()));
    }
    assert!(values.get("leasehold_hold_seconds name=shop") >= 0.03);
    assert!(values.get("leasehold_wait_seconds name=shop") < 0.03);
    let described = values.described();
    for name in values.names() {
        assert!(described.contains_key(&name), "{name} is not described");
    }
}

#[test]
fn holds_and_waits_are_gauges() {
    in_a_separate_process!();
    let values = Values::install();
    let manager = LockManager::builder().name("shop").build().wait().unwrap();
    let gauges = || ["held", "waiting"].map(|gauge| values.get(&format!("leasehold_{gauge} name=shop")));
    let lock = |key: &str| manager.lock(key).owner(&Owner::new());
    let owner = Owner::new();
    let (first, other) = (lock("k").owner(&owner).wait().unwrap(), lock("other").wait().unwrap());
    assert_eq!(gauges(), [2.0, 0.0]);
    let again = lock("k").owner(&owner).wait().unwrap();
    assert_eq!(gauges(), [2.0, 0.0], "a reentrant acquire is no hold");
    drop(other);
    let (mut next, mut dropped) = (lock("k").into_future(), lock("k").into_future());
    assert!((&mut next).now_or_never().is_none() && (&mut dropped).now_or_never().is_none());
    assert!((&mut next).now_or_never().is_none());
    assert_eq!(gauges(), [1.0, 2.0]);
    drop(dropped);
    assert_eq!(gauges(), [1.0, 1.0]);
    drop((first, again));
    let next = next.now_or_never().unwrap().unwrap();
    assert_eq!(gauges(), [1.0, 0.0], "it was handed over");
    drop(next);
    assert_eq!(gauges(), [0.0, 0.0]);
}

/// The table of the documentation: name, kind and unit in each row.
fn table() -> Vec<[String; 3]> {
    let rows = include_str!("../../docs/configuration.md").lines().filter(|line| line.starts_with("| `leasehold_"));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim_matches([' ', '`']).to_owned()).collect::<Vec<_>>();
    rows.map(|row| [1, 2, 3].map(|cell| cells(row)[cell].clone())).collect()
}

#[test]
fn the_table_of_metrics_is_that_of_their_descriptions() {
    in_a_separate_process!();
    let values = Values::install();
    drop(LockManager::memory());
    let mut described: Vec<_> = values
        .described()
        .into_iter()
        .map(|(name, description)| {
            assert!(!description.text.is_empty(), "{name}");
            let unit = description.unit.unwrap_or_else(|| panic!("{name} has no unit"));
            [name, description.kind.to_owned(), unit.as_str().to_owned()]
        })
        .collect();
    described.sort();
    let mut table = table();
    table.sort();
    assert_eq!(table, described);
}
