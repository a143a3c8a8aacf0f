//! Losses are reported, and nothing else is.

use super::*;

const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_revoked_lease_is_reported() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        server.ctl(&["lease", "revoke", &a.lease.id.to_string()]);
        assert_eq!(a.event(SOON).await, Event::LeaseLost(a.lease.id));
        assert_eq!(kind(a.etcd.renew(&[a.lease]).await.remove(0)), ErrorKind::LeaseLost);
        assert_eq!(
            kind(a.etcd.acquire(&a.claim("k", Mode::Exclusive), Wait::UntilGranted).await),
            ErrorKind::LeaseLost
        );
    });
}

#[test]
fn a_deleted_claim_is_reported() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let held = a.lock("k").await;
        // Old enough to be watched; otherwise the watch would begin after the deletion, which is reported 100 ms later then.
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.ctl(&["del", &server.claims()[0]]);
        assert_eq!(a.event(SOON).await, Event::ClaimLost(held.attempt));
        assert_eq!(kind(a.etcd.release(&held).await), ErrorKind::LeaseLost);
        // A claim that is deleted before it is watched.
        let held = a.lock("k").await;
        server.ctl(&["del", &server.claims()[0]]);
        assert_eq!(a.event(SOON + Duration::from_millis(100)).await, Event::ClaimLost(held.attempt));
    });
}

#[test]
fn a_release_is_no_loss() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        for pause in [0, 150] {
            let held = a.lock("k").await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            a.release(&held).await;
        }
        let own = a.etcd.open(Duration::from_secs(10), LeaseScope::Claim).await.unwrap();
        let granted = a.etcd.acquire(&claim("own", Mode::Exclusive, own), Wait::UntilGranted).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        a.release(&granted).await;
        a.etcd.revoke(&a.lease).await.unwrap();
        let event = tokio::time::timeout(SOON * 2, a.etcd.next_event()).await;
        assert!(event.is_err(), "{event:?}");
        assert_eq!(server.leases(), Vec::<String>::new());
        assert_eq!(server.names(), Vec::<String>::new());
    });
}

#[test]
fn a_waiter_fails_with_its_lease_and_with_its_claim() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = a.lock("k").await;
        let waiting = b.claim("k", Mode::Exclusive);
        let mut wait = b.etcd.acquire(&waiting, Wait::UntilGranted);
        tokio::select! { _ = &mut wait => panic!("busy"), () = a.queued("k", 2) => {} }
        server.ctl(&["lease", "revoke", &b.lease.id.to_string()]);
        assert_eq!(kind(wait.await), ErrorKind::LeaseLost);

        let b = Client::new(&server, "p/").await;
        let waiting = b.claim("k", Mode::Exclusive);
        let mut wait = b.etcd.acquire(&waiting, Wait::UntilGranted);
        tokio::select! { _ = &mut wait => panic!("busy"), () = a.queued("k", 2) => {} }
        server.ctl(&["del", &format!("p/k/{}-1", b.lease.id)]);
        a.release(&held).await;
        assert_eq!(kind(wait.await), ErrorKind::LeaseLost);
        b.etcd.abort(&waiting).await.unwrap();
    });
}

#[test]
fn renewals_prove_the_lease() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let own = a.etcd.open(Duration::from_millis(2500), LeaseScope::Claim).await.unwrap();
        assert_eq!(
            (own.ttl, own.scope, a.lease.scope),
            (Duration::from_secs(3), LeaseScope::Claim, LeaseScope::Session)
        );
        let renewed = a.etcd.renew(&[a.lease, own]).await;
        for (old, new) in [a.lease, own].into_iter().zip(renewed) {
            let new = new.unwrap();
            assert_eq!((new.id, new.ttl, new.scope), (old.id, old.ttl, old.scope));
            assert!(new.proven > old.proven);
        }
        a.etcd.revoke(&own).await.unwrap();
        a.etcd.revoke(&own).await.unwrap();
        let mixed = a.etcd.renew(&[own, a.lease]).await;
        assert!(mixed[0].as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost) && mixed[1].is_ok());
    });
}

#[test]
fn the_tasks_end_with_the_backend() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let _held = a.lock("k").await;
        let losses = Arc::downgrade(&a.etcd.parts().unwrap().losses);
        drop(a);
        while losses.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
