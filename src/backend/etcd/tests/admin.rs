//! Reading locks, and evicting their holders.

use futures::FutureExt;

use super::*;

#[test]
fn a_lock_shows_its_holder() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        assert_eq!(a.etcd.inspect("k").await.unwrap(), None);
        let held = a.lock("k").await;
        let mut wait = b.lock("k").boxed();
        tokio::select! { _ = &mut wait => panic!("busy"), () = a.queued("k", 2) => {} }
        let info = a.etcd.inspect("k").await.unwrap().unwrap();
        assert_eq!((info.mode, info.waiters, info.foreign), (Mode::Exclusive, 1, false));
        assert_eq!(info.holders, [Holder::new("test", "here", 7)]);
        assert_eq!(info.token, Some(crate::token::FencingToken::of_epoch(held.epoch)));
        assert!(info.since.unwrap().elapsed().unwrap() < LIMIT);
        assert!(info.remaining.unwrap() <= Duration::from_secs(10));
        assert_eq!(b.etcd.inspect("k").await.unwrap().unwrap().token, None);
    });
}

#[test]
fn foreign_claims_are_shown_as_such() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "").await;
        let mut client = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
        let lease = client.lease_grant(60, None).await.unwrap().id();
        let mut put = async |name: String| {
            let options = etcd_client::PutOptions::new().with_lease(lease);
            client.put(name, "", Some(options)).await.unwrap();
        };
        // Go's Mutex and etcdctl name a claim by its lease, Go's RWMutex by the time.
        put(format!("mutex/{lease:x}")).await;
        put("readers/read/00000001700000000000000000".into()).await;
        put("readers/read/00000001700000000000000001".into()).await;
        put("readers/write/00000001700000000000000002".into()).await;
        let ours = a.lock("ours").await;
        put(format!("ours/{lease:x}")).await;
        let mut wait = a.lock("mutex").boxed();
        tokio::select! { _ = &mut wait => panic!("busy"), () = a.queued("mutex", 1) => {} }
        for (key, mode, waiters) in [("mutex", Mode::Exclusive, 1), ("readers", Mode::Shared, 1)] {
            let info = a.etcd.inspect(key).await.unwrap().unwrap();
            assert_eq!((info.mode, info.waiters, info.foreign), (mode, waiters, true), "{key}");
            assert_eq!((info.since, info.token, info.holders.len()), (None, None, 0), "{key}");
            assert!(info.remaining.unwrap() > Duration::from_secs(30), "{key}");
        }
        let info = a.etcd.inspect("ours").await.unwrap().unwrap();
        assert_eq!((info.waiters, info.foreign, info.holders.len()), (1, false, 1));
        assert_eq!(info.token, Some(crate::token::FencingToken::of_epoch(ours.epoch)));
        let listed = a.etcd.list("").await.unwrap();
        let shown: Vec<_> = listed.iter().map(|info| (info.key.as_str(), info.foreign)).collect();
        assert_eq!(shown, [("mutex", true), ("ours", false), ("readers", true)]);
    });
}

#[test]
fn a_list_has_exactly_the_keys_with_the_prefix() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let keys = ["a", "a/b", "a/c", "ab", "%2F", "鍵"];
        for key in keys {
            a.lock(key).await;
        }
        a.get("shared", Mode::Shared).await;
        server.ctl(&["put", "p/foreign/x", "anything"]);
        server.ctl(&["put", "p/%zz/x", "no key"]);
        server.ctl(&["put", "p/stray", "no directory"]);
        server.ctl(&["put", "q/a/x", "another prefix"]);
        let listed = |prefix: &'static str| {
            let etcd = &a.etcd;
            async move { etcd.list(prefix).await.unwrap().into_iter().map(|info| info.key).collect::<Vec<_>>() }
        };
        assert_eq!(listed("").await, ["%2F", "a", "a/b", "a/c", "ab", "foreign", "shared", "鍵"]);
        assert_eq!(listed("a").await, ["a", "a/b", "a/c", "ab"]);
        assert_eq!(listed("a/").await, ["a/b", "a/c"]);
        assert_eq!(listed("%").await, ["%2F"]);
        assert_eq!(listed("none").await, Vec::<String>::new());
        let foreign = a.etcd.list("foreign").await.unwrap().remove(0);
        assert!(foreign.foreign && foreign.remaining.is_none() && foreign.holders.is_empty());
    });
}

#[test]
fn a_list_of_many_pages_is_complete() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        for first in 0..25 {
            let keys: Vec<_> = (0..100).map(|second| format!("{first:02}-{second:02}")).collect();
            futures::future::join_all(keys.iter().map(|key| a.lock(key))).await;
        }
        assert_eq!(a.etcd.list("").await.unwrap().len(), 2500);
    });
}

#[test]
fn an_eviction_ends_the_lease_and_names_what_it_carried() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let other = b.lock("waited").await;
        a.lock("k").await;
        a.lock("also").await;
        let mut wait = a.lock("waited").boxed();
        tokio::select! { _ = &mut wait => panic!("busy"), () = b.queued("waited", 2) => {} }
        drop(wait);
        assert_eq!(b.etcd.evict("free", &Evict::default()).await.unwrap(), crate::info::Eviction::default());
        let eviction = b.etcd.evict("k", &Evict::default()).await.unwrap();
        assert_eq!(eviction.holders, [Holder::new("test", "here", 7)]);
        assert_eq!(eviction.released, ["also", "k"]);
        loop {
            if a.event(Duration::from_millis(200)).await == Event::LeaseLost(a.lease.id) {
                break;
            }
        }
        assert_eq!(server.claims().len(), 1);
        b.release(&other).await;
    });
}

#[test]
fn an_eviction_of_the_key_alone_leaves_the_lease() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = a.lock("k").await;
        a.lock("also").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let eviction = b.etcd.evict("k", &Evict { scope: EvictScope::Claim, only: None }).await.unwrap();
        assert_eq!((eviction.holders.len(), eviction.released), (1, vec!["k".to_owned()]));
        assert_eq!(a.event(Duration::from_millis(200)).await, Event::ClaimLost(held.attempt));
        assert!(b.try_get("k", Mode::Exclusive).await.is_some());
        assert!(b.try_get("also", Mode::Exclusive).await.is_none());
    });
}

#[test]
fn an_eviction_leaves_the_lease_of_a_claim_that_is_released_meanwhile() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        let held = a.lock("k").await;
        // So many keys are on the lease that they take a while to be read.
        let others: Vec<_> = (0..3000).map(|n| format!("other-{n}")).collect();
        futures::future::join_all(others.iter().map(|key| a.lock(key))).await;
        let release = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            a.release(&held).await;
        };
        let everyone = Evict::default();
        let (eviction, ()) = tokio::join!(b.etcd.evict("k", &everyone), release);
        assert_eq!(eviction.unwrap().released.len(), 0);
        a.etcd.renew(&[a.lease]).await.remove(0).unwrap();
    });
}

#[test]
fn an_eviction_removes_all_readers_and_claims_without_a_lease() {
    run(async {
        let server = Server::start().await;
        let (a, b) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
        a.get("k", Mode::Shared).await;
        b.get("k", Mode::Shared).await;
        let admin = Client::new(&server, "p/").await;
        assert_eq!(admin.etcd.inspect("k").await.unwrap().unwrap().holders.len(), 2);
        let eviction = admin.etcd.evict("k", &Evict::default()).await.unwrap();
        assert_eq!((eviction.holders.len(), eviction.released), (2, vec!["k".to_owned()]));
        assert_eq!(server.claims(), Vec::<String>::new());
        server.ctl(&["put", "p/k/forgotten", ""]);
        assert!(admin.try_get("k", Mode::Exclusive).await.is_none());
        assert_eq!(admin.etcd.evict("k", &Evict::default()).await.unwrap().released, ["k"]);
        assert!(admin.try_get("k", Mode::Exclusive).await.is_some());
    });
}
