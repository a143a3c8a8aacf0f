//! Locks and renewals that replicas have to confirm.

use std::pin::pin;

use tokio::runtime::Handle;

use super::super::batch::Batch;
use super::super::connection::Connector;
use super::super::locator::Locator;
use super::super::replicas::Replicas;
use super::*;
use crate::backend::Clock;
use crate::support::proxy::Proxy;

/// A replica that its master counts among those that confirm.
async fn replica_of(master: &Server) -> Server {
    let port = master.server.address().port().to_string();
    let replica = Server::start_with(&["--replicaof", "127.0.0.1", &port]);
    while !master.run::<String>("INFO replication").contains("state=online") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    replica
}

#[test]
fn a_lock_that_too_few_replicas_have_is_released() {
    run(async {
        let master = Server::start();
        let wanted = || Options { min_replicas: 1, ..options(master.target(None, 0)) };
        let lonely = Client::with(wanted()).await;
        let claim = lonely.claim("k", Mode::Exclusive);
        let refused = lonely.redis.acquire(&claim, Wait::UntilGranted).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unreachable, "{refused}");
        assert!(refused.to_string().contains("0 of 1 replicas"), "{refused}");
        lonely.redis.abort(&claim).await.unwrap();
        assert!(!master.run::<bool>("EXISTS lock:k"));

        let replica = replica_of(&master).await;
        let client = Client::with(wanted()).await;
        let grant = client.lock("k").await;
        assert_eq!(
            replica.run::<String>("GET lock:k"),
            client.attempt(&grant).claim.with(grant.epoch),
            "there when it is returned"
        );
        assert!(grant.limit.is_none());
    });
}

#[test]
fn a_renewal_that_too_few_replicas_have_proves_nothing() {
    run(async {
        let master = Server::start();
        let replica = replica_of(&master).await;
        let client = Client::with(Options { min_replicas: 1, ..options(master.target(None, 0)) }).await;
        let grant = client.lock("k").await;
        let proven = client.renew().await.unwrap().proven;
        assert!(proven > grant.lease.proven);
        // As a master that is cut off from its replicas, or was deposed, and still answers.
        replica.process().stop();
        let refused = client.renew().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unreachable, "{refused}");
        assert!(refused.to_string().contains("0 of 1 replicas"), "{refused}");
        client.no_event().await;
        replica.process().resume();
        assert!(client.renew().await.unwrap().proven > proven);
    });
}

#[test]
fn a_confirmation_by_another_server_than_that_of_the_renewal_does_not_count() {
    run(async {
        let (master, next) = (Server::start(), Server::start());
        let (replica, _other) = (replica_of(&master).await, replica_of(&next).await);
        let client = Client::new(&master).await;
        let grant = client.lock("k").await;
        let attempt = client.attempt(&grant);

        let proxy = Proxy::start(master.server.address());
        let (host, port) = (proxy.address().ip().to_string(), proxy.address().port());
        let address = Address::Tcp { host, port, tls: None };
        let target = Target::Server(options::Server { address, account: Account::Anonymous, database: 0 });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let locator = Locator::of(&target, LIMIT, &Handle::current()).await.unwrap();
        let scripts = scripts(manager(&attempt));
        let connector = Connector::new(locator, Arc::default(), scripts.clone(), None, LIMIT);
        let connection = connector.open().await.unwrap();
        let batch = Batch::new("here".into(), scripts, clock.clone(), Arc::default(), None);
        let sending = tokio::spawn(batch.clone().run(connector, connection));
        let (replicas, confirming) = Replicas::new(batch.clone(), 1, LIMIT, clock);
        let (mut confirming, mut renewing) = (pin!(confirming), pin!(replicas.renew(&attempt, grant.epoch)));
        replica.process().stop();
        // The renewal is answered by the old master, and the new one is asked for its confirmation.
        assert!(futures::poll!(&mut renewing).is_pending() && futures::poll!(&mut confirming).is_pending());
        batch.request(vec![Op::Renew(attempt.clone(), grant.epoch)]).remove(0).await.unwrap();
        proxy.redirect(next.server.address());
        proxy.reset_all();
        while batch.command(redis::cmd("PING")).await.is_err() {}
        let confirmed = tokio::select! {
            confirmed = renewing => confirmed,
            () = confirming => panic!("it has ended"),
        };
        assert_eq!(kind(confirmed), ErrorKind::Unreachable);
        sending.abort();
    });
}
