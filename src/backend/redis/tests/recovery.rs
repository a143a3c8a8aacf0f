//! Connections that break.

use super::*;

#[test]
fn a_broken_connection_is_no_loss_and_its_requests_are_repeated() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let mut held = Vec::new();
        for round in 0..10 {
            let killing = async {
                server.run::<()>("CLIENT KILL TYPE normal");
            };
            let key = format!("k{round}");
            let (grant, ()) = tokio::join!(client.lock(&key), killing);
            held.push(grant);
            assert!(client.renew().await.is_ok());
        }
        server.run::<()>("CLIENT KILL TYPE normal");
        for grant in &held {
            client.release(grant).await;
        }
        client.no_event().await;
        assert!(client.redis.list("").await.unwrap().is_empty());
    });
}

#[test]
fn without_messages_a_waiter_finds_the_lock_by_polling() {
    run(async {
        let server = Server::start();
        let (holder, waiter) = pair(&server).await;
        let grant = holder.lock("k").await;
        let released = async {
            holder.queued("k", 1).await;
            server.run::<()>("CLIENT KILL TYPE pubsub");
            holder.release(&grant).await;
            Instant::now()
        };
        let (_, released) = tokio::join!(waiter.lock("k"), released);
        assert!(released.elapsed() < Duration::from_millis(1500), "{:?}", released.elapsed());
        // Messages are received again.
        let deadline = Instant::now() + LIMIT;
        while server.run::<Vec<Value>>("PUBSUB CHANNELS").len() < 2 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_server_that_does_not_answer_is_given_up_and_found_again() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        server.process().stop();
        // Sent while the server is stopped, and given up before it was answered.
        let claim = client.claim("late", Mode::Exclusive);
        let acquire =
            tokio::time::timeout(Duration::from_millis(100), client.redis.acquire(&claim, Wait::UntilGranted)).await;
        assert!(acquire.is_err());
        let aborted = tokio::time::timeout(Duration::from_millis(100), client.redis.abort(&claim)).await;
        assert!(aborted.is_err());
        let asked = Instant::now();
        assert_eq!(kind(client.renew().await), ErrorKind::Unreachable);
        assert!(asked.elapsed() < TTL / 3, "{:?}", asked.elapsed());
        server.process().resume();
        client.redis.abort(&claim).await.unwrap();
        assert!(!server.run::<bool>("EXISTS lock:late"));
        let again = Attempt::new(
            &claim,
            client.redis.acquires.names.of("late").unwrap(),
            super::super::value::ClaimText::new(&client.redis.acquires.writer, &claim),
            Wait::UntilGranted,
        );
        assert_eq!(text(&server.repeat(acquire_of(again))), "d", "no copy takes it later");
        assert!(client.renew().await.is_ok());
        client.release(&grant).await;
        client.no_event().await;
    });
}

fn acquire_of(attempt: Attempt) -> Op {
    Op::Acquire(Arc::new(attempt))
}

/// As of a manager that holds nothing, and whose application checks that the server answers.
#[test]
fn a_broken_connection_is_replaced_although_only_pings_are_sent_on_it() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        server.run::<()>("CLIENT KILL TYPE normal");
        let start = Instant::now();
        while let Err(error) = client.redis.ping().await {
            assert!(start.elapsed() < Duration::from_secs(10), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_server_that_restarts_empty_is_found_and_the_loss_reported() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        server.run::<()>("FLUSHALL");
        server.run::<()>("CLIENT KILL TYPE normal");
        assert!(client.renew().await.is_ok());
        assert_eq!(client.event(LIMIT).await, Event::ClaimLost(grant.attempt));
        assert!(client.lock("k").await.epoch > grant.epoch);
    });
}

#[test]
fn a_replica_refuses_requests_until_it_is_the_master() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        server.run::<()>("REPLICAOF 127.0.0.1 1");
        assert_eq!(kind(client.renew().await), ErrorKind::Unreachable);
        let waiting = tokio::time::timeout(
            Duration::from_millis(300),
            client.redis.acquire(&client.claim("other", Mode::Exclusive), Wait::UntilGranted),
        )
        .await;
        assert!(waiting.is_err(), "{waiting:?}: it is temporary");
        server.run::<()>("REPLICAOF NO ONE");
        assert!(client.renew().await.is_ok());
        client.release(&grant).await;
    });
}

#[test]
fn a_removed_user_is_denied() {
    run(async {
        let server = Server::start();
        server.run::<()>("ACL SETUSER me on >secret ~* &* +@all");
        let client = Client::with(options(server.target(Some(("me", "secret")), 0))).await;
        let grant = client.lock("k").await;
        server.run::<()>("ACL DELUSER me");
        assert_eq!(kind(client.renew().await), ErrorKind::Denied);
        assert_eq!(
            kind(client.redis.acquire(&client.claim("other", Mode::Exclusive), Wait::UntilGranted).await),
            ErrorKind::Denied
        );
        assert_eq!(kind(client.redis.release(&grant).await), ErrorKind::Denied);
        server.run::<()>("ACL SETUSER me on >secret ~* &* +@all");
        let deadline = Instant::now() + LIMIT;
        while client.redis.release(&grant).await.is_err() {
            assert!(Instant::now() < deadline);
        }
        assert!(!server.run::<bool>("EXISTS lock:k"));
    });
}
