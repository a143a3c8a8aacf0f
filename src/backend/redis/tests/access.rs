//! Accounts, servers, and other clients' keys.

use super::super::requirements;
use super::*;

#[test]
fn a_key_of_another_type_is_left_alone() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        server.run::<()>("HSET lock:k holder 1");
        for mode in [Mode::Exclusive, Mode::Shared] {
            for wait in [Wait::Never, Wait::UntilGranted] {
                let refused = client.redis.acquire(&client.claim("k", mode), wait).await;
                assert_eq!(kind(refused), ErrorKind::Incompatible, "{mode:?} {wait:?}");
            }
        }
        assert_eq!(kind(client.redis.evict("k", &Evict::default()).await), ErrorKind::Incompatible);
        let info = client.redis.inspect("k").await.unwrap().unwrap();
        assert!(info.foreign && info.holders.is_empty() && info.token.is_none() && info.remaining.is_none());
        assert_eq!(server.run::<String>("TYPE lock:k"), "hash");
        assert_eq!(client.redis.list("").await.unwrap().len(), 1);
    });
}

#[test]
fn a_damaged_lock_does_not_hide_the_others() {
    run(async {
        let server = Server::start();
        let (client, other) = (Client::new(&server).await, Client::new(&server).await);
        let (good, _damaged) = (client.lock("good").await, client.lock("damaged").await);
        let waiting = other.claim("damaged", Mode::Exclusive);
        let waiting = other.redis.acquire(&waiting, Wait::UntilGranted);
        tokio::select! { _ = waiting => panic!("busy"), () = client.queued("damaged", 1) => {} }
        let queue = server.run::<Vec<String>>("KEYS *%q2:lock:damaged").remove(0);
        server.run::<()>(&format!("SET {queue} text"));
        assert_eq!(kind(client.redis.inspect("damaged").await), ErrorKind::Incompatible);
        let listed = client.redis.list("").await.unwrap();
        let keys: Vec<_> = listed.iter().map(|info| (&*info.key, info.foreign)).collect();
        assert_eq!(keys, [("damaged", true), ("good", false)]);
        client.release(&good).await;
    });
}

#[test]
fn other_clients_exclude_and_are_excluded() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        assert!(server.run::<bool>("SET lock:k 5f0c6a2e8d NX"));
        for mode in [Mode::Exclusive, Mode::Shared] {
            assert!(client.try_get("k", mode).await.is_none());
        }
        let info = client.redis.inspect("k").await.unwrap().unwrap();
        assert!(info.foreign && info.remaining.is_none() && info.holders.is_empty(), "{info:?}");
        // It does not expire, and its release is not announced: polled every 100 ms.
        let free = async {
            client.queued("k", 1).await;
            server.run::<()>("DEL lock:k");
            Instant::now()
        };
        let (grant, freed) = tokio::join!(client.lock("k"), free);
        assert!(freed.elapsed() < Duration::from_millis(500), "{:?}", freed.elapsed());
        assert!(!server.run::<bool>("SET lock:k 5f0c6a2e8d NX"));
        client.release(&grant).await;
        let reader = client.share("k").await;
        assert!(!server.run::<bool>("SET lock:k 5f0c6a2e8d NX"), "readers exclude too");
        client.release(&reader).await;
        assert!(server.run::<bool>("SET lock:k 5f0c6a2e8d NX PX 400"));
        let waited = Instant::now();
        client.lock("k").await;
        assert!(waited.elapsed() > Duration::from_millis(350));
        server.run::<()>("SET lock:k other");
        let eviction = client.redis.evict("k", &Evict::default()).await.unwrap();
        assert!(eviction.holders.is_empty() && eviction.released == ["k"], "{eviction:?}");
    });
}

#[test]
fn a_signal_list_is_written_when_its_lock_becomes_free() {
    run(async {
        let server = Server::start();
        let with = || Options { signal_lists: true, ..options(server.target(None, 0)) };
        let (client, other, silent) =
            (Client::with(with()).await, Client::with(with()).await, Client::new(&server).await);
        let assert_signals = |times: u64| assert_eq!(server.calls("lpush"), times);
        let grant = client.lock("k").await;
        let (handed, ()) = tokio::join!(other.lock("k"), async {
            client.queued("k", 1).await;
            client.release(&grant).await;
        });
        assert_signals(0);
        other.release(&handed).await;
        assert_signals(1);
        assert_eq!(server.run::<Vec<String>>("LRANGE lock-signal:k 0 -1"), ["1"]);
        let left = server.run::<i64>("PTTL lock-signal:k");
        assert!((1..=1000).contains(&left), "{left}");

        let readers = (client.share("k").await, other.share("k").await);
        client.release(&readers.0).await;
        assert_signals(0);
        other.release(&readers.1).await;
        assert_signals(1);
        assert_eq!(server.run::<u64>("LLEN lock-signal:k"), 1, "one element, however often");

        server.run::<()>("SET lock:k other");
        client.redis.evict("k", &Evict::default()).await.unwrap();
        assert_signals(1);
        server.run::<()>("SET lock:k other");
        let claim = other.claim("k", Mode::Exclusive);
        let (successor, ()) = tokio::join!(other.redis.acquire(&claim, Wait::UntilGranted), async {
            client.queued("k", 1).await;
            client.redis.evict("k", &Evict::default()).await.unwrap();
        });
        assert_signals(0);
        other.release(&successor.unwrap().unwrap()).await;
        assert_signals(1);

        server.run::<()>("DEL lock-signal:k");
        silent.release(&silent.lock("k").await).await;
        server.run::<()>("SET lock:k other");
        silent.redis.evict("k", &Evict::default()).await.unwrap();
        assert_signals(0);
        assert!(!server.run::<bool>("EXISTS lock-signal:k"), "only if the options ask for it");
    });
}

#[test]
fn an_account_without_access_to_signal_lists_can_release() {
    run(async {
        let server = Server::start();
        server.run::<()>("ACL SETUSER narrow on >secret ~lock:* ~{*}%*:lock:* &* +@all");
        let narrow = Options { signal_lists: true, ..options(server.target(Some(("narrow", "secret")), 0)) };
        let client = Client::with(narrow).await;
        client.release(&client.lock("k").await).await;
        assert!(!server.run::<bool>("EXISTS lock:k"));
        client.lock("k").await;
        assert_eq!(client.redis.evict("k", &Evict::default()).await.unwrap().released, ["k"]);
        assert!(!server.run::<bool>("EXISTS lock:k lock-signal:k"));
    });
}

#[test]
fn a_node_of_a_cluster_is_refused() {
    run(async {
        let server = Server::start_clustered();
        let refused = connect(options(server.target(None, 0))).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(error.to_string().contains("cluster"), "{error}");
    });
}

#[test]
fn a_request_polls_at_its_retry_interval() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        server.run::<()>("SET lock:k other");
        let mut claim = client.claim("k", Mode::Exclusive);
        claim.retry_interval = Duration::from_millis(10);
        let mut waiting = client.redis.acquire(&claim, Wait::UntilGranted);
        tokio::select! {
            _ = &mut waiting => panic!("held by another"),
            () = client.queued("k", 1) => {}
        }
        server.calls("evalsha");
        let polling = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
        assert!(polling.is_err());
        let calls = server.calls("evalsha");
        assert!(calls > 30, "{calls} polls in a second");
    });
}

#[test]
fn side_keys_are_where_the_server_has_the_lock() {
    run(async {
        let server = Server::start_clustered();
        let names = Names::new("lock:".into());
        for key in ["k", "a}b", "{}x", "{u}:queue", "{", "}", "ä{鍵}", "{{a}}", "x{}{y}"] {
            let name = names.of(key).unwrap();
            let slot = |name: &str| server.run::<u16>(&format!("CLUSTER KEYSLOT {name}"));
            for side in [&name.queue, &name.readers] {
                assert_eq!(slot(side), slot(&name.lock), "{side}");
            }
        }
    });
}

#[test]
fn without_a_prefix_keys_of_the_form_of_side_keys_are_refused() {
    run(async {
        let server = Server::start();
        let bare = Client::with(Options { prefix: String::new(), ..options(server.target(None, 0)) }).await;
        let held = bare.lock("{u}:queue").await;
        let also = bare.lock("{u}").await;
        let refused = bare.redis.acquire(&bare.claim("{u}%queue:{u}", Mode::Exclusive), Wait::UntilGranted).await;
        assert_eq!(kind(refused), ErrorKind::Refused);
        let keys: Vec<_> = bare.redis.list("").await.unwrap().into_iter().map(|info| info.key).collect();
        assert_eq!(keys, ["{u}", "{u}:queue"], "side keys are no locks");
        bare.release(&held).await;
        bare.release(&also).await;
    });
}

#[test]
fn the_scripts_are_sent_again_when_the_server_has_forgotten_them() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        for _ in 0..3 {
            let grant = client.lock("k").await;
            server.run::<()>("SCRIPT FLUSH");
            assert!(client.renew().await.is_ok());
            server.run::<()>("SCRIPT FLUSH");
            assert!(client.redis.inspect("k").await.unwrap().is_some());
            server.run::<()>("SCRIPT FLUSH");
            client.release(&grant).await;
            server.run::<()>("SCRIPT FLUSH");
        }
        client.no_event().await;
    });
}

#[test]
fn the_first_release_on_a_server_is_not_overtaken_by_a_try() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        let (released, again) =
            futures::future::join(client.redis.release(&grant), client.try_get("k", Mode::Exclusive)).await;
        released.unwrap();
        assert!(again.is_some(), "its own manager was releasing it");
    });
}

#[test]
fn both_protocols_and_another_database() {
    run(async {
        let server = Server::start();
        for url in ["?protocol=resp3", "?protocol=resp2", "?db=3", "?db=3&protocol=resp3"] {
            let url = format!("redis+unix://{}{url}", server.server.socket().display());
            let raw = redis::Client::open(url.clone()).unwrap();
            let target = || Target::Client(Box::new(raw.clone()));
            if url.contains("resp3") && server.version() < (6, 0) {
                let error = connect(options(target())).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("protocol=resp3"), "{error}");
                continue;
            }
            let (holder, waiter) = (Client::with(options(target())).await, Client::with(options(target())).await);
            let grant = holder.lock("k").await;
            let released = async {
                holder.queued("k", 1).await;
                holder.redis.ping().await.unwrap();
                assert_eq!(holder.redis.list("").await.unwrap().len(), 1);
                holder.release(&grant).await;
                Instant::now()
            };
            let (handed, released) = tokio::join!(waiter.lock("k"), released);
            assert!(handed.limit.is_some() && released.elapsed() < Duration::from_millis(500), "{url}: by message");
            assert!(waiter.renew().await.is_ok());
            waiter.redis.evict("k", &Evict::default()).await.unwrap();
            assert_eq!(waiter.event(LIMIT).await, Event::ClaimLost(handed.attempt));
        }
        assert_eq!(server.run::<String>("INFO keyspace").matches("keys=").count(), 2);
    });
}

#[test]
fn a_missing_permission_fails_at_once() {
    run(async {
        let server = Server::start();
        server.run::<()>("ACL SETUSER reader on >secret ~* &* +@all -@scripting");
        server.run::<()>("ACL SETUSER elsewhere on >secret ~else:* &* +@all");
        server.run::<()>("ACL SETUSER deaf on >secret ~* resetchannels +@all");
        let start = Instant::now();
        for (user, password, database) in
            [("nobody", "secret", 0), ("reader", "wrong-secret", 0), ("deaf", "secret", 0), ("deaf", "secret", 99)]
        {
            let error = connect(options(server.target(Some((user, password)), database))).await.unwrap_err();
            let wanted = if database == 99 { ErrorKind::Refused } else { ErrorKind::Denied };
            assert_eq!(error.kind(), wanted, "{user}: {error}");
            let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
            assert!(!shown.contains("secret"), "{shown}");
        }
        for user in ["reader", "elsewhere"] {
            let client = Client::with(options(server.target(Some((user, "secret")), 0))).await;
            for wait in [Wait::Never, Wait::UntilGranted] {
                let refused = client.redis.acquire(&client.claim("k", Mode::Exclusive), wait).await;
                assert_eq!(kind(refused), ErrorKind::Denied, "{user}");
            }
            assert_eq!(kind(client.redis.inspect("k").await), ErrorKind::Denied);
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert!(!server.run::<bool>("EXISTS lock:k"));
    });
}

#[test]
fn what_an_account_needs_is_enough() {
    run(async {
        let server = Server::start();
        // As in the documentation.
        let commands = requirements::NEEDED.map(|command| format!("+{command}")).join(" ");
        for (signal_lists, more) in [(false, ""), (false, " +client|tracking"), (true, " ~lock-signal:* +lpush")] {
            server.run::<()>(&format!(
                "ACL SETUSER small reset on >secret ~lock:* ~{{*}}%*:lock:* resetchannels &lock:%wake:* {commands}{more}"
            ));
            let account = || Options { signal_lists, ..options(server.target(Some(("small", "secret")), 0)) };
            let (holder, waiter) = (Client::with(account()).await, Client::with(account()).await);
            for key in ["k", "{u}", "a}b"] {
                let grant = holder.lock(key).await;
                let release = async {
                    holder.queued(key, 1).await;
                    assert_eq!(holder.redis.list("").await.unwrap().len(), 1);
                    holder.attempt(&grant).unanswered();
                    holder.release(&grant).await;
                };
                let (handed, ()) = tokio::join!(waiter.lock(key), release);
                assert!(handed.limit.is_some(), "by message");
                assert!(waiter.renew().await.is_ok());
                holder.redis.evict(key, &Evict::default()).await.unwrap();
                assert_eq!(waiter.event(LIMIT).await, Event::ClaimLost(handed.attempt));
                let readers = (holder.share(key).await, waiter.share(key).await);
                assert!(holder.renew().await.is_ok());
                holder.release(&readers.0).await;
                waiter.release(&readers.1).await;
                assert_eq!(server.run::<bool>(&format!("EXISTS lock-signal:{key}")), signal_lists);
            }
        }
    });
}

#[test]
fn an_account_that_may_not_publish_can_hand_over() {
    run(async {
        let server = Server::start();
        server.run::<()>("ACL SETUSER mute on >secret ~* &* +@all -publish");
        let holder = Client::with(options(server.target(Some(("mute", "secret")), 0))).await;
        let waiter = Client::new(&server).await;
        let grant = holder.lock("k").await;
        let release = async {
            holder.queued("k", 1).await;
            holder.release(&grant).await;
            Instant::now()
        };
        let (handed, released) = tokio::join!(waiter.lock("k"), release);
        assert!(handed.epoch > grant.epoch && handed.limit.is_none(), "found by a poll");
        assert!(released.elapsed() < Duration::from_secs(2), "{:?}", released.elapsed());
        let evicted = holder.redis.evict("k", &Evict::default()).await.unwrap();
        assert_eq!(evicted.released, ["k"]);
        assert!(waiter.renew().await.is_ok());
        assert_eq!(waiter.event(LIMIT).await, Event::ClaimLost(handed.attempt));
    });
}
