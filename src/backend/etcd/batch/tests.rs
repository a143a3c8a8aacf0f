//! Batches on a real etcd.

use etcd_client::{Txn, TxnOp};
use futures::future::{BoxFuture, FutureExt, join_all};

use super::super::names::Names;
use super::super::parts::Parts;
use super::super::tests::{Client, Server, connect, fixed, run};
use super::*;
use crate::backend::{Backend, Claim, Grant, Wait};
use crate::info::Mode;

/// Takes all lanes, so that the members that are sent from now on meet.
fn full(parts: &Parts) -> Vec<Lane> {
    let inner = &parts.releaser.batcher.0;
    inner.state.lock().lanes.extend([1; LANES]);
    (0..LANES).map(|_| Lane { inner: inner.clone(), members: Some(1) }).collect()
}

fn queued(client: &Client) -> usize {
    client.etcd.parts().unwrap().releaser.batcher.0.state.lock().queue.len()
}

fn claims(client: &Client, count: usize) -> Vec<Claim> {
    (0..count).map(|n| client.claim(&format!("k{n}"), Mode::Exclusive)).collect()
}

type Acquiring<'a> = BoxFuture<'a, Result<Option<Grant>>>;

/// Begins to acquire all of them, until they wait for a lane.
fn begin<'a>(client: &'a Client, claims: &'a [Claim], wait: Wait) -> Vec<Acquiring<'a>> {
    let mut begun: Vec<_> = claims.iter().map(|claim| client.etcd.acquire(claim, wait)).collect();
    for acquiring in &mut begun {
        assert!(acquiring.now_or_never().is_none());
    }
    assert_eq!(queued(client), claims.len());
    begun
}

/// The store's revision, which grows by one with each transaction that writes.
async fn revision(client: &Client) -> i64 {
    let found = client.etcd.parts().unwrap().connection.get(b"nothing", None).await.unwrap();
    found.header.unwrap().revision
}

#[test]
fn a_lane_is_given_back_however_its_task_ends() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let claims = claims(&client, 3);
        let begun = begin(&client, &claims, Wait::UntilGranted);
        let failing = tokio::spawn(async move {
            let _lanes = lanes;
            panic!("as a client may at an answer that it cannot read");
        });
        assert!(failing.await.unwrap_err().is_panic());
        for granted in join_all(begun).await {
            granted.unwrap().unwrap();
        }
        assert_eq!(parts.releaser.batcher.0.state.lock().lanes, [0; 0]);
    });
}

#[test]
fn members_that_meet_are_sent_in_one_write() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let claims = claims(&client, 30);
        let before = revision(&client).await;
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let begun = begin(&client, &claims, Wait::UntilGranted);
        drop(lanes);
        let grants: Vec<_> = join_all(begun).await.into_iter().map(|grant| grant.unwrap().unwrap()).collect();
        assert_eq!(revision(&client).await, before + 1);
        assert_eq!(server.claims().len(), 30);
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let mut released: Vec<_> = grants.iter().map(|grant| client.etcd.release(grant)).collect();
        while queued(&client) < 30 {
            for releasing in &mut released {
                assert!(releasing.now_or_never().is_none());
            }
        }
        drop(lanes);
        join_all(released).await.into_iter().for_each(|released| released.unwrap());
        assert_eq!(revision(&client).await, before + 2);
        assert_eq!(server.claims(), Vec::<String>::new());
        assert_eq!(client.etcd.parts().unwrap().releaser.batcher.0.state.lock().lanes, [0; 0], "a lane was lost");
    });
}

#[test]
fn each_member_has_its_own_outcome() {
    run(async {
        let server = Server::start().await;
        let (client, other) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = other.lock("k1").await;
        let claims = claims(&client, 3);
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let tries = begin(&client, &claims, Wait::Never);
        drop(lanes);
        let outcomes = join_all(tries).await;
        let granted: Vec<_> = outcomes.into_iter().map(|granted| granted.unwrap().map(|grant| grant.key)).collect();
        assert_eq!(granted, [Some("k0".into()), None, Some("k2".into())]);
        other.etcd.release(&held).await.unwrap();
    });
}

#[test]
fn a_refused_member_fails_no_other() {
    run(async {
        let server = Server::start().await;
        let client = server.limited_to(&["p/%session/", "p/k0/", "p/k2/"]).await;
        let claims = claims(&client, 3);
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let begun = begin(&client, &claims, Wait::UntilGranted);
        drop(lanes);
        let outcomes = join_all(begun).await;
        let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().map(|_| ()).map_err(|e| e.kind())).collect();
        assert_eq!(kinds, [Ok(()), Err(ErrorKind::Denied), Ok(())]);
    });
}

/// Locks three keys in one request until that is refused, and returns the kinds of those errors, and how many requests passed.
async fn passed_until_refused(client: &Client) -> (usize, Vec<ErrorKind>) {
    let parts = client.etcd.parts().unwrap();
    for passed in 0.. {
        let claims = claims(client, 3);
        let lanes = full(&parts);
        let begun = begin(client, &claims, Wait::UntilGranted);
        drop(lanes);
        let outcomes = join_all(begun).await;
        let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        if !errors.is_empty() {
            return (passed, errors.into_iter().map(BackendError::kind).collect());
        }
        for granted in outcomes {
            // It may be refused as well: then the key is left to the next claim.
            let _ = client.etcd.release(&granted.unwrap().unwrap()).await;
        }
    }
    unreachable!("the loop ends with a refusal");
}

#[test]
fn authentication_that_is_switched_on_later_is_noticed_by_batches() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let parts = client.etcd.parts().unwrap();
        parts.connection.guards().are_due();
        assert!(!parts.connection.guards().are_due(), "nothing is checked, so this is only for once a second");
        server.ctl(&["user", "add", "root:secret"]);
        server.ctl(&["auth", "enable"]);
        let start = tokio::time::Instant::now();
        let (passed, kinds) = passed_until_refused(&client).await;
        println!("{passed} passed, until {:?}", start.elapsed());
        assert_eq!(kinds, [ErrorKind::Denied; 3]);
        for _ in 0..3 {
            assert_eq!(passed_until_refused(&client).await, (0, vec![ErrorKind::Denied; 3]));
        }
    });
}

#[test]
fn a_lack_of_space_is_noticed_by_batches() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let parts = client.etcd.parts().unwrap();
        parts.connection.guards().are_due();
        let mut maintenance = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
        let status = maintenance.status().await.unwrap();
        let mut alarm = etcd_client::AlarmOptions::new();
        alarm.with_member(status.header().unwrap().member_id());
        let (on, space) = (etcd_client::AlarmAction::Activate, etcd_client::AlarmType::Nospace);
        maintenance.alarm(on, space, Some(alarm)).await.unwrap();
        let (passed, kinds) = passed_until_refused(&client).await;
        println!("{passed} passed");
        assert_eq!(kinds, [ErrorKind::Refused; 3]);
        for _ in 0..3 {
            assert_eq!(passed_until_refused(&client).await, (0, vec![ErrorKind::Refused; 3]));
        }
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn what_is_known_to_be_checked_is_always_sent_for_checks() {
    run(async {
        let server = Server::start().await;
        for command in
            [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
        {
            server.ctl(command);
        }
        let mut options = server.options("p/");
        options.account = fixed("root", "secret");
        let etcd = connect(options).await.unwrap();
        for _ in 0..3 {
            assert!(etcd.parts().unwrap().connection.guards().are_due());
        }
    });
}

#[test]
fn a_batch_that_is_too_large_for_the_server_is_halved() {
    run(async {
        let server = Server::start_with(&["--max-txn-ops", "10"]).await;
        let client = Client::new(&server, "p/").await;
        let claims = claims(&client, 35);
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let begun = begin(&client, &claims, Wait::UntilGranted);
        drop(lanes);
        for granted in join_all(begun).await {
            granted.unwrap().unwrap();
        }
        assert_eq!(server.claims().len(), 35);
        let most = client.etcd.parts().unwrap().connection.limits().operations();
        // A nested transaction may have as many operations as are left.
        assert!((4..=8).contains(&most), "{most} next time");
    });
}

/// Also a request over the limit for a message, 2 MiB by default, which the budget prevents otherwise.
#[test]
fn a_batch_with_too_many_bytes_for_the_server_is_halved_and_no_outage() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let parts = client.etcd.parts().unwrap();
        parts.connection.limits().believe(usize::MAX);
        let key = |n| format!("{}{n:02}", "/".repeat(2500));
        let claims: Vec<_> = (0..100).map(|n| client.claim(&key(n), Mode::Exclusive)).collect();
        for wait in [Wait::Never, Wait::UntilGranted] {
            let lanes = full(&parts);
            let begun = begin(&client, &claims, wait);
            drop(lanes);
            for granted in join_all(begun).await {
                client.etcd.release(&granted.unwrap().unwrap()).await.unwrap();
            }
        }
        let bytes = parts.connection.limits().bytes();
        assert!((500_000..5_000_000).contains(&bytes), "{bytes} next time");
        assert_eq!(parts.connection.generation(), 0, "the connection was replaced");
    });
}

#[test]
fn answers_that_are_too_large_together_are_requested_separately() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let claims = claims(&client, 4);
        let parts = client.etcd.parts().unwrap();
        // Of another client, with names of 4 MiB together.
        let ahead: Vec<_> = (0..4).map(|n| [format!("p/k{n}/").as_bytes(), &vec![b'x'; 1_300_000]].concat()).collect();
        for name in &ahead {
            parts.connection.txn(Txn::new().and_then([TxnOp::put(name.clone(), "", None)])).await.unwrap();
        }
        let lanes = full(&parts);
        let mut begun = begin(&client, &claims, Wait::UntilGranted);
        drop(lanes);
        let mut all = join_all(begun.iter_mut());
        let waiting = tokio::time::timeout(Duration::from_millis(500), &mut all).await;
        assert!(waiting.is_err(), "{waiting:?}");
        assert_eq!(server.claims().iter().filter(|name| name.len() < 100).count(), 4);
        for name in &ahead {
            parts.connection.txn(Txn::new().and_then([TxnOp::delete(name.clone(), None)])).await.unwrap();
        }
        for granted in all.await {
            client.etcd.release(&granted.unwrap().unwrap()).await.unwrap();
        }
        assert_eq!(server.claims(), Vec::<String>::new());
        assert_eq!(parts.connection.generation(), 0, "the connection was replaced");
    });
}

#[test]
fn a_member_that_is_dropped_in_the_queue_was_never_sent() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let claims = claims(&client, 3);
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let mut begun = begin(&client, &claims, Wait::UntilGranted);
        drop(begun.remove(1));
        assert_eq!(queued(&client), 2);
        assert_eq!(client.etcd.parts().unwrap().releaser.claims.outcome(claims[1].attempt), None);
        let before = revision(&client).await;
        client.etcd.abort(&claims[1]).await.unwrap();
        assert_eq!(revision(&client).await, before, "there was nothing to abort");
        drop(lanes);
        for granted in join_all(begun).await {
            granted.unwrap().unwrap();
        }
        assert_eq!(server.claims().len(), 2);
    });
}

#[test]
fn a_batch_has_one_member_of_each_directory() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        // No manager does this; two in one transaction would both be the oldest.
        let claims = [client.claim("k", Mode::Exclusive), client.claim("k", Mode::Exclusive)];
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let mut begun = begin(&client, &claims, Wait::UntilGranted);
        drop(lanes);
        let (one, other) = (begun.remove(0), begun.remove(0));
        let (first, mut second) = futures::future::select(one, other).await.factor_first();
        let grant = first.unwrap().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err());
        client.etcd.release(&grant).await.unwrap();
        assert!(second.await.unwrap().unwrap().epoch > grant.epoch);
    });
}

#[test]
fn repeated_claims_rewrite_the_record_once() {
    run(async {
        let server = Server::start().await;
        let client = Client::new(&server, "p/").await;
        let claims = claims(&client, 20);
        let session = client.etcd.parts().unwrap().leases.session(client.lease.id).unwrap();
        for claim in &claims {
            // As after a request whose answer was lost.
            let directory = Names::new("p/".into()).directory(&claim.key);
            client.etcd.parts().unwrap().releaser.claims.begin(claim.attempt, &session, &directory);
            client.etcd.parts().unwrap().releaser.claims.sending(claim.attempt);
        }
        let before = session.record().version;
        let parts = client.etcd.parts().unwrap();
        let lanes = full(&parts);
        let begun = begin(&client, &claims, Wait::UntilGranted);
        drop(lanes);
        for granted in join_all(begun).await {
            granted.unwrap().unwrap();
        }
        assert_eq!(session.record().version, before + 1);
    });
}
