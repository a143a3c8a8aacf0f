//! Releases that are begun without a future.

use std::sync::Mutex;

use tokio::sync::oneshot;

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

#[test]
fn a_release_that_was_begun_ends_with_the_lease() {
    run(async {
        let server = Server::start().await;
        let proxy = crate::support::proxy::Proxy::start(server.0.address());
        let etcd = connect(options(&proxy.address().to_string(), "p/")).await.unwrap();
        let lease = etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
        let client = Client { etcd, lease };
        let held = client.lock("k").await;
        proxy.hold_answers();
        let outcome = begin(&client, &held);
        tokio::task::yield_now().await;
        client.etcd.parts().unwrap().losses.forget(client.lease.id);
        outcome.await.unwrap().unwrap();
    });
}

#[test]
fn a_release_whose_answer_was_lost_is_an_unknown_outcome() {
    run(async {
        let server = Server::start().await;
        let proxy = crate::support::proxy::Proxy::start(server.0.address());
        let options = Options { timeout: Duration::from_secs(1), ..options(&proxy.address().to_string(), "p/") };
        let etcd = connect(options).await.unwrap();
        let lease = etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
        let client = Client { etcd, lease };
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
