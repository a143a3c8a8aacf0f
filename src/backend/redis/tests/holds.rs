//! Exclusive holds: epochs, ghosts, renewal, eviction.

use futures::FutureExt;

use super::super::value::{ClaimText, Writer};
use super::*;

#[test]
fn a_late_copy_of_an_aborted_attempt_takes_nothing() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        for aborted in [false, true] {
            let claim = client.claim("k", Mode::Exclusive);
            let grant = client.redis.acquire(&claim, Wait::UntilGranted).await.unwrap().unwrap();
            let attempt = client.attempt(&grant);
            // As if the answer to a first request had been lost with its connection.
            attempt.unanswered();
            match aborted {
                true => client.redis.abort(&claim).await.unwrap(),
                false => client.release(&grant).await,
            }
            assert_eq!(text(&server.repeat(acquire(&attempt))), "d", "aborted: {aborted}");
            assert!(!server.run::<bool>("EXISTS lock:k"));
            let left: i64 = server.run(&format!("PTTL {}", Names::new("lock:".into()).common(manager(&attempt)).gone));
            assert!((50_000..=60_000).contains(&left), "{left}: it expires");
        }
        assert!(client.try_get("k", Mode::Exclusive).await.is_some(), "others are not refused");
    });
}

#[test]
fn a_late_copy_of_a_place_in_the_queue_takes_nothing() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let claim = waiter.claim("k", Mode::Exclusive);
        let waiting = waiter.redis.acquire(&claim, Wait::UntilGranted);
        tokio::select! {
            _ = waiting => panic!("held by another"),
            () = holder.queued("k", 1) => {}
        }
        let attempt = waiter.attempt_of(&claim);
        attempt.unanswered();
        waiter.redis.abort(&claim).await.unwrap();
        holder.queued("k", 0).await;
        assert_eq!(text(&server.repeat(acquire(&attempt))), "d");
        holder.release(&grant).await;
        assert_eq!(text(&server.repeat(acquire(&attempt))), "d");
        assert!(!server.run::<bool>("EXISTS lock:k"));
    });
}

#[test]
fn an_answered_attempt_leaves_no_tombstone() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        client.release(&grant).await;
        let names = server.keys();
        assert!(names.iter().all(|name| name.contains("%clock:") || name.contains("%lives:")), "{names:?}");
    });
}

#[test]
fn a_repeated_request_finds_its_grant() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        let attempt = client.attempt(&grant);
        server.run::<()>("PEXPIRE lock:k 1000");
        assert_eq!(text(&server.repeat(acquire(&attempt))), format!("g{}", grant.epoch));
        assert!(server.run::<u64>("PTTL lock:k") > 9000, "and has its full TTL again");
        // Its release, twice.
        let part = || Op::Release(attempt.clone(), Duration::ZERO);
        assert_eq!(text(&server.repeat(part())), "1");
        assert_eq!(text(&server.repeat(part())), "0");
    });
}

#[test]
fn a_late_release_leaves_the_successor_alone() {
    run(async {
        let server = Server::start();
        let (first, second) = pair(&server).await;
        let old = first.lock("k").await;
        let attempt = first.attempt(&old);
        first.release(&old).await;
        let grant = second.lock("k").await;
        assert_eq!(text(&server.repeat(Op::Release(attempt.clone(), Duration::ZERO))), "0");
        assert_eq!(text(&server.repeat(Op::Renew(attempt, old.epoch))), "0");
        assert_eq!(server.run::<String>("GET lock:k"), second.attempt(&grant).claim.with(grant.epoch));
    });
}

#[test]
fn epochs_grow_with_any_clock_and_are_never_rounded() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let mut last = 0;
        let next = async || {
            let grant = client.lock("k").await;
            client.release(&grant).await;
            grant.epoch
        };
        for _ in 0..20 {
            let epoch = next().await;
            assert!(epoch > last && epoch > 1_700_000_000_000_000, "{epoch} after {last}: microseconds since 1970");
            last = epoch;
        }
        // The clock was ahead. Lua's number format would print many of these alike.
        let clock = client.redis.acquires.names.common(0).clock;
        let ahead = last + 3_600_000_000;
        server.run::<()>(&format!("SET {clock} {ahead}"));
        for step in 1..=20 {
            assert_eq!(next().await, ahead + step);
            assert_eq!(server.run::<String>(&format!("GET {clock}")), (ahead + step).to_string());
        }
        assert_eq!(server.run::<i64>(&format!("TTL {clock}")), -1);
        // Other clients can write anything.
        for wrong in ["nonsense", "1e300", "4102444800123456"] {
            server.run::<()>(&format!("SET {clock} {wrong}"));
            let refused =
                client.redis.acquire(&client.claim("k", Mode::Exclusive), Wait::UntilGranted).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Incompatible);
            assert!(refused.to_string().contains(&clock), "{refused}");
        }
        server.run::<()>("FLUSHALL");
        assert!(next().await > last, "a server without data is no start from zero");
    });
}

#[test]
fn a_renewal_extends_all_holds_and_reports_those_that_no_longer_exist() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let (kept, lost) = (client.lock("kept").await, client.lock("lost").await);
        let shared = client.share("shared").await;
        for key in ["kept", "shared"] {
            server.run::<()>(&format!("PEXPIRE lock:{key} 3000"));
        }
        server.run::<()>("DEL lock:lost");
        let before = client.lease.proven;
        let lease = client.renew().await.unwrap();
        assert!(lease.proven > before);
        assert_eq!(client.event(LIMIT).await, Event::ClaimLost(lost.attempt));
        for key in ["kept", "shared"] {
            assert!(server.run::<u64>(&format!("PTTL lock:{key}")) > 9000, "{key}");
        }
        client.no_event().await;
        client.release(&kept).await;
        client.release(&shared).await;
        assert_eq!(kind(client.redis.release(&lost).await), ErrorKind::LeaseLost);
        server.run::<()>("FLUSHALL");
        assert!(client.renew().await.is_ok(), "a lease without holds has nothing to lose");
        client.no_event().await;
    });
}

#[test]
fn an_isolated_lease_is_lost_with_its_hold() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let own = client.redis.open(TTL, LeaseScope::Claim).await.unwrap();
        assert!(!own.is_session());
        let claim = client.claim_on(own, "k", Mode::Exclusive);
        let grant = client.redis.acquire(&claim, Wait::UntilGranted).await.unwrap().unwrap();
        assert!(grant.lease.proven > own.proven && grant.limit.is_none());
        assert!(client.redis.renew(&[own]).await.remove(0).is_ok());
        server.run::<()>("FLUSHALL");
        assert_eq!(kind(client.redis.renew(&[own]).await.remove(0)), ErrorKind::LeaseLost);
        client.redis.revoke(&own).await.unwrap();
        assert_eq!(kind(client.redis.acquire(&claim, Wait::UntilGranted).await), ErrorKind::LeaseLost);
    });
}

#[test]
fn a_revoked_lease_leaves_nothing() {
    run(async {
        let server = Server::start();
        let (client, other) = pair(&server).await;
        for n in 0..300 {
            client.lock(&format!("k{n}")).await;
        }
        client.share("shared").await;
        let elsewhere = other.lock("elsewhere").await;
        client.redis.revoke(&client.lease).await.unwrap();
        let left: Vec<_> = server.keys().into_iter().filter(|name| !name.contains('%')).collect();
        assert_eq!(left, ["lock:elsewhere"]);
        assert_eq!(
            kind(client.redis.acquire(&client.claim("k", Mode::Exclusive), Wait::UntilGranted).await),
            ErrorKind::LeaseLost
        );
        assert!(other.renew().await.is_ok());
        other.release(&elsewhere).await;
    });
}

#[test]
fn a_grant_that_a_renewal_did_not_include_is_limited() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let name = client.redis.acquires.names.of("k").unwrap();
        let claim = client.claim("k", Mode::Exclusive);
        let text = ClaimText::new(&client.redis.acquires.writer, &claim);
        let claims = &client.redis.acquires.claims;
        let attempt = claims.begin(Attempt::new(&claim, name, text, Wait::UntilGranted)).unwrap();
        client.redis.router.acquire(&attempt);
        let outcome = std::future::poll_fn(|cx| attempt.poll(cx, client.redis.acquires.clock.now())).await;
        let super::super::stage::Outcome::Granted(won) = outcome else { panic!("{outcome:?}") };
        // It was sent before a renewal that has nothing to renew, and is returned after it.
        client.renew().await.unwrap();
        let limit = claims.hold(&attempt, won, false).expect("not given up").expect("a separate limit");
        assert!(limit.until() < won.dated + TTL);
        // The next renewal includes it.
        client.renew().await.unwrap();
        assert!(limit.until() > won.dated + 100 * TTL, "lifted");
    });
}

#[test]
fn an_evicted_holder_is_notified_at_once_and_the_next_waiter_granted() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        for mode in [Mode::Exclusive, Mode::Shared] {
            let grant = holder.get("k", mode).await;
            let waiting = waiter.lock("k");
            let evicted = async {
                holder.queued("k", 1).await;
                let asked = Instant::now();
                let eviction = holder.redis.evict("k", &Evict::default()).await.unwrap();
                assert_eq!(eviction.released, ["k"]);
                assert_eq!(eviction.holders, [Holder::new("test", "here", 7)]);
                assert_eq!(holder.event(LIMIT).await, Event::ClaimLost(grant.attempt));
                assert!(asked.elapsed() < Duration::from_millis(200), "{:?}", asked.elapsed());
            };
            let (next, ()) = tokio::join!(waiting, evicted);
            assert!(next.epoch > grant.epoch);
            assert_eq!(kind(holder.redis.release(&grant).await), ErrorKind::LeaseLost);
            waiter.release(&next).await;
        }
        assert_eq!(
            holder.redis.evict("k", &Evict { scope: EvictScope::Claim, only: None }).await.unwrap(),
            crate::info::Eviction::default()
        );
    });
}

#[test]
fn when_memory_is_short_holders_can_renew_and_release() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let (alone, shared) = (holder.lock("k").await, holder.share("s").await);
        let attempt = holder.attempt(&alone);
        let claim = waiter.claim("k", Mode::Exclusive);
        let waiting = waiter.redis.acquire(&claim, Wait::UntilGranted);
        let short = async {
            holder.queued("k", 1).await;
            server.run::<()>("CONFIG SET maxmemory-policy noeviction");
            server.run::<()>("CONFIG SET maxmemory 1");
            let refused =
                holder.redis.acquire(&holder.claim("other", Mode::Exclusive), Wait::UntilGranted).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
            assert!(refused.to_string().contains("OOM"), "{refused}");
            assert!(holder.renew().await.is_ok());
            // A waiter keeps its place, and gets the lock.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            // With a tombstone, which is a write too.
            attempt.unanswered();
            holder.release(&alone).await;
            holder.release(&shared).await;
        };
        let (granted, ()) = tokio::join!(waiting, short);
        assert!(granted.unwrap().unwrap().epoch > alone.epoch);
        assert!(!server.run::<bool>("EXISTS lock:s"));
        holder.no_event().await;
    });
}

#[test]
fn a_release_that_finds_nothing_is_a_loss_unless_an_earlier_copy_may_have_released() {
    run(async {
        let server = Server::start();
        let (client, other) = pair(&server).await;
        for mode in [Mode::Exclusive, Mode::Shared] {
            let grant = client.get("k", mode).await;
            server.run::<()>("DEL lock:k");
            let successor = other.lock("k").await;
            assert_eq!(kind(client.redis.release(&grant).await), ErrorKind::LeaseLost, "{mode:?}");
            assert_eq!(kind(client.redis.release(&grant).await), ErrorKind::LeaseLost, "{mode:?}, again");
            other.release(&successor).await;

            let grant = client.get("k", mode).await;
            let attempt = client.attempt(&grant);
            // As if a first copy had been sent on a connection that broke, and had arrived all the same.
            attempt.give_up();
            attempt.release_unanswered();
            server.repeat(Op::Release(attempt, Duration::ZERO));
            client.release(&grant).await;

            // Dropped by its caller, and repeated later.
            let grant = client.get("k", mode).await;
            assert!(client.redis.release(&grant).now_or_never().is_none());
            let deadline = Instant::now() + LIMIT;
            while server.run::<bool>("EXISTS lock:k") {
                assert!(Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            client.release(&grant).await;
        }
        assert_eq!(client.redis.acquires.claims.count(), (1, 0));
    });
}

#[test]
fn ended_attempts_and_leases_are_forgotten() {
    run(async {
        let server = Server::start();
        let (client, other) = pair(&server).await;
        let held = other.lock("k").await;
        let count = || client.redis.acquires.claims.count();
        for _ in 0..1000 {
            assert!(client.try_get("k", Mode::Exclusive).await.is_none());
            assert!(client.try_get("k", Mode::Shared).await.is_none());
        }
        assert_eq!(count(), (1, 0), "busy");
        let own = client.redis.open(TTL, LeaseScope::Claim).await.unwrap();
        assert!(
            client.redis.acquire(&client.claim_on(own, "k", Mode::Exclusive), Wait::Never).await.unwrap().is_none()
        );
        client.redis.revoke(&own).await.unwrap();
        assert_eq!(count(), (1, 0), "busy, with an isolated lease");
        for n in 0..1000 {
            let own = client.redis.open(TTL, LeaseScope::Claim).await.unwrap();
            let claim = client.claim_on(own, &format!("own {n}"), Mode::Exclusive);
            let grant = client.redis.acquire(&claim, Wait::UntilGranted).await.unwrap().unwrap();
            match n % 2 {
                0 => client.release(&grant).await,
                _ => client.redis.revoke(&own).await.unwrap(),
            }
        }
        assert_eq!(count(), (1, 0), "isolated leases");
        // It may have been sent twice: forgotten when its tombstone exists.
        let claim = client.claim("k", Mode::Exclusive);
        let mut trying = client.redis.acquire(&claim, Wait::Never);
        assert!((&mut trying).now_or_never().is_none());
        let attempt = client.attempt_of(&claim);
        attempt.unanswered();
        assert!(trying.await.unwrap().is_none());
        let deadline = Instant::now() + LIMIT;
        while count() != (1, 0) {
            assert!(Instant::now() < deadline, "{:?}", count());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Waiters are forgotten too.
        let (grant, ()) = tokio::join!(client.lock("k"), async {
            other.queued("k", 1).await;
            other.release(&held).await;
        });
        assert_eq!(client.redis.opening.as_ref().unwrap().serving.batch.polling().count(), 1);
        client.release(&grant).await;
        while client.redis.opening.as_ref().unwrap().serving.batch.polling().count() > 0 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(text(&server.repeat(acquire(&attempt))), "d", "no copy takes it later");
        assert!(client.try_get("k", Mode::Exclusive).await.is_some(), "others are not refused");
    });
}

#[test]
fn a_renewal_of_nothing_proves_nothing_to_a_release() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        server.process().stop();
        assert!(client.redis.release(&grant).now_or_never().is_none());
        assert_eq!(kind(client.renew().await), ErrorKind::Unreachable, "the release is not answered");
        server.process().resume();
        client.release(&grant).await;
        server.process().stop();
        assert!(client.renew().await.is_ok(), "an idle manager has nothing to ask for");
        server.process().resume();
    });
}

#[test]
fn the_cost_of_a_lease_depends_on_its_own_holds_only() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let claims = &client.redis.acquires.claims;
        let name = client.redis.acquires.names.of("k").unwrap();
        // If each lease cost a walk over all attempts, these would be 800 million steps.
        const LEASES: usize = 20_000;
        let leases: Vec<_> = (0..LEASES)
            .map(|_| {
                let lease = claims.open(TTL, LeaseScope::Session, client.redis.acquires.clock.now());
                let claim = client.claim_on(lease, "k", Mode::Exclusive);
                let text = ClaimText::new(&Writer::new(0), &claim);
                claims.begin(Attempt::new(&claim, name.clone(), text, Wait::UntilGranted)).unwrap();
                lease
            })
            .collect();
        let start = Instant::now();
        for lease in &leases {
            assert!(claims.renewing(lease.id, client.redis.acquires.clock.now()).unwrap().held.is_empty());
        }
        let ended: usize = leases.iter().map(|lease| claims.end(lease.id).len()).sum();
        assert_eq!(ended, LEASES);
        println!("{LEASES} leases renewed and ended in {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    });
}
