//! The lean form of a claim, and what follows its refusal.

use futures::FutureExt;

use super::super::position::Freshness;
use super::*;
use crate::support::proxy::Proxy;

/// The version of the record of a client's lease on the server.
async fn version(client: &Client) -> i64 {
    let parts = client.etcd.parts().unwrap();
    let session = parts.leases.session(client.lease.id).unwrap();
    let limit = parts.connection.timeout();
    let found = parts.connection.key_once(limit, Freshness::Linearizable, session.record_name()).await.unwrap();
    found.kvs[0].version
}

/// The number of transactions that the server has handled.
fn handled(server: &Server) -> u64 {
    server.0.handled("Txn")
}

/// A client behind a proxy.
async fn behind(proxy: &Proxy) -> Client {
    let options = Options { timeout: Duration::from_secs(1), ..options(&proxy.address().to_string(), "p/") };
    let etcd = connect(options).await.unwrap();
    let lease = etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
    Client { etcd, lease }
}

#[test]
fn a_lock_that_was_not_free_is_asked_for_in_full_until_it_was_free() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = a.lock("k").await;
        let tries = async |count: u64, requests: u64| {
            let before = handled(&server);
            for _ in 0..count {
                assert!(b.try_get("k", Mode::Exclusive).await.is_none());
            }
            assert_eq!(handled(&server) - before, requests, "{count} tries");
        };
        // A refusal of the lean form does not tell why.
        tries(1, 2).await;
        tries(3, 3).await;
        a.release(&held).await;
        let before = handled(&server);
        for _ in 0..3 {
            let held = b.lock("k").await;
            b.release(&held).await;
        }
        assert_eq!(handled(&server) - before, 6, "each one is first at once");
        let _held = a.lock("k").await;
        tries(1, 2).await;
    });
}

#[test]
fn a_refused_claim_is_sent_again_as_one_that_has_no_copies() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = a.lock("k").await;
        let mut waiting = b.lock("k").boxed();
        tokio::select! { _ = &mut waiting => panic!("not its turn"), () = a.queued("k", 2) => {} }
        a.release(&held).await;
        let next = waiting.await;
        assert!(next.epoch > held.epoch);
        b.release(&next).await;
        assert_eq!(version(&b).await, 1, "nothing was repeated");
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn a_claim_of_another_client_blocks_it_wherever_in_the_directory_it_is() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        for (name, blocks) in [
            ("p/k/1", [true, true]),
            ("p/k/read/1", [true, false]),
            ("p/k/x/y", [true, true]),
            ("p/k", [false, false]),
            ("p/k0", [false, false]),
        ] {
            server.ctl(&["put", name, ""]);
            for (mode, blocks) in [Mode::Exclusive, Mode::Shared].into_iter().zip(blocks) {
                // Not known to be blocked, as for another manager.
                let b = Client::new(&server, "p/").await;
                let granted = b.try_get("k", mode).await;
                assert_eq!(granted.is_none(), blocks, "{name} and {mode:?}");
                if let Some(grant) = granted {
                    b.release(&grant).await;
                }
            }
            server.ctl(&["del", name]);
        }
        assert!(a.try_get("k", Mode::Exclusive).await.is_some());
    });
}

#[test]
fn shared_holds_begin_beside_each_other() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let before = handled(&server);
        let (one, two) = (a.get("k", Mode::Shared).await, b.get("k", Mode::Shared).await);
        assert_eq!(handled(&server) - before, 2);
        assert!(two.epoch > one.epoch);
        a.release(&one).await;
        b.release(&two).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

/// The answer to the lean form is lost, so nobody knows whether it has put the claim: the full form finds it.
#[test]
fn a_claim_whose_answer_was_lost_is_found_by_the_full_form() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let client = behind(&proxy).await;
        let claim = client.claim("k", Mode::Exclusive);
        proxy.hold_answers();
        let mut acquiring = client.etcd.acquire(&claim, Wait::UntilGranted);
        assert!(tokio::time::timeout(Duration::from_millis(1500), &mut acquiring).await.is_err());
        let [put] = &server.claims()[..] else { panic!("not put") };
        proxy.heal();
        let grant = tokio::time::timeout(LIMIT, acquiring).await.unwrap().unwrap().unwrap();
        assert_eq!(server.claims(), std::slice::from_ref(put));
        client.release(&grant).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

/// While the first request, in the lean form, is on its way, another client takes the key. What the first one then does, and what its
/// repetition does, must be one claim in the queue.
#[test]
fn a_repeated_claim_waits_where_another_client_was_faster() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let (client, other) = (behind(&proxy).await, Client::new(&server, "p/").await);
        let held = other.lock("k").await;
        let claim = client.claim("k", Mode::Exclusive);
        let copies = super::faults::Copies::new(&client.etcd, &claim);
        // Its refusal is lost.
        proxy.hold_answers();
        let mut acquiring = client.etcd.acquire(&claim, Wait::UntilGranted);
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut acquiring).await.is_err());
        assert_eq!(server.claims().len(), 1, "it was put beside another one");
        // Until it is repeated.
        assert!(tokio::time::timeout(Duration::from_millis(1000), &mut acquiring).await.is_err());
        proxy.heal();
        tokio::select! { _ = &mut acquiring => panic!("not its turn"), () = other.queued("k", 2) => {} }
        other.release(&held).await;
        let grant = tokio::time::timeout(LIMIT, acquiring).await.unwrap().unwrap().unwrap();
        client.release(&grant).await;
        assert_eq!(server.claims(), Vec::<String>::new());
        // The key is free now: only the record's version keeps the first request from taking it.
        copies.are_stale(&client.etcd).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

/// The claim that is released is the only one, so one request without a read is enough. Where another one waits, it is next.
#[test]
fn a_claim_that_also_makes_a_release_is_lean_unless_another_client_waits() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let mut held = a.lock("k").await;
        let before = handled(&server);
        for _ in 0..3 {
            // Never polled before the claim is sent.
            let release = a.etcd.release(&held);
            let next = a.lock("k").await;
            assert!(next.epoch > held.epoch);
            release.await.unwrap();
            held = next;
        }
        assert_eq!(handled(&server) - before, 3);
        let mut waiting = b.lock("k").boxed();
        tokio::select! { _ = &mut waiting => panic!("not its turn"), () = a.queued("k", 2) => {} }
        let release = a.etcd.release(&held);
        let mut last = a.lock("k").boxed();
        let next = tokio::select! { _ = &mut last => panic!("not its turn"), next = &mut waiting => next };
        release.await.unwrap();
        b.release(&next).await;
        let last = last.await;
        assert!(last.epoch > next.epoch);
        a.release(&last).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}
