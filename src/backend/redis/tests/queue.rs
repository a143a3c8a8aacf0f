//! Waiting: order, handover by message, costs.

use futures::FutureExt;

use super::*;

/// Waits until a claim is queued.
macro_rules! place {
    ($client:expr, $claim:expr, $count:expr) => {{
        let mut waiting = $client.redis.acquire(&$claim, Wait::UntilGranted);
        tokio::select! {
            granted = &mut waiting => panic!("{granted:?}: held by another"),
            () = $client.queued("k", $count) => {}
        }
        waiting
    }};
}

#[test]
fn a_lock_goes_to_the_first_waiter() {
    run(async {
        let server = Server::start();
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(Client::new(&server).await);
        }
        let mut grant = clients[0].lock("k").await;
        let claims: Vec<_> = clients.iter().map(|client| client.claim("k", Mode::Exclusive)).collect();
        let mut waiting = Vec::new();
        for n in 1..6 {
            waiting.push(place!(clients[n], claims[n], n));
        }
        for (n, next) in waiting.into_iter().enumerate() {
            clients[n].release(&grant).await;
            let handed = tokio::time::timeout(LIMIT, next).await.unwrap().unwrap().unwrap();
            assert!(handed.epoch > grant.epoch);
            grant = handed;
        }
    });
}

/// As after a failover to a replica that was behind.
#[test]
fn what_managers_have_given_up_is_removed_when_the_server_has_it_again() {
    run(async {
        let server = Server::start();
        let (holder, first, second) =
            (Client::new(&server).await, Client::new(&server).await, Client::new(&server).await);
        let grant = holder.lock("k").await;
        let claims = [first.claim("k", Mode::Exclusive), second.claim("k", Mode::Exclusive)];
        let one = place!(first, claims[0], 1);
        let two = place!(second, claims[1], 2);
        let queue = server.run::<Vec<String>>("KEYS *%q2:lock:k").remove(0);
        for (key, copy) in [("lock:k", "a"), (&*queue, "b")] {
            assert!(server.run::<bool>(&format!("COPY {key} {copy}")));
        }
        holder.release(&grant).await;
        first.release(&one.await.unwrap().unwrap()).await;
        second.release(&two.await.unwrap().unwrap()).await;
        assert!(!server.run::<bool>("EXISTS lock:k"));
        for (key, copy) in [("lock:k", "a"), (&*queue, "b")] {
            server.run::<()>(&format!("RENAME {copy} {key}"));
        }

        let start = Instant::now();
        let turn = async |client: &Client| client.release(&client.lock("k").await).await;
        tokio::join!(turn(&holder), turn(&first), turn(&second));
        // A look, and then what follows from messages. Otherwise the hold would end after 10 s, and each place take 2 s.
        assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    });
}

/// The waiters before may be those of a dead manager, which do not prolong the queue.
#[test]
fn a_queue_lasts_as_long_for_the_last_waiter_as_for_the_first() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let first = waiter.claim("k", Mode::Exclusive);
        let _first = place!(waiter, first, 1);
        let queue = server.run::<Vec<String>>("KEYS *%q2:lock:k").remove(0);
        for mode in [Mode::Exclusive, Mode::Shared] {
            assert_eq!(server.run::<u64>(&format!("PEXPIRE {queue} 5000")), 1);
            let later = waiter.claim("k", mode);
            let _later = place!(waiter, later, if mode == Mode::Exclusive { 2 } else { 3 });
            let left = server.run::<u64>(&format!("PTTL {queue}"));
            assert!(left > 50_000, "{left} ms after a claim has joined");
        }
        holder.release(&grant).await;
    });
}

#[test]
fn a_handover_is_limited_until_it_is_confirmed_automatically() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let claim = waiter.claim("k", Mode::Exclusive);
        let waiting = place!(waiter, claim, 1);
        let asked = waiter.redis.acquires.clock.now();
        holder.release(&grant).await;
        let handed = waiting.await.unwrap().unwrap();
        let limit = handed.limit.expect("a handover has a limit");
        let claim_ttl = Duration::from_secs(2);
        assert!(limit.until() < asked + claim_ttl, "dated from its place in the queue, not from the message");
        assert!(server.run::<u64>("PTTL lock:k") <= 2000, "and the server gives no more");
        while limit.until() < asked + claim_ttl {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(server.run::<u64>("PTTL lock:k") > 7000);
        waiter.no_event().await;
    });
}

#[test]
fn a_handover_that_cannot_be_confirmed_is_lost_in_time() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let claim = waiter.claim("k", Mode::Exclusive);
        let waiting = place!(waiter, claim, 1);
        holder.release(&grant).await;
        let handed = waiting.await.unwrap().unwrap();
        server.process().stop();
        let limit = handed.limit.unwrap();
        let event = waiter.event(LIMIT).await;
        let late = waiter.redis.acquires.clock.now().since(limit.until());
        server.process().resume();
        assert_eq!(event, Event::ClaimLost(handed.attempt));
        assert!(late < Duration::from_millis(500), "{late:?}");
    });
}

#[test]
fn an_old_handover_is_not_trusted() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let claim = waiter.claim("k", Mode::Exclusive);
        let mut waiting = place!(waiter, claim, 1);
        holder.release(&grant).await;
        // The message has arrived, but the waiter does not run; meanwhile its hold expires, and another client acquires the lock.
        let deadline = Instant::now() + LIMIT;
        while !server.run::<bool>("SET lock:k another NX PX 3000") {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(server.run::<u64>("PTTL lock:k") > 2000);
        let early = tokio::time::timeout(Duration::from_millis(1000), &mut waiting).await;
        assert!(early.is_err(), "{early:?} while another holds it");
        let granted = waiting.await.unwrap().unwrap();
        assert!(granted.epoch > grant.epoch, "in its turn");
    });
}

#[test]
fn a_message_that_is_older_than_the_place_in_the_queue_is_only_a_hint() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let claim = waiter.claim("k", Mode::Exclusive);
        let mut waiting = place!(waiter, claim, 1);
        let channel = &waiter.channel();
        for message in [format!("g{:016x}{}", claim.attempt.0, grant.epoch), "nonsense".into(), "g".into()] {
            assert_eq!(server.run::<u64>(&format!("PUBLISH {channel} {message}")), 1);
        }
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(early.is_err(), "{early:?} while another holds it");
        holder.release(&grant).await;
        assert!(waiting.await.unwrap().unwrap().epoch > grant.epoch);
    });
}

#[test]
fn a_dead_waiter_does_not_delay_the_others_for_long() {
    run(async {
        let server = Server::start();
        let (holder, dead, waiter) =
            (Client::new(&server).await, Client::new(&server).await, Client::new(&server).await);
        let grant = holder.lock("k").await;
        let claim = dead.claim("k", Mode::Exclusive);
        drop(place!(dead, claim, 1));
        drop(dead);
        let claim = waiter.claim("k", Mode::Exclusive);
        let waiting = place!(waiter, claim, 2);
        let released = Instant::now();
        holder.release(&grant).await;
        waiting.await.unwrap().unwrap();
        // The handover to the dead waiter lasts for two seconds; the next one has seen when it ends.
        println!("{:?}", released.elapsed());
        assert!(released.elapsed() < Duration::from_secs(3), "{:?}", released.elapsed());
    });
}

#[test]
fn a_place_that_is_not_refreshed_is_skipped() {
    run(async {
        let server = Server::start();
        let (holder, dead, waiter) =
            (Client::new(&server).await, Client::new(&server).await, Client::new(&server).await);
        let grant = holder.lock("k").await;
        let claim = dead.claim("k", Mode::Exclusive);
        drop(place!(dead, claim, 1));
        drop(dead);
        let claim = waiter.claim("k", Mode::Exclusive);
        let waiting = waiter.redis.acquire(&claim, Wait::UntilGranted);
        let release = async {
            holder.queued("k", 2).await;
            // Until the dead waiter has expired.
            holder.queued("k", 1).await;
            holder.release(&grant).await;
            let held: String = server.run("GET lock:k");
            assert!(waiter.attempt_of(&claim).claim.is_in(held.as_bytes()), "{held}");
        };
        let (granted, ()) = tokio::join!(waiting, release);
        assert!(granted.unwrap().unwrap().epoch > grant.epoch);
    });
}

#[test]
fn a_place_in_the_queue_is_kept_for_as_long_as_it_takes() {
    run(async {
        let server = Server::start();
        let (holder, first, second) =
            (Client::new(&server).await, Client::new(&server).await, Client::new(&server).await);
        let grant = holder.lock("k").await;
        let claims = [first.claim("k", Mode::Exclusive), second.claim("k", Mode::Exclusive)];
        let ahead = place!(first, claims[0], 1);
        let behind = place!(second, claims[1], 2);
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert_eq!(holder.redis.inspect("k").await.unwrap().unwrap().waiters, 2);
        }
        holder.release(&grant).await;
        let grant = ahead.await.unwrap().unwrap();
        first.release(&grant).await;
        behind.await.unwrap().unwrap();
    });
}

#[test]
fn waiting_costs_one_call_a_second() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let keys: Vec<_> = (0..10).map(|n| format!("k{n}")).collect();
        let mut claims = Vec::new();
        for key in &keys {
            holder.lock(key).await;
            claims.push(waiter.claim(key, Mode::Exclusive));
        }
        let mut waiting: Vec<_> = claims.iter().map(|claim| waiter.redis.acquire(claim, Wait::UntilGranted)).collect();
        waiting.iter_mut().for_each(|acquire| assert!(acquire.now_or_never().is_none()));
        for key in &keys {
            waiter.queued(key, 1).await;
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.calls("evalsha");
        tokio::time::sleep(Duration::from_secs(4)).await;
        let calls = server.calls("evalsha");
        assert!((3..=8).contains(&calls), "{calls} calls in 4 s for ten waiters of one manager");
    });
}

#[test]
fn requests_that_meet_travel_together() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("first").await;
        client.release(&grant).await;
        server.calls("evalsha");
        let claims: Vec<_> = (0..64).map(|n| client.claim(&format!("k{n}"), Mode::Exclusive)).collect();
        let grants =
            futures::future::join_all(claims.iter().map(|claim| client.redis.acquire(claim, Wait::UntilGranted))).await;
        let calls = server.calls("evalsha");
        assert!(calls <= 4, "{calls} calls for 64 claims");
        let grants: Vec<_> = grants.into_iter().map(|grant| grant.unwrap().unwrap()).collect();
        futures::future::join_all(grants.iter().map(|grant| client.redis.release(grant))).await;
        let calls = server.calls("evalsha");
        assert!(calls <= 4, "{calls} calls for 64 releases");
    });
}

#[test]
fn the_failure_of_one_request_does_not_affect_others() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        server.run::<()>("HSET lock:k1 a b");
        let claims: Vec<_> = (0..3).map(|n| client.claim(&format!("k{n}"), Mode::Exclusive)).collect();
        let grants =
            futures::future::join_all(claims.iter().map(|claim| client.redis.acquire(claim, Wait::UntilGranted))).await;
        assert!(grants[0].is_ok() && grants[2].is_ok(), "{grants:?}");
        let error = grants[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Incompatible);
        assert!(error.to_string().contains("held by an incompatible client"), "{error}");
    });
}

#[test]
fn many_holds_are_renewed_in_slices() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let claims: Vec<_> = (0..1200).map(|n| client.claim(&format!("k{n}"), Mode::Exclusive)).collect();
        futures::future::join_all(claims.iter().map(|claim| client.redis.acquire(claim, Wait::UntilGranted))).await;
        client.renew().await.unwrap();
        server.calls("evalsha");
        client.renew().await.unwrap();
        assert_eq!(server.calls("evalsha"), 6);
        client.no_event().await;
    });
}
