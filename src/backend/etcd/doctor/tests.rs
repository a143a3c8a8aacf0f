//! Findings by what members say.

use std::time::Duration;

use super::facts::{Endpoint, Member, Need, Status, Store, Tried};
use super::judge::{self, Purpose};
use crate::backend::examination::{RoundTrips, judge_ttl};
use crate::backend::{BackendError, ErrorKind};
use crate::finding::{Finding, Findings, Level, assert_only};

const PURPOSE: Purpose<'static> = Purpose { ttl: Duration::from_secs(30), prefix: "leasehold/", has_account: true };

fn status(member: u64) -> Status {
    let size = 20 * 1024 * 1024;
    Status { version: "3.5.16".into(), cluster: 9, member, leader: 1, size, quota: Some(2 << 30), ..Status::default() }
}

fn endpoint(member: u64) -> Endpoint {
    Endpoint {
        at: format!("e{member}:2379"),
        is_proxy: Some(false),
        status: Some(status(member)),
        round_trips: RoundTrips::of(vec![Duration::from_millis(1); 10]),
        ..Endpoint::default()
    }
}

fn having(status: Status) -> Endpoint {
    Endpoint { status: Some(status), ..endpoint(1) }
}

fn store() -> Store {
    let member = |name: &str| Member { name: name.into(), is_learner: false };
    Store {
        members: Some(["a", "b", "c"].map(member).into()),
        alarms: Some(Vec::new()),
        revision: 100,
        is_compacted: Some(false),
        operations: Some(100),
        shortest: Some(Duration::from_secs(2)),
        tried: vec![Tried { what: "write a claim", need: Need::Write, refusal: None }],
        ..Store::default()
    }
}

fn of_endpoint(endpoint: &Endpoint) -> Vec<Finding> {
    let mut findings = Findings::of("e");
    judge::endpoint(endpoint, PURPOSE, &mut findings);
    findings.faults()
}

fn of_store(store: &Store, endpoints: &[Endpoint]) -> Vec<Finding> {
    let mut findings = Findings::of("all");
    judge::store(store, endpoints, PURPOSE, &mut findings);
    findings.faults()
}

#[test]
fn each_fault_of_an_endpoint_is_found_and_nothing_else() {
    use Level::{Note, Wrong};
    assert_eq!(of_endpoint(&endpoint(1)), []);
    let failure = |kind| Some(BackendError::new(kind, "no answer"));
    for (endpoint, check, level, text) in [
        (
            Endpoint { failure: failure(ErrorKind::Denied), status: None, ..endpoint(1) },
            "connection",
            Wrong,
            "password",
        ),
        (Endpoint { is_proxy: Some(true), ..endpoint(1) }, "proxy", Wrong, "gRPC"),
        (having(Status { version: "3.3.27".into(), ..status(1) }), "version", Wrong, "3.4"),
        (having(Status { leader: 0, ..status(1) }), "leader", Wrong, "majority"),
        (having(Status { is_learner: true, ..status(1) }), "leader", Wrong, "learner"),
        (
            having(Status { errors: vec!["broken".into(), "alarm:NOSPACE".into()], ..status(1) }),
            "errors",
            Wrong,
            "broken",
        ),
        (having(Status { size: 1900 << 20, ..status(1) }), "database", Note, "1900 of 2048 MiB"),
        (
            Endpoint { round_trips: RoundTrips::of(vec![Duration::from_secs(2)]), ..endpoint(1) },
            "round trip",
            Note,
            "2.0s",
        ),
    ] {
        assert_only(&of_endpoint(&endpoint), check, level, text);
    }
    assert_eq!(of_endpoint(&having(Status { quota: None, leader: 2, ..status(1) })), []);
}

#[test]
fn each_fault_of_a_cluster_is_found_and_nothing_else() {
    use Level::{Note, Wrong};
    let three = [endpoint(1), endpoint(2), endpoint(3)];
    assert_eq!(of_store(&store(), &three), []);
    let members = |names: &[&str]| {
        let members = names.iter().map(|name| Member { name: (*name).into(), is_learner: *name == "learner" });
        Store { members: Some(members.collect()), ..store() }
    };
    let alarm = |name: &str| Store { alarms: Some(vec![name.into()]), ..store() };
    let refused = |need, kind| {
        let refusal = Some(BackendError::new(kind, "not for you"));
        Store { tried: vec![Tried { what: "do it", need, refusal }], ..store() }
    };
    let lease = |seconds| Store { shortest: Some(Duration::from_secs(seconds)), ..store() };
    for (store, check, level, text) in [
        (members(&["a"]), "members", Note, "Run three"),
        (members(&["a", "b", "c", "d"]), "members", Note, "even"),
        (members(&["a", "b", "c", "d", "e"]), "members", Note, "Name all"),
        (members(&["a", "b", ""]), "members", Wrong, "1 of 3"),
        (alarm("NOSPACE"), "alarms", Wrong, "disarm"),
        (alarm("CORRUPT"), "alarms", Wrong, "corrupt"),
        (Store { alarms: None, ..store() }, "alarms", Note, "may not ask"),
        (Store { revision: 20_000, ..store() }, "compaction", Note, "--auto-compaction"),
        (Store { operations: Some(3), ..store() }, "transactions", Wrong, "needs 4"),
        (Store { operations: Some(5), ..store() }, "transactions", Wrong, "semaphore"),
        (Store { operations: Some(10), ..store() }, "transactions", Note, "10 operations"),
        (lease(40), "shortest lease", Note, "40 s for 1 s"),
        (lease(80), "shortest lease", Wrong, "--election-timeout"),
        (refused(Need::Write, ErrorKind::Denied), "rights", Wrong, "readwrite \"leasehold/\""),
        (refused(Need::Read, ErrorKind::Denied), "rights", Wrong, "=true read \"leasehold/\""),
        (refused(Need::Read, ErrorKind::Refused), "requests", Wrong, "not for you"),
        (
            Store { failure: Some(BackendError::new(ErrorKind::Unreachable, "gone")), ..store() },
            "connection",
            Wrong,
            "gone",
        ),
    ] {
        assert_only(&of_store(&store, &three), check, level, text);
    }
    assert_eq!(of_store(&members(&["a", "b", "c", "learner"]), &three), []);
    assert_eq!(of_store(&Store { revision: 1 << 40, is_compacted: Some(true), ..store() }, &three), []);

    let dead = Endpoint { failure: Some(BackendError::new(ErrorKind::Unreachable, "gone")), ..Endpoint::default() };
    assert_eq!(of_store(&store(), &[endpoint(1), endpoint(2), dead]), [], "it is found at the endpoint");

    let two = |second: Endpoint| [endpoint(1), second, endpoint(3)];
    let foreign = Endpoint { status: Some(Status { cluster: 8, ..status(2) }), ..endpoint(2) };
    assert_only(&of_store(&store(), &two(foreign)), "cluster", Wrong, "2 clusters");
    let older = Endpoint { status: Some(Status { version: "3.4.1".into(), ..status(2) }), ..endpoint(2) };
    assert_only(&of_store(&store(), &two(older)), "versions", Note, "3.4.1, 3.5.16");
    let open = Endpoint { is_open: true, ..endpoint(2) };
    assert_only(&of_store(&store(), &two(open)), "account", Note, "off");
}

#[test]
fn the_ttl_has_to_outlive_an_election() {
    let least = |store: &Store, ttl: u64| {
        let mut findings = Findings::of("all");
        let demands = judge::demands(store, &[endpoint(1)]);
        let least = judge_ttl(Duration::from_secs(ttl), &demands, true, &mut findings);
        (least.unwrap().as_secs(), findings.faults().is_empty())
    };
    assert_eq!(least(&store(), 10), (10, true));
    assert_eq!(least(&store(), 9), (10, false));
    assert_eq!(least(&Store { shortest: Some(Duration::from_secs(15)), ..store() }, 30), (75, false));
    let alone = Store { members: Some(vec![Member::default()]), ..store() };
    assert_eq!(least(&alone, 2), (2, true));
    assert!(judge::demands(&Store::default(), &[]).is_empty(), "nothing is known");
}
