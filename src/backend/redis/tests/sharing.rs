//! Shared holds.

use super::*;

#[test]
fn a_sharing_period_has_an_epoch_between_those_of_the_writers() {
    run(async {
        let server = Server::start();
        let (a, b) = pair(&server).await;
        let mut last = 0;
        for _ in 0..5 {
            let writer = a.lock("k").await;
            assert!(writer.epoch > last);
            a.release(&writer).await;
            let (first, second) = (a.share("k").await, b.share("k").await);
            assert!(first.epoch > writer.epoch && second.epoch == first.epoch, "{first:?} {second:?} {writer:?}");
            last = first.epoch;
            a.release(&first).await;
            b.release(&second).await;
        }
    });
}

#[test]
fn a_reader_that_was_evicted_long_ago_does_not_renew_its_way_back_in() {
    run(async {
        let server = Server::start();
        let (old, new) = pair(&server).await;
        let evicted = old.share("k").await;
        let of_old = old.attempt(&evicted);
        // By a client that does not know the readers' key.
        server.run::<()>("DEL lock:k");
        let grant = new.share("k").await;
        let readers = new.attempt(&grant).name.readers.clone();
        let left: Vec<String> = server.run(&format!("ZRANGE {readers} 0 -1"));
        assert_eq!(left, [new.attempt(&grant).claim.as_str()]);
        old.renew().await.unwrap();
        assert_eq!(old.event(LIMIT).await, Event::ClaimLost(evicted.attempt));
        assert_eq!(server.run::<u64>(&format!("ZCARD {readers}")), 1);
        new.renew().await.unwrap();
        new.no_event().await;
        new.release(&grant).await;
        let writer = new.lock("k").await;
        assert_eq!(text(&server.repeat(Op::Renew(of_old, writer.epoch))), "0");
        assert_eq!(text(&server.repeat(Op::Renew(new.attempt(&writer), writer.epoch))), "1");
        assert_eq!(server.run::<String>("GET lock:k"), new.attempt(&writer).claim.with(writer.epoch));
    });
}

#[test]
fn a_renewal_needs_the_period_and_the_reader() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.share("k").await;
        let attempt = client.attempt(&grant);
        let readers = attempt.name.readers.clone();
        let renew = || text(&server.repeat(Op::Renew(attempt.clone(), grant.epoch)));
        assert_eq!(renew(), "1");
        server.run::<()>(&format!("SETRANGE lock:k 0 shared:2:{}", grant.epoch + 1));
        assert_eq!(renew(), "0", "of another period");
        server.run::<()>(&format!("SETRANGE lock:k 0 shared:2:{}", grant.epoch));
        assert_eq!(renew(), "1");
        server.run::<()>(&format!("ZADD {readers} 1 {}", attempt.claim.as_str()));
        assert_eq!(renew(), "0", "expired");
        server.run::<()>(&format!("ZREM {readers} {}", attempt.claim.as_str()));
        assert_eq!(renew(), "0", "no reader any more");
    });
}

#[test]
fn a_short_reader_does_not_shorten_a_long_one() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let short = client.redis.open(Duration::from_secs(2), LeaseScope::Session).await.unwrap();
        let long = client.share("k").await;
        let claim = client.claim_on(short, "k", Mode::Shared);
        let grant = client.redis.acquire(&claim, Wait::UntilGranted).await.unwrap().unwrap();
        let readers = client.attempt(&long).name.readers.clone();
        let left = || -> (u64, u64) { (server.run("PTTL lock:k"), server.run(&format!("PTTL {readers}"))) };
        assert!(left().0 > 8000 && left().1 > 8000, "{:?} after joining", left());
        assert!(client.redis.renew(&[short]).await.remove(0).is_ok());
        assert!(left().0 > 8000 && left().1 > 8000, "{:?} after renewing", left());
        client.release(&grant).await;
        assert!(left().0 > 8000, "{:?} after leaving", left());
        assert!(client.try_get("k", Mode::Exclusive).await.is_none());
    });
}

#[test]
fn expired_readers_do_not_exclude_a_writer() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let short = client.redis.open(Duration::from_millis(300), LeaseScope::Session).await.unwrap();
        let long = client.share("k").await;
        client.redis.acquire(&client.claim_on(short, "k", Mode::Shared), Wait::UntilGranted).await.unwrap().unwrap();
        client.release(&long).await;
        assert!(server.run::<u64>("PTTL lock:k") <= 300, "as long as the longest that is left");
        tokio::time::sleep(Duration::from_millis(350)).await;
        assert!(client.redis.inspect("k").await.unwrap().is_none(), "a lock without readers is free");
        let writer = client.try_get("k", Mode::Exclusive).await.expect("free");
        assert!(writer.epoch > long.epoch);
    });
}

#[test]
fn readers_behind_a_writer_that_gives_up_are_granted() {
    run(async {
        let server = Server::start();
        let (a, b) = pair(&server).await;
        let reader = a.share("k").await;
        let writer = a.claim("k", Mode::Exclusive);
        let writing = a.redis.acquire(&writer, Wait::UntilGranted);
        tokio::select! {
            _ = writing => panic!("shared"),
            () = b.queued("k", 1) => {}
        }
        let second = b.share("k");
        let give_up = async {
            a.queued("k", 2).await;
            assert!(b.try_get("k", Mode::Shared).await.is_none(), "behind the writer");
            a.redis.abort(&writer).await.unwrap();
        };
        let (second, ()) = tokio::join!(second, give_up);
        assert_eq!(second.epoch, reader.epoch, "the same period");
    });
}

#[test]
fn a_writer_hands_over_to_all_readers_up_to_the_next_writer() {
    run(async {
        let server = Server::start();
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(Client::new(&server).await);
        }
        let first = clients[0].lock("k").await;
        let modes = [Mode::Shared, Mode::Shared, Mode::Exclusive, Mode::Shared];
        let claims: Vec<_> = clients.iter().zip(modes).map(|(client, mode)| client.claim("k", mode)).collect();
        let mut waiting = Vec::new();
        for (n, (client, claim)) in clients.iter().zip(&claims).enumerate() {
            let mut acquire = client.redis.acquire(claim, Wait::UntilGranted);
            tokio::select! {
                _ = &mut acquire => panic!("held"),
                () = client.queued("k", n + 1) => {}
            }
            waiting.push(acquire);
        }
        clients[0].release(&first).await;
        let granted = [waiting.remove(0).await, waiting.remove(0).await].map(|grant| grant.unwrap().unwrap());
        assert!(granted[0].epoch > first.epoch && granted[0].epoch == granted[1].epoch);
        clients[0].queued("k", 2).await;
        clients[0].release(&granted[0]).await;
        clients[1].release(&granted[1]).await;
        let writer = waiting.remove(0).await.unwrap().unwrap();
        assert!(writer.epoch > granted[0].epoch);
        clients[0].queued("k", 1).await;
        clients[2].release(&writer).await;
        assert!(waiting.remove(0).await.unwrap().unwrap().epoch > writer.epoch);
    });
}
