//! Clients that are stopped, killed, suspended or forked, or that panic.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use leasehold::testing::{ManualClock, MemoryStore};
use leasehold::{FenceGate, LockGuard, LockManager};

use crate::fixture::{Fixture, SHORT, SLACK};
use crate::server::Server;
use crate::table::Absence::OneProcess;
use crate::table::{Backend, Fault};
use support::child::{self, Child};
use support::history::{History, What, now};
use support::{PATIENCE, eventually};

pub(crate) const FAULTS: &[Fault] = &[
    Fault::on_servers(
        1,
        "Holder stopped (SIGSTOP) for 2 T: the first check is right, its write is refused",
        OneProcess,
        stopped,
    ),
    Fault::on_servers(
        2,
        "Client stopped for 2 T between the grant and its answer: that grant is never returned",
        OneProcess,
        stopped_before_the_answer,
    ),
    Fault::everywhere(3, "The user's runtime is blocked for 2 T: still held", blocked),
    Fault::on_servers(4, "Holder killed (SIGKILL): the next one after T + 1 s at most", OneProcess, killed),
    Fault::everywhere(5, "Suspend of T: lost at once", suspended),
    Fault::everywhere(6, "Panic while holding: released within 1 s", panicked),
    Fault::on_servers(6, "Abort while holding: the next one after T + 1 s at most", OneProcess, aborted),
    Fault::on_servers(7, "Program ends right after its drops: nothing is left", OneProcess, ended),
    Fault::on_servers(8, "fork() in a holder: the child has nothing, and is lost by the deadline", OneProcess, forked),
];

/// In a child: its manager, the history, the folder for files, and the key.
fn in_child() -> Option<(LockManager, History, String, String)> {
    let [url, folder, key, ttl]: [String; 4] = child::role()?.try_into().unwrap();
    let ttl = Duration::from_millis(ttl.parse().unwrap());
    let manager = LockManager::builder().url(url).ttl(ttl).build().wait().unwrap();
    let history = History::open(Path::new(&folder).join("history"));
    Some((manager, history, folder, key))
}

fn elapsed(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

fn stopped(fixture: &mut Fixture) {
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let mut child = fixture.child("client::checks_repeatedly", &key, SHORT);
        let manager = fixture.manager(SHORT);
        let waiting = fixture.wait_for(&manager, &key);
        child.process.stop();
        let start = Instant::now();
        let (held, at) = waiting.got();
        fixture.next(at - start);
        // A fixed pause: the stop lasts 2 T.
        std::thread::sleep((2 * SHORT).saturating_sub(start.elapsed()));
        let resumed = now();
        child.process.resume();
        let token: u64 = child.said().parse().unwrap();
        assert!(child.finish());
        let gate = FenceGate::new(());
        gate.enter(held.guard.token(), |()| ()).unwrap();
        assert!(gate.enter(token.into(), |()| ()).is_err(), "its write is refused");
        let records = fixture.history().records();
        let of_this: Vec<_> = records.iter().filter(|record| record.key == key && record.at >= resumed).collect();
        assert!(of_this.iter().all(|record| record.what != What::Alive), "the first check finds the loss");
        let found = of_this.iter().find(|record| record.what == What::FoundLost).unwrap().at;
        fixture.loss(elapsed(resumed, found));
        assert!(!held.guard.is_lost(), "the late release has no effect on the successor");
        held.unlock();
    }
}

#[test]
#[ignore = "a child of another test"]
fn checks_repeatedly() {
    let Some((manager, history, _, key)) = in_child() else { return };
    let guard = manager.lock(&key).wait().unwrap();
    let hold = history.acquired(&guard);
    child::say("ready");
    while !hold.is_lost(&guard) {
        std::thread::yield_now();
    }
    child::say(&guard.token().to_string());
    hold.released();
    assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
}

fn stopped_before_the_answer(fixture: &mut Fixture) {
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        // The child's network, which is healed while the child cannot read.
        let (wire, own) = fixture.behind(SHORT, PATIENCE);
        own.close().wait().unwrap();
        let scheme = if fixture.backend() == Backend::Etcd { "etcd" } else { "redis" };
        let url = format!("{scheme}://{}", wire.proxy().address());
        let mut child = fixture.child_at(&url, "client::locks_when_asked_to", &key, SHORT);
        let rival = fixture.manager(SHORT);
        wire.proxy().hold_answers();
        child.send("go");
        eventually("the grant is made", || (!rival.info(&key).wait().ok()??.holders.is_empty()).then_some(()));
        let waiting = fixture.wait_for(&rival, &key);
        child.process.stop();
        let start = Instant::now();
        wire.heal();
        let (held, at) = waiting.got();
        fixture.next(at - start);
        std::thread::sleep((2 * SHORT).saturating_sub(start.elapsed()));
        child.process.resume();
        // A fixed pause, in which the child would report the old grant.
        assert_eq!(child.line_within(Duration::from_secs(1)), None, "it has its rival's lock");
        let token = held.token();
        held.unlock();
        assert!(child.said().parse::<u64>().unwrap() > token);
        assert!(child.finish());
    }
}

#[test]
#[ignore = "a child of another test"]
fn locks_when_asked_to() {
    let Some((manager, history, _, key)) = in_child() else { return };
    manager.lock("warm").wait().unwrap().unlock().wait().unwrap();
    child::say("ready");
    child::hear();
    let guard = manager.lock(&key).wait().unwrap();
    let hold = history.acquired(&guard);
    child::say(&guard.token().to_string());
    hold.released();
    guard.unlock().wait().unwrap();
}

fn blocked(fixture: &mut Fixture) {
    for _ in fixture.rounds(4) {
        let (holder, waiter) = (fixture.manager(SHORT), fixture.manager(SHORT));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let held = runtime.block_on(async { fixture.record(holder.lock("k").await.unwrap()) });
        let waiting = fixture.wait_for(&waiter, "k");
        let start = Instant::now();
        runtime.block_on(async {
            while start.elapsed() < 2 * SHORT {
                std::thread::yield_now();
            }
        });
        assert!(!held.guard.is_lost() && waiting.is_waiting());
        fixture.hand_over(held, &waiting);
    }
}

/// A holder ends without a release.
fn ends_without_a_release(fixture: &mut Fixture, role: &str, end: impl Fn(&mut Child)) {
    for round in fixture.rounds(5) {
        let key = format!("k{round}");
        let mut child = fixture.child(role, &key, SHORT);
        let manager = fixture.manager(SHORT);
        let waiting = fixture.wait_for(&manager, &key);
        let start = Instant::now();
        end(&mut child);
        let (held, at) = waiting.got();
        assert!(at - start < SHORT + SLACK, "{:?}", at - start);
        fixture.next(at - start);
        held.unlock();
    }
}

fn killed(fixture: &mut Fixture) {
    ends_without_a_release(fixture, "client::holds_and_aborts", |child| child.process.kill());
}

fn aborted(fixture: &mut Fixture) {
    ends_without_a_release(fixture, "client::holds_and_aborts", |child| child.send("go"));
}

#[test]
#[ignore = "a child of another test"]
fn holds_and_aborts() {
    let Some((manager, history, _, key)) = in_child() else { return };
    let guard = manager.lock(&key).wait().unwrap();
    history.acquired(&guard);
    child::say("ready");
    child::hear();
    std::process::abort();
}

fn suspended(fixture: &mut Fixture) {
    let clock = ManualClock::new();
    if fixture.backend() == Backend::Memory {
        // A lease in memory ends by the same clock.
        fixture.use_server(Server::Memory(MemoryStore::with_clock(&clock)));
    }
    let manager = fixture.builder(SHORT).clock(clock.clone()).build().wait().unwrap();
    for _ in fixture.rounds(20) {
        let held = fixture.hold(&manager, "k");
        let start = Instant::now();
        clock.advance(SHORT);
        assert!(held.guard.is_lost(), "the first check finds the loss");
        let at = held.lost();
        assert!(at - start < SLACK, "{:?}", at - start);
        fixture.loss(at - start);
        assert_eq!(held.guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
        let next = fixture.hold(&manager, "k");
        fixture.next(start.elapsed());
        next.unlock();
    }
}

fn panicked(fixture: &mut Fixture) {
    for round in fixture.rounds(5) {
        let key = format!("k{round}");
        let (manager, rival) = (fixture.manager(SHORT), fixture.manager(SHORT));
        let (at, start) = if fixture.backend() == Backend::Memory {
            let held = fixture.hold(&manager, &key);
            let waiting = fixture.wait_for(&rival, &key);
            let start = Instant::now();
            let guard = held.release();
            let unwound = std::panic::catch_unwind(AssertUnwindSafe(move || {
                let _guard: LockGuard = guard;
                // A panic without its message.
                std::panic::resume_unwind(Box::new(()));
            }));
            assert!(unwound.is_err());
            let (held, at) = waiting.got();
            held.unlock();
            (at, start)
        } else {
            let mut child = fixture.child("client::panics", &key, SHORT);
            let waiting = fixture.wait_for(&rival, &key);
            let start = Instant::now();
            child.send("go");
            let (held, at) = waiting.got();
            assert!(!child.finish());
            held.unlock();
            (at, start)
        };
        assert!(at - start < SLACK, "{:?}", at - start);
        fixture.next(at - start);
    }
}

#[test]
#[ignore = "a child of another test"]
fn panics() {
    let Some((manager, history, _, key)) = in_child() else { return };
    let guard = manager.lock(&key).wait().unwrap();
    let hold = history.acquired(&guard);
    child::say("ready");
    child::hear();
    hold.released();
    panic!("on purpose");
}

fn ended(fixture: &mut Fixture) {
    for round in fixture.rounds(10) {
        let key = format!("k{round}");
        let mut child = fixture.child("client::drops_and_exits", &key, SHORT);
        let manager = fixture.manager(SHORT);
        let waiting = (round % 2 == 0).then(|| fixture.wait_for(&manager, &key));
        child.send("go");
        let dropped: u64 = child.said().parse().unwrap();
        let held = match waiting {
            Some(waiting) => waiting.got().0,
            None => {
                eventually("the child ends", || child.process.ended());
                fixture.record(manager.try_lock(&key).wait().unwrap().expect("free once the process has ended"))
            }
        };
        let records = fixture.history().records();
        let mut acquired =
            records.iter().filter(|record| record.key == key && matches!(record.what, What::Acquired { .. }));
        let took = elapsed(dropped, acquired.next_back().unwrap().at);
        assert!(took < SLACK, "{took:?}");
        if round % 2 == 0 {
            fixture.next(took);
        }
        held.unlock();
    }
}

#[test]
#[ignore = "a child of another test"]
fn drops_and_exits() {
    let Some((manager, history, _, key)) = in_child() else { return };
    let guard = manager.lock(&key).wait().unwrap();
    let hold = history.acquired(&guard);
    child::say("ready");
    child::hear();
    child::say(&now().to_string());
    hold.released();
    drop(guard);
    drop(manager);
    std::process::exit(0);
}

fn forked(fixture: &mut Fixture) {
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let mut child = fixture.child("client::forks", &key, SHORT);
        let manager = fixture.manager(SHORT);
        let waiting = fixture.wait_for(&manager, &key);
        let lost = child.said();
        let lost = lost.parse().map(Duration::from_micros).unwrap_or_else(|_| panic!("{lost}"));
        assert!(lost <= SHORT, "{lost:?}");
        fixture.loss(lost);
        assert!(waiting.is_waiting(), "it is still the parent's");
        let start = Instant::now();
        child.send("go");
        let (held, at) = waiting.got();
        fixture.next(at - start);
        held.unlock();
        assert!(child.finish());
    }
}

#[test]
#[ignore = "a child of another test"]
fn forks() {
    let Some((manager, history, folder, key)) = in_child() else { return };
    let guard = manager.lock(&key).wait().unwrap();
    let hold = history.acquired(&guard);
    let dropped = manager.lock(format!("{key}/dropped")).wait().unwrap();
    child::say("ready");
    let report = Path::new(&folder).join(format!("report-{key}"));
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            // A panic must not reach the test harness of the parent.
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let forked = Instant::now();
                for refused in [manager.lock("else").wait().map(drop), guard.renew().wait().map(drop)] {
                    assert_eq!(refused.map_err(|error| error.code()), Err("CLOSED"));
                }
                drop(dropped);
                while !guard.is_lost() {
                    assert!(forked.elapsed() < 2 * SHORT, "not lost");
                    std::thread::sleep(Duration::from_millis(1));
                }
                forked.elapsed().as_micros().to_string()
            }));
            let text = outcome.unwrap_or_else(|_| "it panicked".into());
            let written = std::fs::write(report.with_extension("new"), text);
            let _ = written.and_then(|()| std::fs::rename(report.with_extension("new"), report));
            std::process::exit(0);
        }
        fork::Fork::Parent(_) => {
            child::say(&eventually("the fork's report", || std::fs::read_to_string(&report).ok()));
            child::hear();
            assert!(!guard.is_lost() && !dropped.is_lost());
            hold.released();
            guard.unlock().wait().unwrap();
            dropped.unlock().wait().unwrap();
        }
    }
}
