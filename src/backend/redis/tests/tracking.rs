//! What the server reports of the locks that are held, or waited for.

use std::sync::atomic::Ordering;

use futures::FutureExt;
use futures::future::join_all;

use super::super::tracking::Tracking;
use super::*;

/// Sooner than any poll or renewal would find out: waiters poll after 0.8 s at the earliest, holds are renewed after a third of 10 s.
const SOON: Duration = Duration::from_millis(600);

impl Client {
    /// A manager with a separate connection for messages.
    async fn separate(server: &Server) -> Self {
        Self::with(options(Target::Client(Box::new(server.raw.clone())))).await
    }

    fn tracking(&self) -> Arc<Tracking> {
        self.redis.opening.as_ref().unwrap().subscribed.lock().as_ref().unwrap().0.tracking.clone()
    }

    /// How many changes were reported to it.
    fn reports(&self) -> usize {
        self.tracking().reports.load(Ordering::SeqCst)
    }

    /// Asserts that the loss of this hold is reported soon.
    async fn loses(&self, grant: &Grant) {
        assert_eq!(self.event(SOON).await, Event::ClaimLost(grant.attempt));
    }
}

impl Server {
    /// How many keys are tracked.
    fn tracked(&self) -> usize {
        let stats: String = self.run("INFO stats");
        let line = stats.lines().find_map(|line| line.strip_prefix("tracking_total_keys:"));
        line.map_or(0, |count| count.trim().parse().unwrap())
    }

    /// Waits until so many keys are tracked.
    async fn tracks(&self, count: usize) {
        for _ in 0..1000 {
            if self.tracked() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} keys are tracked, and not {count}", self.tracked());
    }
}

/// Runs a test on a server, if that can report changes.
fn run_on(test: impl AsyncFnOnce(Server)) {
    run(async {
        let server = Server::start();
        if server.version() >= (6, 0) {
            test(server).await;
        }
    });
}

#[test]
fn a_hold_whose_key_is_changed_by_others_is_lost_soon() {
    run_on(async |server| {
        let client = Client::new(&server).await;
        for change in [
            "DEL lock:k",
            "UNLINK lock:k",
            "SET lock:k other",
            "APPEND lock:k x",
            "FLUSHALL",
            "FLUSHDB",
            "PEXPIRE lock:k 1",
        ] {
            for mode in [Mode::Exclusive, Mode::Shared] {
                let grant = client.get("k", mode).await;
                server.tracks(1).await;
                server.run::<()>(change);
                client.loses(&grant).await;
                server.run::<()>("FLUSHALL");
            }
        }
        let grant = client.lock("k").await;
        server.tracks(1).await;
        server.run::<()>("CONFIG SET maxmemory-policy volatile-random");
        server.run::<()>("CONFIG SET maxmemory 1");
        // Any command with a need of memory.
        let _ = server.try_run::<()>("SET other x");
        server.run::<()>("CONFIG SET maxmemory 0");
        client.loses(&grant).await;
    });
}

#[test]
fn a_hold_whose_key_is_changed_at_once_is_lost_soon() {
    run_on(async |server| {
        let client = Client::new(&server).await;
        for _ in 0..10 {
            let grant = client.lock("k").await;
            server.run::<()>("DEL lock:k");
            client.loses(&grant).await;
        }
    });
}

#[test]
fn a_hold_is_not_lost_by_changes_that_leave_it() {
    run_on(async |server| {
        let client = Client::new(&server).await;
        for mode in [Mode::Exclusive, Mode::Shared] {
            let grant = client.get("k", mode).await;
            let value = server.run::<String>("GET lock:k");
            for _ in 0..5 {
                server.tracks(1).await;
                let before = client.reports();
                server.run::<()>("PEXPIRE lock:k 5000");
                server.run::<()>(&format!("SET lock:k {value} XX PX 5000"));
                while client.reports() == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                client.no_event().await;
            }
            server.tracks(1).await;
            server.run::<()>("DEL lock:k");
            client.loses(&grant).await;
        }
    });
}

/// Such a server reports each key as changed when the next one is read.
#[test]
fn a_server_that_can_track_one_key_only_is_not_read_without_rest() {
    run(async {
        let server = Server::start();
        if server.version() < (6, 0) {
            return;
        }
        server.run::<()>("CONFIG SET tracking-table-max-keys 1");
        let client = Client::new(&server).await;
        let keys: Vec<String> = (0..20).map(|key| key.to_string()).collect();
        let grants = join_all(keys.iter().map(|key| client.lock(key))).await;
        let limit = tokio::time::Instant::now() + Duration::from_secs(60);
        while client.reports() < 8 * keys.len() {
            assert!(tokio::time::Instant::now() < limit, "{} reports", client.reports());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = client.reports();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let reported = client.reports() - before;
        assert!(reported < 8 * keys.len(), "{reported} reports of {} locks in 2 s", keys.len());
        server.run::<()>("DEL lock:7");
        assert_eq!(client.event(Duration::from_secs(60)).await, Event::ClaimLost(grants[7].attempt));
    });
}

/// A renewal is a change, after which the lock is tracked again.
#[test]
fn a_hold_that_was_renewed_is_lost_soon() {
    run_on(async |server| {
        let client = Client::new(&server).await;
        for mode in [Mode::Exclusive, Mode::Shared] {
            let grant = client.get("k", mode).await;
            for _ in 0..3 {
                server.tracks(1).await;
                assert!(client.renew().await.is_ok());
            }
            client.no_event().await;
            server.tracks(1).await;
            server.run::<()>("DEL lock:k");
            client.loses(&grant).await;
        }
    });
}

#[test]
fn locks_are_tracked_again_on_new_connections() {
    run_on(async |server| {
        let (holder, waiter) = (Client::new(&server).await, Client::separate(&server).await);
        server.run::<()>("SET lock:foreign other");
        let claim = waiter.claim("foreign", Mode::Exclusive);
        let mut waiting = waiter.redis.acquire(&claim, Wait::UntilGranted);
        // What leaves the locks to their holders is reported as well.
        let reported = async |client: &Client, key: &str| {
            let before = client.reports();
            while client.reports() == before {
                server.run::<()>(&format!("PEXPIRE lock:{key} 60000"));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        for kind in ["pubsub", "normal", "pubsub"] {
            let grant = holder.lock("k").await;
            let renewed = async {
                reported(&holder, "k").await;
                reported(&waiter, "foreign").await;
                server.run::<()>(&format!("CLIENT KILL TYPE {kind}"));
                reported(&holder, "k").await;
                reported(&waiter, "foreign").await;
                while holder.redis.ping().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                server.run::<()>("DEL lock:k");
                holder.loses(&grant).await;
            };
            tokio::select! {
                _ = &mut waiting => panic!("held by another"),
                () = renewed => {}
            }
        }
        server.run::<()>("DEL lock:foreign");
        assert!(tokio::time::timeout(SOON, waiting).await.expect("not reported").unwrap().is_some());
    });
}

#[test]
fn a_foreign_lock_that_ends_is_granted_to_its_waiter_soon() {
    run_on(async |server| {
        let (first, second) = (Client::new(&server).await, Client::separate(&server).await);
        for end in ["DEL lock:k", "FLUSHALL", "PEXPIRE lock:k 1"] {
            server.run::<()>("SET lock:k other");
            // Without reports they would poll each second.
            let claim = |client: &Client| {
                let mut claim = client.claim("k", Mode::Exclusive);
                claim.retry_interval = Duration::from_secs(100);
                claim
            };
            let (claim, next) = (claim(&first), claim(&second));
            let mut waiting = first.redis.acquire(&claim, Wait::UntilGranted);
            tokio::select! {
                _ = &mut waiting => panic!("held by another"),
                () = async { second.queued("k", 1).await; server.tracks(1).await } => {}
            }
            let mut behind = second.redis.acquire(&next, Wait::UntilGranted);
            tokio::select! {
                _ = &mut waiting => panic!("held by another"),
                _ = &mut behind => panic!("held by another"),
                () = second.queued("k", 2) => {}
            }
            // Its holder prolongs it.
            server.run::<()>("PEXPIRE lock:k 100000");
            let before = second.reports();
            let asked = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
            assert!(asked.is_err(), "held by another");
            server.run::<()>(end);
            let grant = tokio::time::timeout(SOON, waiting).await.expect("not reported").unwrap().unwrap();
            first.release(&grant).await;
            second.release(&behind.await.unwrap().unwrap()).await;
            assert_eq!(second.reports(), before, "only the first is notified");
        }
    });
}

/// Each waits on separate connections, on which the server would report to each what one of them did.
#[test]
fn handovers_and_renewals_are_reported_to_no_waiter() {
    const WAITING: usize = 200;
    run(async {
        let server = Server::start();
        let mut clients = Vec::new();
        for _ in 0..=WAITING {
            clients.push(Client::separate(&server).await);
        }
        let (holder, waiters) = clients.split_first().unwrap();
        let grant = holder.lock("k").await;
        let claims: Vec<_> = waiters.iter().map(|waiter| waiter.claim("k", Mode::Exclusive)).collect();
        let mut waiting = Vec::new();
        for (number, (waiter, claim)) in waiters.iter().zip(&claims).enumerate() {
            let mut acquiring = waiter.redis.acquire(claim, Wait::UntilGranted);
            assert!((&mut acquiring).now_or_never().is_none());
            waiting.push(acquiring);
            holder.queued("k", number + 1).await;
        }
        for _ in 0..10 {
            assert!(holder.renew().await.is_ok());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(waiters.iter().map(Client::reports).sum::<usize>(), 0, "of renewals");
        holder.release(&grant).await;
        let mut turns = waiters.iter().zip(waiting);
        for (waiter, waiting) in turns.by_ref().take(WAITING / 2) {
            waiter.release(&waiting.await.unwrap().unwrap()).await;
        }
        let idle = &waiters[WAITING / 2 + 1..];
        assert_eq!(idle.iter().map(Client::reports).sum::<usize>(), 0, "of handovers");
        let all: usize = clients.iter().map(Client::reports).sum();
        assert!(all <= WAITING, "{all} reports of {WAITING} joins");
        join_all(turns.map(|(waiter, waiting)| async { waiter.release(&waiting.await.unwrap().unwrap()).await })).await;
    });
}

#[test]
fn a_change_is_reported_to_each_attempt_that_it_concerns() {
    run_on(async |server| {
        // Two of them share a connection.
        let clients = [Client::new(&server).await, Client::new(&server).await, Client::separate(&server).await];
        let mut grants = Vec::new();
        for client in &clients {
            grants.push(client.share("k").await);
            grants.push(client.lock("other").await);
            client.release(&grants.pop().unwrap()).await;
        }
        assert!(Arc::ptr_eq(&clients[0].tracking(), &clients[1].tracking()));
        while clients[0].tracking().count() < 2 || clients[2].tracking().count() < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.run::<()>("DEL lock:k");
        for (client, grant) in clients.iter().zip(&grants) {
            client.loses(grant).await;
        }
    });
}

#[test]
fn short_holds_are_not_tracked_and_long_ones_are_forgotten_when_they_end() {
    run_on(async |server| {
        let client = Client::new(&server).await;
        for key in 0..300 {
            client.release(&client.lock(&key.to_string()).await).await;
        }
        assert!(client.reports() < 30, "{} reports: the machine may have stalled", client.reports());
        for round in 0..3 {
            let keys: Vec<_> = (0..300).map(|key| format!("{round}:{key}")).collect();
            let grants = join_all(keys.iter().map(|key| client.lock(key))).await;
            server.tracks(300).await;
            assert_eq!(client.tracking().count(), 300);
            join_all(grants.iter().map(|grant| client.release(grant))).await;
            while client.tracking().count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.tracks(0).await;
        }
    });
}

/// Their lock never changes, so nothing is reported that would remove them.
#[test]
fn waiters_for_a_foreign_lock_that_give_up_are_forgotten() {
    run_on(async |server| {
        let client = Client::new(&server).await;
        server.run::<()>("SET lock:k other");
        let mut most = 0;
        for _ in 0..150 {
            let claim = client.claim("k", Mode::Exclusive);
            let before = client.tracking().count();
            let waiting = client.redis.acquire(&claim, Wait::UntilGranted);
            tokio::select! {
                _ = waiting => panic!("held by another"),
                () = async {
                    while client.tracking().count() == before {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                } => {}
            }
            client.redis.abort(&claim).await.unwrap();
            most = most.max(client.tracking().count());
        }
        assert!((2..100).contains(&most), "{most} are registered");
    });
}

#[test]
fn an_account_with_the_documented_rights_is_notified() {
    run_on(async |server| {
        if server.version() < (6, 2) {
            return;
        }
        let documented = include_str!("../../../../docs/security.md");
        let user = documented.lines().find(|line| line.starts_with("ACL SETUSER locker")).unwrap();
        server.run::<()>(user);
        let client = Client::with(options(server.target(Some(("locker", "PASSWORD")), 0))).await;
        let grant = client.lock("k").await;
        server.tracks(1).await;
        server.run::<()>("DEL lock:k");
        client.loses(&grant).await;
    });
}

#[test]
fn without_reports_a_loss_is_found_by_the_next_renewal() {
    run_on(async |server| {
        let channels = if server.version() < (6, 2) { "" } else { "&* " };
        server.run::<()>(&format!("ACL SETUSER narrow on >secret ~* {channels}+@all -client"));
        let hidden = |command| Server::start_with(&["--rename-command", command, ""]);
        let servers = [(server, Some(("narrow", "secret"))), (hidden("HELLO"), None), (hidden("CLIENT"), None)];
        for (server, account) in servers {
            let client = async || Client::with(options(server.target(account, 0))).await;
            let (client, other) = (client().await, client().await);
            let grant = client.lock("k").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!((server.tracked(), client.tracking().count()), (0, 0));
            server.run::<()>("DEL lock:k");
            client.no_event().await;
            assert!(client.renew().await.is_ok(), "of the lease");
            client.loses(&grant).await;
            let grant = client.lock("k").await;
            let (handed, ()) = tokio::join!(other.lock("k"), async {
                client.queued("k", 1).await;
                client.release(&grant).await;
            });
            assert!(handed.limit.is_some(), "by message");
        }
    });
}
