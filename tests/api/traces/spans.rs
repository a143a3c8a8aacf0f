//! The spans of waits and holds.

use std::future::IntoFuture;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::FutureExt;
use futures::executor::block_on;
use leasehold::testing::MemoryStore;
use leasehold::{LockManager, Owner};
use support::{eventually, in_a_separate_process};
use tracing::{Instrument, Subscriber, info_span};

use super::recorded::{Recorded, Span};

fn recording() -> Recorded {
    let recorded = Recorded::default();
    tracing::subscriber::set_global_default(recorded.subscriber()).unwrap();
    recorded
}

fn manager() -> LockManager {
    LockManager::builder().name("shop").build().wait().unwrap()
}

/// The only span of this name.
fn only(recorded: &Recorded, name: &str) -> Span {
    let spans = recorded.spans(name);
    assert_eq!(spans.len(), 1, "{spans:?}");
    spans.into_iter().next().unwrap()
}

#[test]
fn a_wait_and_a_hold_are_spans_in_the_callers() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guard = block_on(async { manager.lock("k").await.unwrap() }.instrument(info_span!("request")));

    let wait = only(&recorded, "leasehold.wait");
    assert_eq!((wait.parent, wait.is_closed), (Some("request"), true));
    let expected = [("key", "k"), ("mode", "exclusive"), ("name", "shop"), ("outcome", "acquired")];
    expected.iter().for_each(|(field, value)| assert_eq!(wait.fields[field], *value, "{wait:?}"));
    let waited: f64 = wait.fields["waited"].parse().unwrap();
    assert!((0.0..10.0).contains(&waited), "{waited} s");

    let hold = only(&recorded, "leasehold.hold");
    assert_eq!((hold.parent, hold.is_closed), (Some("request"), false));
    let token = format!("{}u64", guard.token());
    let expected = [("key", "k"), ("mode", "exclusive"), ("name", "shop"), ("token", token.as_str())];
    expected.iter().for_each(|(field, value)| assert_eq!(hold.fields[field], *value, "{hold:?}"));

    // The line of the acquire is in the caller's span as well.
    assert_eq!(recorded.line("shop", "acquired").parent, Some("request"));
    drop(guard);
    let hold = only(&recorded, "leasehold.hold");
    assert!(hold.is_closed && !hold.fields.contains_key("lost"), "{hold:?}");
    assert!(!hold.was_entered && !wait.was_entered);
}

#[test]
fn a_hold_ends_with_its_last_guard_on_any_thread() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guard = manager.lock("k").shared().wait().unwrap();
    let again = manager.lock("k").shared().wait().unwrap();
    assert_eq!(again.depth(), 2);
    assert_eq!(recorded.spans("leasehold.wait").len(), 2);
    drop(guard);
    let hold = only(&recorded, "leasehold.hold");
    assert!(!hold.is_closed && hold.parent.is_none() && hold.fields["mode"] == "shared", "{hold:?}");
    thread::spawn(move || drop(again)).join().unwrap();
    assert!(only(&recorded, "leasehold.hold").is_closed);
}

#[test]
fn a_hold_that_is_handed_over_is_a_span_of_the_one_who_waited() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guard = manager.lock("k").owner(&Owner::new()).wait().unwrap();
    let waits = || manager.lock("k").owner(&Owner::new()).into_future().instrument(info_span!("waiter"));
    let mut waiting = Box::pin(waits());
    assert!((&mut waiting).now_or_never().is_none());
    drop(guard);
    let next = block_on(waiting).unwrap();
    let [first, second] = <[Span; 2]>::try_from(recorded.spans("leasehold.hold")).unwrap();
    assert!(first.is_closed && first.parent.is_none());
    assert!(!second.is_closed && second.parent == Some("waiter"));
    assert_eq!(second.fields["token"], format!("{}u64", next.token()));
}

#[test]
fn the_outcome_of_each_wait_is_told() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guard = manager.lock("k").owner(&Owner::new()).wait().unwrap();
    assert!(manager.try_lock("k").wait().unwrap().is_none());
    let limited = || manager.lock("k").timeout(Duration::from_millis(20));
    assert_eq!(limited().wait().unwrap_err().code(), "LOCK_TIMEOUT");
    let mut dropped = manager.lock("k").into_future();
    assert!((&mut dropped).now_or_never().is_none());
    drop(dropped);
    let unpolled = manager.lock("k").into_future();
    drop(unpolled);
    drop(guard);
    let outcomes: Vec<_> =
        recorded.spans("leasehold.wait").into_iter().map(|span| span.fields["outcome"].clone()).collect();
    assert_eq!(outcomes, ["acquired", "busy", "LOCK_TIMEOUT", "cancelled"]);
    assert!(recorded.spans("leasehold.wait").iter().all(|span| span.is_closed));
}

#[test]
fn a_lost_hold_says_why() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guard = manager.lock("k").wait().unwrap();
    manager.force_unlock("k").wait().unwrap();
    block_on(guard.lost());
    assert!(!only(&recorded, "leasehold.hold").is_closed, "before its guard is dropped");
    drop(guard);
    let hold = only(&recorded, "leasehold.hold");
    assert!(hold.is_closed && hold.fields["lost"] == "revoked on the server", "{hold:?}");
}

#[test]
fn each_of_several_keys_has_its_spans() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guards = block_on(async { manager.lock_all(["b", "a"]).await.unwrap() }.instrument(info_span!("request")));
    for name in ["leasehold.wait", "leasehold.hold"] {
        let spans = recorded.spans(name);
        let keys: Vec<_> = spans.iter().map(|span| span.fields["key"].as_str()).collect();
        assert_eq!(keys, ["a", "b"]);
        assert!(spans.iter().all(|span| span.parent == Some("request")), "{spans:?}");
    }
    drop(guards);
    assert!(recorded.spans("leasehold.hold").iter().all(|span| span.is_closed));
}

#[test]
fn a_forked_child_leaves_the_spans_to_its_parent() {
    in_a_separate_process!();
    let (recorded, manager) = (recording(), manager());
    let guard = manager.lock("k").owner(&Owner::new()).wait().unwrap();
    let mut waiting = manager.lock("k").into_future();
    assert!((&mut waiting).now_or_never().is_none());
    // Nothing else keeps its entry in the child.
    let alone = manager.lock("alone").wait().unwrap();
    let spans = || format!("{:?}", ["leasehold.wait", "leasehold.hold"].map(|name| recorded.spans(name)));
    let before = spans();
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            drop((waiting, guard, alone));
            let is_refused = manager.lock("else").wait().is_err();
            std::process::exit(if is_refused && spans() == before { 0 } else { 1 });
        }
        fork::Fork::Parent(child) => {
            let child = rustix::process::Pid::from_raw(child).unwrap();
            let options = rustix::process::WaitOptions::empty();
            let (_, status) = rustix::process::waitpid(Some(child), options).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0), "the child has ended the spans");
        }
    }
    drop(guard);
    drop(waiting);
    assert!(recorded.spans("leasehold.wait").iter().all(|span| span.is_closed));
}

/// A subscriber that wants everything, and panics.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        std::panic::resume_unwind(Box::new("as subscribers should not"));
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        std::panic::resume_unwind(Box::new("as subscribers should not"));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_subscriber_that_panics_stops_nothing() {
    in_a_separate_process!();
    tracing::subscriber::set_global_default(Panics).unwrap();
    let store = Arc::new(MemoryStore::new());
    let manager = block_on(crate::fixture::on(&store));
    crate::fixture::works(&manager, &store, "k");
    let guard = manager.lock("k").wait().unwrap();
    let waits = thread::spawn(move || manager.lock("k").wait().map(drop));
    drop(guard);
    eventually("it is handed over", || waits.is_finished().then_some(()));
    waits.join().unwrap().unwrap();
}
