//! Observers and listeners.

use futures::StreamExt;

use super::*;

fn calls(server: &Server, command: &str) -> u64 {
    let stats: String = server.run("INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn what_nobody_listens_to_costs_no_command_more() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        client.release(&client.lock("k").await).await;
        server.run::<()>("CONFIG RESETSTAT");
        for _ in 0..10 {
            client.release(&client.lock("k").await).await;
        }
        let made = ["exists", "time", "getset", "set", "getrange", "del"].map(|command| calls(&server, command));
        assert_eq!(made, [20, 10, 10, 10, 10, 10], "of ten pairs");
        server.run::<()>("CONFIG RESETSTAT");
        let others = futures::future::join_all(["a", "b", "c", "d"].map(|key| client.lock(key))).await;
        futures::future::join_all(others.iter().map(|grant| client.release(grant))).await;
        assert!(calls(&server, "zrange") + calls(&server, "publish") == 0, "several in a call");
    });
}

#[test]
fn listeners_leave_nothing_behind() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let grant = client.lock("k").await;
        let ears = &client.redis.acquires.claims.ears;
        {
            let mut states = client.redis.observe("k");
            assert_eq!(states.next().await.unwrap().unwrap().unwrap().holders.len(), 1);
            let mut wanted = client.redis.wanted(&grant);
            assert!(tokio::time::timeout(Duration::from_millis(100), &mut wanted).await.is_err());
            assert_eq!(ears.count(), 2);
        }
        assert_eq!(ears.count(), 0);
        let key = client.attempt(&grant).name.queue.clone();
        assert!((1..=60_000).contains(&server.run::<i64>(&format!("PTTL {key}"))));
        client.release(&grant).await;
        assert_eq!(server.run::<u64>(&format!("ZCARD {key}")), 1, "that for waiters");
        let again = client.lock("k").await;
        assert_eq!(kind(client.redis.wanted(&grant).await), ErrorKind::LeaseLost);
        client.release(&again).await;
    });
}

#[test]
fn an_observer_that_cannot_listen_is_refused() {
    run(async {
        let server = Server::start();
        let client = Client::new(&server).await;
        let queue = Names::new("lock:".into()).of("k").unwrap().queue.clone();
        server.run::<()>(&format!("SET {queue} x"));
        let mut states = client.redis.observe("k");
        let refused = states.next().await.unwrap().unwrap_err();
        assert!(refused.kind() == ErrorKind::Incompatible && refused.to_string().contains(&queue), "{refused}");
        assert!(states.next().await.is_none());
    });
}
