//! Releases that are begun without a future.

use std::sync::Mutex;

use futures::future::join_all;
use tokio::sync::oneshot;

use super::super::names::{Directory, Names};
use super::super::release::granted_claim;
use super::*;
use crate::backend::{Completes, Completion, Result};

/// A caller that waits for an outcome.
struct Caller(Mutex<Option<oneshot::Sender<Result<()>>>>);

impl Completes for Caller {
    fn complete(self: Arc<Self>, outcome: Result<()>) {
        let sender = self.0.lock().unwrap().take().unwrap();
        let _ = sender.send(outcome);
    }
}

/// Begins a release. Returns what receives its outcome.
fn begin(client: &Client, grant: &Grant) -> oneshot::Receiver<Result<()>> {
    let (sender, outcome) = oneshot::channel();
    let completion = Completion::new(Arc::new(Caller(Mutex::new(Some(sender)))));
    assert!(client.etcd.begin_release(grant, completion).is_none(), "declined");
    outcome
}

#[test]
fn a_release_that_was_begun_is_sent_and_completed() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        for _ in 0..3 {
            let grants = [client.lock("k").await, client.get("l", Mode::Shared).await];
            let outcomes: Vec<_> = grants.iter().map(|grant| begin(&client, grant)).collect();
            for outcome in outcomes {
                outcome.await.unwrap().unwrap();
            }
            assert_eq!(server.claims(), Vec::<String>::new());
        }
        let names: Vec<_> = [client.lock("k").await, client.lock("l").await].iter().map(|grant| grant.epoch).collect();
        assert!(names[0] < names[1]);
        assert!(
            server.claims().iter().all(|name| name.ends_with("-1") || name.ends_with("-2")),
            "{:?}",
            server.claims()
        );
    });
}

#[test]
fn the_next_claim_makes_a_release_that_was_begun() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let held = client.lock("k").await;
        let before = server.0.handled("Txn");
        // The keeper has no time in between, since this test has its thread.
        let outcome = begin(&client, &held);
        let next = client.lock("k").await;
        outcome.await.unwrap().unwrap();
        assert_eq!(server.0.handled("Txn") - before, 1, "one request for both");
        assert_eq!(server.claims().len(), 1);
        assert!(next.epoch > held.epoch);
        client.release(&next).await;
    });
}

fn directory(key: &str) -> Directory {
    Names::new("p/".into()).directory(key)
}

/// A client behind a proxy.
async fn behind_a_proxy(server: &Server, timeout: Duration) -> (crate::support::proxy::Proxy, Client) {
    let proxy = crate::support::proxy::Proxy::start(server.0.address());
    let options = Options { timeout, ..options(&proxy.address().to_string(), "p/") };
    let etcd = connect(options).await.unwrap();
    let lease = etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
    (proxy, Client { etcd, lease })
}

/// Deletes the claim of a grant, as an administrator can.
fn evict(server: &Server, grant: &Grant) {
    let claim = granted_claim(grant).unwrap();
    assert_eq!(server.ctl(&["del", std::str::from_utf8(&claim.name).unwrap()]).trim(), "1");
}

#[test]
fn a_release_that_was_not_sent_is_lost_with_the_lease() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let held = client.lock("k").await;
        let outcome = begin(&client, &held);
        client.etcd.parts().unwrap().losses.forget(client.lease.id);
        assert_eq!(kind(outcome.await.unwrap()), ErrorKind::LeaseLost);
        assert_eq!(kind(client.etcd.release(&held).await), ErrorKind::LeaseLost);
    });
}

#[test]
fn a_release_in_flight_at_the_end_of_the_lease_has_the_outcome_of_its_answer() {
    run(async {
        let server = Server::start().await;
        let (proxy, client) = behind_a_proxy(&server, Duration::from_secs(20)).await;
        for is_evicted in [false, true] {
            let lease = client.etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
            let held = client.etcd.acquire(&claim("k", Mode::Exclusive, lease), Wait::UntilGranted).await.unwrap();
            let held = held.unwrap();
            if is_evicted {
                evict(&server, &held);
            }
            proxy.hold_answers();
            let handled = server.0.handled("Txn");
            let mut outcome = begin(&client, &held);
            while server.0.handled("Txn") == handled {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            client.etcd.parts().unwrap().losses.forget(lease.id);
            assert!(tokio::time::timeout(Duration::from_millis(100), &mut outcome).await.is_err());
            assert_eq!(kind(client.etcd.release(&held).await), ErrorKind::Unreachable, "to be repeated");
            proxy.heal();
            let expected = if is_evicted { Err(ErrorKind::LeaseLost) } else { Ok(()) };
            assert_eq!(outcome.await.unwrap().map_err(|error| error.kind()), expected);
            assert_eq!(client.etcd.release(&held).await.map_err(|error| error.kind()), expected);
            assert!(!client.etcd.parts().unwrap().releaser.claims.releases().are_pending(&directory("k")));
        }
    });
}

#[test]
fn the_next_claim_finds_that_a_release_comes_too_late() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        for is_begun in [true, false] {
            let held = client.lock("k").await;
            evict(&server, &held);
            let (next, lost) = if is_begun {
                let outcome = begin(&client, &held);
                (client.lock("k").await, outcome.await.unwrap())
            } else {
                // Its future exists and is never polled: the request is not even sent.
                let release = client.etcd.release(&held);
                (client.lock("k").await, release.await)
            };
            assert_eq!(kind(lost), ErrorKind::LeaseLost, "begun: {is_begun}");
            assert_eq!(server.claims().len(), 1, "the next one");
            client.release(&next).await;
            assert_eq!(kind(client.etcd.release(&held).await), ErrorKind::LeaseLost);
        }
    });
}

#[test]
fn releases_that_meet_have_their_own_outcomes() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        for is_begun in [true, false] {
            let mut held = Vec::new();
            for place in 0..9 {
                held.push(client.lock(&format!("k{place}")).await);
            }
            held.iter().step_by(2).for_each(|grant| evict(&server, grant));
            let before = server.0.handled("Txn");
            let outcomes = if is_begun {
                let outcomes = held.iter().map(|grant| begin(&client, grant));
                join_all(outcomes).await.into_iter().map(|outcome| outcome.unwrap()).collect()
            } else {
                join_all(held.iter().map(|grant| client.etcd.release(grant))).await
            };
            assert!(server.0.handled("Txn") - before <= 4, "sent together");
            for (place, outcome) in outcomes.into_iter().enumerate() {
                let expected = if place % 2 == 0 { Err(ErrorKind::LeaseLost) } else { Ok(()) };
                assert_eq!(outcome.map_err(|error| error.kind()), expected, "{place}, begun: {is_begun}");
            }
            assert_eq!(server.claims(), Vec::<String>::new());
        }
        // The numbers of all are free again.
        client.lock("k").await;
        assert!(server.claims()[0].ends_with("-1"), "{:?}", server.claims());
    });
}

#[test]
fn the_release_of_a_separate_lease_tells_whether_its_claim_was_there() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        for is_evicted in [false, true] {
            let own = client.etcd.open(Duration::from_secs(10), LeaseScope::Claim).await.unwrap();
            let held = client.etcd.acquire(&claim("own", Mode::Exclusive, own), Wait::UntilGranted).await.unwrap();
            let held = held.unwrap();
            if is_evicted {
                evict(&server, &held);
            }
            let expected = if is_evicted { Err(ErrorKind::LeaseLost) } else { Ok(()) };
            for _ in 0..2 {
                assert_eq!(client.etcd.release(&held).await.map_err(|error| error.kind()), expected);
                assert_eq!(server.leases().len(), 1, "its own was revoked");
            }
        }
    });
}

#[test]
fn a_release_whose_answer_was_lost_is_an_unknown_outcome() {
    run(async {
        let server = Server::start().await;
        let (proxy, client) = behind_a_proxy(&server, Duration::from_secs(1)).await;
        let held = client.lock("k").await;
        proxy.hold_answers();
        assert_eq!(kind(begin(&client, &held).await.unwrap()), ErrorKind::Unreachable);
        proxy.heal();
        // As the engine repeats it.
        while client.etcd.release(&held).await.is_err() {}
        assert_eq!(server.claims(), Vec::<String>::new());
        let next = client.lock("k").await;
        client.release(&next).await;
    });
}

#[test]
fn what_is_more_than_a_deletion_is_declined() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let own = client.etcd.open(Duration::from_secs(10), LeaseScope::Claim).await.unwrap();
        let isolated =
            client.etcd.acquire(&claim("own", Mode::Exclusive, own), Wait::UntilGranted).await.unwrap().unwrap();
        let unknown = client.lock("k").await;
        client.etcd.parts().unwrap().releaser.claims.answered(unknown.attempt, true);
        for grant in [&isolated, &unknown] {
            let (sender, outcome) = oneshot::channel();
            let completion = Completion::new(Arc::new(Caller(Mutex::new(Some(sender)))));
            client.etcd.begin_release(grant, completion).expect("declined").decline();
            assert!(outcome.await.is_err(), "a declined completion reports nothing");
            client.release(grant).await;
        }
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}
