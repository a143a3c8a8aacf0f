//! Slots, values, watches and wanted holds: churn, gaps in watches, compaction, killed processes, and etcdctl's locks beside ours.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use rustix::process::Signal;
use support::child::{self, Child};
use support::coordination::{self, SOON, States, is_wanted, manager, manager_with, waits};
use support::etcd::Etcd;
use support::proxy::Proxy;
use support::{PATIENCE, in_the_background};

#[test]
fn the_last_state_is_seen_soon() {
    let (median, slowest) = coordination::the_last_state_is_seen_soon(&Etcd::start().url());
    println!("the last state was seen after {median:?}, the slowest after {slowest:?}");
    // A key that is not watched is read once a second.
    assert!(median < Duration::from_millis(200), "{median:?}");
}

#[test]
fn no_state_is_invented_under_churn_and_by_gaps() {
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://{}", proxy.address());
    coordination::no_state_is_invented_under_churn(&url, || {
        for _ in 0..3 {
            proxy.reset_all();
            etcd.compact();
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

#[test]
fn a_waiter_that_races_a_listener_is_heard() {
    let slowest = coordination::waiters_that_race_a_listener_are_heard(&Etcd::start().url(), 400);
    println!("the slowest was heard after {slowest:?}");
    // Nothing but a watch tells a holder of a waiter that came after the read.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn a_watch_reports_an_outage_and_goes_on() {
    let etcd = Etcd::start();
    let (stop, resume) = (|| etcd.process().stop(), || etcd.process().resume());
    coordination::a_watch_reports_an_outage_and_goes_on(&etcd.url(), &etcd.url(), stop, resume);
}

#[test]
fn a_watch_and_a_wanted_hold_survive_a_restart_and_a_compaction() {
    let mut etcd = Etcd::start();
    let (a, b) = (manager(&etcd.url()), manager(&etcd.url()));
    let states = States::of(b.watch("k"));
    states.seen(Instant::now(), PATIENCE, |state| state.is_none());
    let guard = a.lock("k").value("1").wait().unwrap();
    let wanted = is_wanted(&guard);
    states.seen(Instant::now(), SOON, |state| state.is_some());
    // What changes before the watch is made again is in no event that it could still get.
    etcd.restart();
    etcd.etcdctl(&["put", "another", "1"]);
    etcd.compact();
    assert!(wanted.try_recv().is_err(), "by nobody");
    let waiting = in_the_background(b.lock("k").value("2"));
    wanted.recv_timeout(PATIENCE).expect("wanted");
    guard.unlock().wait().unwrap();
    let (guard, _) = waiting.recv_timeout(PATIENCE).expect("granted");
    let is_second = |info: &leasehold::LockInfo| info.values == [Some("2".into())];
    states.seen(Instant::now(), PATIENCE, |state| state.is_some_and(is_second));
    guard.unlock().wait().unwrap();
    states.seen(Instant::now(), SOON, |state| state.is_none());
}

#[test]
fn a_watch_that_nothing_happens_to_sends_no_requests() {
    let etcd = Etcd::start();
    let a = manager(&etcd.url());
    let guard = a.lock("k").wait().unwrap();
    let (states, wanted) = (States::of(a.watch("k")), is_wanted(&guard));
    states.seen(Instant::now(), PATIENCE, |state| state.is_some());
    // Until both watches are confirmed and both reads are made.
    std::thread::sleep(Duration::from_secs(1));
    let requests = || etcd.handled("Range") + etcd.handled("Txn");
    let before = requests();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(requests() - before, 0);
    assert!(wanted.try_recv().is_err());
}

#[test]
#[ignore = "a part of a test, in a child process"]
fn holder_of_slots() {
    let Some(arguments) = child::role() else { return };
    let manager = manager_with(&arguments[0], Duration::from_secs(2));
    let _slots = [(); 2].map(|()| manager.semaphore("k", 3).wait().unwrap());
    child::say("held");
    child::hear();
}

#[test]
fn the_slots_of_a_killed_process_go_to_the_first_waiters_and_observers_see_it() {
    let etcd = Etcd::start();
    let a = manager(&etcd.url());
    let _kept = a.semaphore("k", 3).value("kept").wait().unwrap();
    let mut child = Child::of_this_test("coordination::holder_of_slots", &[&etcd.url()]);
    child.expect("held");
    let states = States::of(a.watch("k"));
    states.seen(Instant::now(), SOON, |state| state.is_some_and(|info| info.holders.len() == 3));
    let managers: Vec<_> = (0..3).map(|_| manager(&etcd.url())).collect();
    let waiting: Vec<_> = managers
        .iter()
        .enumerate()
        .map(|(number, manager)| {
            let waiting = in_the_background(manager.semaphore("k", 3).value(number.to_string()));
            waits(&a, number + 1);
            waiting
        })
        .collect();
    let killed = Instant::now();
    child.process.kill();
    let slots = waiting[..2].iter().map(|waiting| waiting.recv_timeout(PATIENCE).expect("a slot"));
    let _slots: Vec<_> = slots.collect();
    println!("granted {:?} after the kill, with a TTL of 2 s", killed.elapsed());
    let expected = ["kept", "0", "1"].map(|value| Some(value.to_owned()));
    states.seen(Instant::now(), SOON, |state| state.is_some_and(|info| info.values == expected));
    std::thread::sleep(SOON);
    assert!(waiting[2].try_recv().is_err(), "two were free");
}

/// A manager without a prefix, so that its keys are etcdctl's.
fn beside_etcdctl(etcd: &Etcd) -> LockManager {
    manager(&format!("{}?prefix=", etcd.url()))
}

fn etcdctl_lock(etcd: &Etcd) -> Child {
    let endpoint = format!("--endpoints={}", etcd.endpoint());
    Child::start("etcdctl".into(), |command| {
        command.env("ETCDCTL_API", "3").args([&endpoint, "lock", "--ttl=10", "k"]);
    })
}

#[test]
fn locks_of_etcdctl_are_shown_want_a_hold_and_exclude_slots_in_their_turn() {
    let etcd = Etcd::start();
    let a = beside_etcdctl(&etcd);
    let states = States::of(a.watch("k"));
    states.seen(Instant::now(), PATIENCE, |state| state.is_none());
    let slots = [(); 2].map(|()| a.semaphore("k", 3).wait().unwrap());
    let wanted = is_wanted(&slots[0]);
    // Another slot is not wanted: there is room.
    a.semaphore("k", 3).wait().unwrap().unlock().wait().unwrap();
    assert!(wanted.recv_timeout(Duration::from_millis(300)).is_err(), "by nobody");
    let mut theirs = etcdctl_lock(&etcd);
    wanted.recv_timeout(PATIENCE).expect("wanted");
    waits(&a, 1);
    let waiting = in_the_background(a.semaphore("k", 3));
    waits(&a, 2);
    assert!(a.semaphore("k", 3).try_once().wait().unwrap().is_none(), "behind etcdctl");
    for slot in slots {
        assert!(theirs.line_within(Duration::from_millis(50)).is_none(), "beside a slot");
        slot.unlock().wait().unwrap();
    }
    assert!(theirs.line_with("k/").len() >= 8);
    states.seen(Instant::now(), SOON, |state| state.is_some_and(|info| info.foreign && info.waiters == 1));
    theirs.process.signal(Signal::INT);
    assert!(theirs.finish());
    let (slot, _) = waiting.recv_timeout(PATIENCE).expect("granted");
    states.seen(Instant::now(), SOON, |state| state.is_some_and(|info| !info.foreign && info.limit == Some(3)));
    slot.unlock().wait().unwrap();
    states.seen(Instant::now(), SOON, |state| state.is_none());
}
