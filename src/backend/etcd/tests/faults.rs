//! Servers that are silent, late, full or unreachable.

use std::net::TcpListener;
use std::time::Instant;

use futures::FutureExt;

use super::super::kind::Kind;
use super::super::names;
use super::super::txn::{self, Answer, Form, PutClaim, PutOutcome};
use super::*;
use crate::support::proxy::Proxy;

/// Connects by way of a proxy, whose connections are of this backend alone.
async fn behind(proxy: &Proxy, timeout: Duration) -> Etcd {
    let options = Options { timeout, ..options(&proxy.address().to_string(), "p/") };
    connect(options).await.unwrap()
}

#[test]
fn an_unreachable_server_is_an_error_in_time_that_names_it() {
    run(async {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        for port in [port, silent.local_addr().unwrap().port()] {
            for user in [None, Some("somebody".to_owned())] {
                let mut options = options(&format!("127.0.0.1:{port}"), "p/");
                options.timeout = Duration::from_secs(1);
                options.account = user.map_or(Account::Anonymous, |user| fixed(&user, "hunter2"));
                let start = Instant::now();
                let error = connect(options).await.unwrap_err();
                assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
                assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
                assert!(error.to_string().contains(&port.to_string()), "{error}");
                assert!(!format!("{error:?}").contains("hunter2"));
            }
        }
    });
}

#[test]
fn passwords_and_permissions_are_checked() {
    run(async {
        let server = Server::start().await;
        server.ctl(&["user", "add", "root:secret"]);
        server.ctl(&["user", "add", "joe:pass"]);
        server.ctl(&["role", "add", "locks"]);
        server.ctl(&["role", "grant-permission", "locks", "--prefix=true", "readwrite", "p/"]);
        server.ctl(&["user", "grant-role", "joe", "locks"]);
        let with = |user: Option<&str>, password: &str, prefix: &str| {
            let mut options = server.options(prefix);
            options.account = user.map_or(Account::Anonymous, |user| fixed(user, password));
            connect(options)
        };
        with(Some("joe"), "pass", "p/").await.expect("a password that is not needed is no error");
        server.ctl(&["auth", "enable"]);
        let denied = with(Some("joe"), "wrong-pass", "p/").await.unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::Denied);
        assert!(!format!("{denied:?}").contains("wrong-pass"));
        assert_eq!(kind(with(None, "", "p/").await), ErrorKind::Denied);
        assert_eq!(kind(with(Some("joe"), "pass", "q/").await), ErrorKind::Denied);
        let etcd = with(Some("joe"), "pass", "p/").await.unwrap();
        let lease = etcd.open(Duration::from_secs(10), LeaseScope::Session).await.unwrap();
        let grant = etcd.acquire(&claim("k", Mode::Exclusive, lease), Wait::UntilGranted).await.unwrap().unwrap();
        // Any change to the users makes all tokens stale, with an error of its own kind.
        server.ctl(&["--user", "root:secret", "role", "add", "other"]);
        etcd.renew(&[lease]).await.remove(0).unwrap();
        server.ctl(&["--user", "root:secret", "role", "add", "another"]);
        etcd.release(&grant).await.unwrap();
        let grant = etcd.acquire(&claim("k", Mode::Exclusive, lease), Wait::Never).await.unwrap().unwrap();
        // The watch stream has the old token too.
        let other = with(Some("joe"), "pass", "p/").await.unwrap();
        let lease = other.open(Duration::from_secs(10), LeaseScope::Session).await.unwrap();
        server.ctl(&["--user", "root:secret", "role", "add", "yet-another"]);
        let waiting = claim("k", Mode::Exclusive, lease);
        let mut wait = other.acquire(&waiting, Wait::UntilGranted);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut wait).await.is_err());
        etcd.release(&grant).await.unwrap();
        tokio::time::timeout(Duration::from_millis(300), wait).await.expect("not woken").unwrap().unwrap();
    });
}

/// Copies of the first request on a lease, in each of its forms, which the server may receive late.
pub(super) struct Copies([PutClaim; 2]);

impl Copies {
    pub(super) fn new(etcd: &Etcd, claim: &Claim) -> Self {
        let directory = names::Names::new("p/".into()).directory(&claim.key);
        let record = etcd.parts().unwrap().leases.session(claim.lease.id).unwrap().record();
        let full = Form::Full { released: Vec::new(), only_if_free: false, blocker: None, is_repeated: false };
        Self([Form::Lean { released: None }, full].map(|form| PutClaim {
            directory: directory.clone(),
            kind: Kind::of(claim),
            name: directory.claim(Kind::of(claim), claim.lease.id, 1),
            value: b"late".to_vec(),
            record: record.clone(),
            form,
        }))
    }

    /// Sends them. Returns what the server says, of those that it does not refuse as a whole.
    async fn arrive(&self, etcd: &Etcd) -> Vec<PutOutcome> {
        let mut outcomes = Vec::new();
        for put in &self.0 {
            if let Ok(answer) = etcd.parts().unwrap().connection.txn(put.txn()).await {
                let revision = txn::revision(&answer);
                outcomes.extend(put.read(Answer { txn: answer, revision }));
            }
        }
        outcomes
    }

    /// Sends them, and asserts that the record's version keeps them from taking effect.
    pub(super) async fn are_stale(&self, etcd: &Etcd) {
        let outcomes = self.arrive(etcd).await;
        assert!(matches!(outcomes[..], [PutOutcome::Refused, PutOutcome::Stale { .. }]), "{outcomes:?}");
    }
}

#[test]
fn a_copy_of_a_request_that_arrives_after_its_abort_has_no_effect() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let etcd = behind(&proxy, Duration::from_secs(1)).await;
        let lease = etcd.open(Duration::from_secs(30), LeaseScope::Session).await.unwrap();
        let claim = claim("k", Mode::Exclusive, lease);
        let copies = Copies::new(&etcd, &claim);
        proxy.hold_answers();
        assert_eq!(kind(etcd.acquire(&claim, Wait::Never).await), ErrorKind::Unreachable);
        assert_eq!(server.claims().len(), 1, "the request itself has come through");
        proxy.heal();
        etcd.abort(&claim).await.unwrap();
        assert_eq!(server.claims(), Vec::<String>::new());
        copies.are_stale(&etcd).await;
        assert_eq!(server.claims(), Vec::<String>::new());
        // The session continues, though its record has a new version.
        let again =
            etcd.acquire(&super::claim("k", Mode::Exclusive, lease), Wait::UntilGranted).await.unwrap().unwrap();
        etcd.release(&again).await.unwrap();
    });
}

#[test]
fn a_copy_of_a_request_that_arrives_after_its_release_has_no_effect() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let etcd = behind(&proxy, Duration::from_secs(1)).await;
        let lease = etcd.open(Duration::from_secs(30), LeaseScope::Session).await.unwrap();
        let claim = claim("k", Mode::Exclusive, lease);
        let copies = Copies::new(&etcd, &claim);
        proxy.hold_answers();
        let mut acquiring = etcd.acquire(&claim, Wait::UntilGranted);
        assert!(tokio::time::timeout(Duration::from_millis(1500), &mut acquiring).await.is_err());
        proxy.heal();
        // The first request was the one that came through, and nobody knows how many copies of it there are.
        let grant = tokio::time::timeout(LIMIT, acquiring).await.unwrap().unwrap().unwrap();
        etcd.release(&grant).await.unwrap();
        copies.are_stale(&etcd).await;
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn an_isolated_attempt_of_unknown_outcome_ends_with_its_lease() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let etcd = behind(&proxy, Duration::from_secs(1)).await;
        let lease = etcd.open(Duration::from_secs(30), LeaseScope::Claim).await.unwrap();
        let claim = claim("k", Mode::Exclusive, lease);
        let copies = Copies::new(&etcd, &claim);
        proxy.hold_answers();
        assert_eq!(kind(etcd.acquire(&claim, Wait::Never).await), ErrorKind::Unreachable);
        proxy.heal();
        etcd.abort(&claim).await.unwrap();
        assert_eq!((server.names(), server.leases()), Default::default());
        let outcomes = copies.arrive(&etcd).await;
        assert!(
            outcomes.iter().all(|outcome| matches!(outcome, PutOutcome::Refused | PutOutcome::Over)),
            "{outcomes:?}"
        );
        assert_eq!(server.names(), Vec::<String>::new());
    });
}

#[test]
fn a_request_whose_answer_was_lost_is_one_grant() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let etcd = behind(&proxy, Duration::from_secs(1)).await;
        let lease = etcd.open(Duration::from_secs(30), LeaseScope::Session).await.unwrap();
        let claim = claim("k", Mode::Exclusive, lease);
        proxy.hold_answers();
        let mut acquiring = etcd.acquire(&claim, Wait::UntilGranted);
        assert!(tokio::time::timeout(Duration::from_millis(1500), &mut acquiring).await.is_err());
        proxy.heal();
        let grant = tokio::time::timeout(LIMIT, acquiring).await.unwrap().unwrap().unwrap();
        assert_eq!(server.claims().len(), 1);
        etcd.release(&grant).await.unwrap();
        assert_eq!(server.claims(), Vec::<String>::new());
    });
}

#[test]
fn dropping_an_acquire_anywhere_leaves_nothing_once_aborted() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        for polls in 0..40 {
            let claim = a.claim("k", Mode::Exclusive);
            let mut acquiring = a.etcd.acquire(&claim, Wait::UntilGranted);
            let mut done = false;
            for _ in 0..polls {
                if (&mut acquiring).now_or_never().is_some() {
                    done = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(acquiring);
            a.etcd.abort(&claim).await.unwrap();
            if done {
                break;
            }
        }
        assert!(a.try_get("k", Mode::Exclusive).await.is_some());
        assert_eq!(server.claims().len(), 1);
        assert_eq!(server.leases().len(), 1);
    });
}

#[test]
fn a_waiter_survives_a_watch_that_was_cut() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let (a, b) = (Client::new(&server, "p/").await, behind(&proxy, Duration::from_secs(2)).await);
        let lease = b.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
        let held = a.lock("k").await;
        let waiting = claim("k", Mode::Exclusive, lease);
        let mut wait = b.acquire(&waiting, Wait::UntilGranted);
        tokio::select! { _ = &mut wait => panic!("busy"), () = a.queued("k", 2) => {} }
        proxy.hold_answers();
        a.release(&held).await;
        server.ctl(&["compaction", &held.epoch.to_string()]);
        assert!(tokio::time::timeout(Duration::from_millis(500), &mut wait).await.is_err());
        proxy.heal();
        tokio::time::timeout(Duration::from_secs(1), wait).await.expect("not woken").unwrap().unwrap();
    });
}

#[test]
fn losses_while_the_connection_was_down_are_reported_afterwards() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let etcd = behind(&proxy, Duration::from_secs(2)).await;
        let leases = [
            etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap(),
            etcd.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap(),
        ];
        let mut grants = Vec::new();
        for key in ["k", "kept"] {
            grants.push(
                etcd.acquire(&claim(key, Mode::Exclusive, leases[0]), Wait::UntilGranted).await.unwrap().unwrap(),
            );
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        proxy.hold_answers();
        proxy.reset_all();
        server.ctl(&["del", "p/k/", "--prefix"]);
        server.ctl(&["lease", "revoke", &leases[1].id.to_string()]);
        server.ctl(&["compaction", &(grants[1].epoch + 2).to_string()]);
        proxy.heal();
        let mut events = Vec::new();
        while events.len() < 2 {
            events.push(tokio::time::timeout(Duration::from_secs(2), etcd.next_event()).await.unwrap().unwrap());
        }
        events.sort_by_key(|event| matches!(event, Event::ClaimLost(_)));
        assert_eq!(events, [Event::LeaseLost(leases[1].id), Event::ClaimLost(grants[0].attempt)]);
        etcd.release(&grants[1]).await.unwrap();
        assert!(etcd.next_event().now_or_never().is_none());
    });
}

#[test]
fn a_waiter_behind_a_cut_connection_is_woken() {
    run(async {
        let server = Server::start().await;
        let proxy = Proxy::start(server.0.address());
        let (a, b) = (Client::new(&server, "p/").await, behind(&proxy, Duration::from_secs(2)).await);
        let lease = b.open(Duration::from_secs(60), LeaseScope::Session).await.unwrap();
        let held = a.lock("k").await;
        let waiting = claim("k", Mode::Exclusive, lease);
        let mut wait = b.acquire(&waiting, Wait::UntilGranted);
        tokio::select! { _ = &mut wait => panic!("busy"), () = a.queued("k", 2) => {} }
        proxy.reset_all();
        a.release(&held).await;
        server.ctl(&["compaction", &(held.epoch + 1).to_string()]);
        let grant = tokio::time::timeout(Duration::from_secs(1), wait).await.expect("not woken").unwrap().unwrap();
        b.release(&grant).await.unwrap();
    });
}

#[test]
fn without_space_only_locking_fails_and_with_a_clear_error() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        let held = a.lock("k").await;
        let client = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
        let status = client.clone().status().await.unwrap();
        let member = status.header().unwrap().member_id();
        let mut alarm = etcd_client::AlarmOptions::new();
        alarm.with_member(member);
        let mut maintenance = client.maintenance_client();
        maintenance
            .alarm(etcd_client::AlarmAction::Activate, etcd_client::AlarmType::Nospace, Some(alarm.clone()))
            .await
            .unwrap();
        let refused = a.claim("other", Mode::Exclusive);
        let error = a.etcd.acquire(&refused, Wait::UntilGranted).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        a.etcd.abort(&refused).await.unwrap();
        a.etcd.renew(&[a.lease]).await.remove(0).unwrap();
        a.release(&held).await;
        assert_eq!(server.claims(), Vec::<String>::new());
        maintenance
            .alarm(etcd_client::AlarmAction::Deactivate, etcd_client::AlarmType::Nospace, Some(alarm.clone()))
            .await
            .unwrap();
        a.lock("k").await;
    });
}

#[test]
fn after_close_nothing_is_done() {
    run(async {
        let server = Server::start().await;
        let a = Client::new(&server, "p/").await;
        a.etcd.close().await.unwrap();
        a.etcd.close().await.unwrap();
        assert_eq!(kind(a.etcd.ping().await), ErrorKind::Closed);
        assert_eq!(kind(a.etcd.acquire(&a.claim("k", Mode::Exclusive), Wait::UntilGranted).await), ErrorKind::Closed);
        assert!(a.etcd.next_event().now_or_never().is_none());
    });
}
