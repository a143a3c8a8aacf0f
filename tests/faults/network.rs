//! Faults of the network.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use leasehold::testing::Call;

use crate::fixture::{Fixture, LONG, SHORT, SLACK};
use crate::server::Server;
use crate::table::Absence::{NoNetwork, NoServer, OfEtcd};
use crate::table::{Cell, Fault};
use crate::wire::Wire;
use support::etcd::Cluster;
use support::proxy::Proxy;
use support::{PATIENCE, eventually};

/// The timeout of the managers behind a network.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The TTL for leases that should not end.
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) const FAULTS: &[Fault] = &[
    Fault::everywhere(33, "Acquire's answer dropped: one grant of depth 1", acquire_unanswered),
    Fault::everywhere(33, "Acquire's request delivered late, after its clean-up: no effect", late_request),
    Fault {
        number: 33,
        name: "A member stopped with the request in its socket, and continued after its clean-up: no effect",
        cells: [Cell::Absent(NoServer), Cell::Run(late_request_in_a_socket), Cell::Absent(OfEtcd)],
    },
    Fault::everywhere(34, "Release's answer dropped: the next one is in, unlock() does not fail", release_unanswered),
    Fault::everywhere(35, "One renewal's answer dropped: no loss", renewal_unanswered),
    Fault::on_servers(36, "Answers late by over T: lost in time", NoNetwork, late_answers),
    Fault::on_servers(37, "An old owner's release arrives late: the successor keeps the key", NoNetwork, late_release),
    Fault::everywhere(38, "Half-open connection: lost by the deadline, a drop takes under 1 ms", half_open),
    Fault::on_servers(
        39,
        "Connection reset after N bytes of answers, N = 1, 18, 35, … 1,600: nothing breaks",
        NoNetwork,
        reset_after_bytes,
    ),
];

/// Loses the answers to one kind of call during `work`, on an established connection.
fn without_answer<T>(wire: &Wire, manager: &LockManager, call: Call, during: impl FnOnce() -> T) -> T {
    eventually("the connection is up", || manager.ping().wait().ok());
    match wire {
        Wire::Link(link) => {
            link.drop_next_answer_to(call);
            during()
        }
        Wire::Proxies(_) => {
            wire.each(|proxy| proxy.drop_answers(true));
            let done = during();
            wire.each(|proxy| proxy.drop_answers(false));
            done
        }
    }
}

fn acquire_unanswered(fixture: &mut Fixture) {
    let (wire, behind) = fixture.behind(MINUTE, TIMEOUT);
    let direct = fixture.manager(MINUTE);
    for _ in fixture.rounds(10) {
        // All outcomes of the last round are known.
        fixture.hold(&behind, "k").unlock();
        let waiting = without_answer(&wire, &behind, Call::Acquire, || {
            let waiting = fixture.waiting(behind.lock("k"));
            eventually("the grant is made", || direct.info("k").wait().unwrap());
            waiting
        });
        let start = Instant::now();
        let (held, at) = waiting.got();
        fixture.next(at.saturating_duration_since(start));
        assert_eq!((held.guard.depth(), direct.info("k").wait().unwrap().unwrap().holders.len()), (1, 1));
        held.unlock();
        fixture.hold(&direct, "k").unlock();
    }
}

fn late_request(fixture: &mut Fixture) {
    let (wire, behind) = fixture.behind(MINUTE, TIMEOUT);
    let direct = fixture.manager(MINUTE);
    fixture.hold(&behind, "warm").unlock();
    for _ in fixture.rounds(5) {
        match &wire {
            Wire::Link(link) => {
                link.hold_back_next_acquire();
                assert_eq!(behind.try_lock("k").wait().unwrap_err().code(), "BACKEND");
                fixture.hold(&behind, "k").unlock();
                assert!(!link.deliver(), "the delayed request took effect");
            }
            Wire::Proxies(_) => {
                let frozen = wire.connections();
                wire.each(Proxy::freeze);
                let error = behind.lock("k").timeout(Duration::from_millis(200)).wait().unwrap_err();
                assert_eq!(error.code(), "LOCK_TIMEOUT");
                eventually("another connection", || behind.ping().wait().ok());
                assert!(wire.connections() > frozen, "no connection was frozen");
                // The next attempt on the key begins after the clean-up of the last one.
                fixture.hold(&behind, "k").unlock();
                wire.heal();
                eventually("the late request has arrived", || (wire.connections() <= frozen).then_some(()));
            }
        }
        let guard = direct.try_lock("k").wait().unwrap().expect("the key is free");
        fixture.record(guard).unlock();
    }
}

fn late_request_in_a_socket(fixture: &mut Fixture) {
    fixture.use_server(Server::Cluster(Box::new(Cluster::start())));
    let cluster = fixture.cluster();
    let stopped = (cluster.leader() + 1) % 3;
    let [first, second, third] = [0, 1, 2].map(|number| &cluster.members[(stopped + number) % 3]);
    let proxy = Proxy::start(first.address());
    let url = format!("etcd://{},{},{}", proxy.address(), second.endpoint(), third.endpoint());
    let build = |url: &str| fixture.at(LockManager::builder().url(url), LONG).build().wait().unwrap();
    let (manager, rival) = (build(&url), build(&second.url()));
    fixture.hold(&manager, "warm").unlock();
    let handled = first.handled("Txn");
    first.process().stop();
    let requested = proxy.requested();
    let waiting = fixture.waiting(manager.lock("k").timeout(Duration::from_millis(500)));
    eventually("the request is sent", || (proxy.requested() > requested).then_some(()));
    // A fixed pause: the whole request has passed the proxy.
    std::thread::sleep(Duration::from_millis(200));
    proxy.cut();
    assert_eq!(waiting.result().0.map(drop).unwrap_err().code(), "LOCK_TIMEOUT");
    // The next attempt begins after the clean-up of that one.
    fixture.hold(&manager, "k").unlock();
    first.process().resume();
    eventually("the late request is handled", || (first.handled("Txn") > handled).then_some(()));
    fixture.record(rival.try_lock("k").wait().unwrap().expect("the key is free")).unlock();
}

fn release_unanswered(fixture: &mut Fixture) {
    let (wire, behind) = fixture.behind(MINUTE, TIMEOUT);
    let direct = fixture.manager(MINUTE);
    for _ in fixture.rounds(10) {
        let held = fixture.hold(&behind, "k");
        let waiting = fixture.wait_for(&direct, "k");
        let (start, next, at, unlocking) = without_answer(&wire, &behind, Call::Release, || {
            let start = Instant::now();
            let unlocking = std::thread::spawn(move || held.try_unlock());
            let (next, at) = waiting.got();
            (start, next, at, unlocking)
        });
        fixture.next(at - start);
        unlocking.join().unwrap().expect("the unlock succeeds");
        next.unlock();
    }
}

fn renewal_unanswered(fixture: &mut Fixture) {
    let (wire, behind) = fixture.behind(LONG, TIMEOUT);
    let direct = fixture.manager(LONG);
    for _ in fixture.rounds(3) {
        let held = fixture.hold(&behind, "k");
        let waiting = fixture.wait_for(&direct, "k");
        let before = behind.stats();
        without_answer(&wire, &behind, Call::Renew, || {
            eventually("a renewal without an answer", || {
                (behind.stats().failed_renewals > before.failed_renewals).then_some(())
            });
        });
        eventually("renewals continue", || (behind.stats().renewals > before.renewals).then_some(()));
        assert!(!held.guard.is_lost() && waiting.is_waiting());
        fixture.hand_over(held, &waiting);
    }
}

fn late_answers(fixture: &mut Fixture) {
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let (wire, behind) = fixture.behind(SHORT, TIMEOUT);
        let direct = fixture.manager(SHORT);
        let held = fixture.hold(&behind, &key);
        let waiting = fixture.wait_for(&direct, &key);
        let start = Instant::now();
        wire.each(|proxy| proxy.delay(Duration::ZERO, SHORT + SHORT / 4));
        fixture.expect_loss(&held, start, SHORT);
        wire.each(|proxy| proxy.delay(Duration::ZERO, Duration::ZERO));
        wire.each(Proxy::reset_all);
        fixture.next_holder(&waiting, start);
        eventually("the connection is up", || behind.ping().wait().ok());
    }
}

fn late_release(fixture: &mut Fixture) {
    let (wire, behind) = fixture.behind(SHORT, TIMEOUT);
    let direct = fixture.manager(SHORT);
    for _ in fixture.rounds(5) {
        let held = fixture.hold(&behind, "k");
        let frozen = wire.connections();
        wire.each(Proxy::freeze);
        // The release waits in the frozen connection, and a copy is sent on the next one.
        held.drop();
        let start = Instant::now();
        let next = fixture.hold(&direct, "k");
        fixture.next(start.elapsed());
        eventually("another connection", || behind.ping().wait().ok());
        wire.heal();
        eventually("the late release has arrived", || (wire.connections() <= frozen).then_some(()));
        assert!(behind.try_lock("k").wait().unwrap().is_none(), "still the successor's");
        next.guard.renew().wait().unwrap();
        assert!(!next.guard.is_lost());
        next.unlock();
    }
}

fn half_open(fixture: &mut Fixture) {
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let (wire, behind) = fixture.behind(SHORT, TIMEOUT);
        let direct = fixture.manager(SHORT);
        let held = fixture.hold(&behind, &key);
        let others: Vec<_> = (0..20).map(|number| fixture.hold(&behind, &format!("other{number}"))).collect();
        let waiting = fixture.wait_for(&direct, &key);
        let start = Instant::now();
        wire.cut();
        let limit = Duration::from_millis(300);
        assert_eq!(behind.lock("free").timeout(limit).wait().unwrap_err().code(), "LOCK_TIMEOUT");
        assert!(start.elapsed() < limit + SLACK, "{:?}", start.elapsed());
        let mut drops: Vec<_> = others.into_iter().map(|held| held.drop()).collect();
        drops.sort_unstable();
        // A busy machine may delay single tries, but not half of them.
        assert!(drops[drops.len() / 2] < Duration::from_millis(1), "{drops:?}");
        fixture.expect_loss(&held, start, SHORT);
        fixture.next_holder(&waiting, start);
        wire.heal();
        eventually("the connection is up", || behind.ping().wait().ok());
    }
}

fn reset_after_bytes(fixture: &mut Fixture) {
    // All bytes of connecting and a few locks, or a sample of them.
    const ALL: usize = 1600;
    let (wire, behind) = fixture.behind(MINUTE, TIMEOUT);
    let direct = fixture.manager(MINUTE);
    for bytes in (1..ALL).step_by(fixture.many(17, 160)) {
        wire.each(|proxy| proxy.reset_after(Some(bytes as u64)));
        wire.each(Proxy::reset_all);
        for isolated in [false, true] {
            let request = behind.lock("k").timeout(Duration::from_millis(150));
            let request = if isolated { request.isolated() } else { request };
            match request.wait() {
                Ok(guard) => {
                    let held = fixture.record(guard);
                    assert_eq!((held.guard.depth(), held.guard.is_lost()), (1, false));
                    held.drop();
                }
                Err(error) => assert!(["LOCK_TIMEOUT", "BACKEND"].contains(&error.code()), "{error}"),
            }
        }
        wire.each(|proxy| proxy.reset_after(None));
        wire.each(Proxy::reset_all);
        // Whatever is in flight, the next acquire succeeds.
        let start = Instant::now();
        let next = fixture.hold(&direct, "k");
        fixture.next(start.elapsed());
        next.unlock();
        fixture.hold_as(behind.lock("k").timeout(PATIENCE)).unlock();
    }
}
