//! The ends of holds on a real etcd: what an unlock reports.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use leasehold::backend::{Clock, SystemClock, Timestamp};
use leasehold::{LockError, LockGuard, LockManager, LockRequest, Loss};
use support::child::{self, Child};
use support::etcd::Etcd;
use support::proxy::Proxy;
use support::{PATIENCE, eventually, in_the_background};

/// The shortest TTL that etcd grants.
const TTL: Duration = Duration::from_secs(2);

fn manager(address: impl std::fmt::Display, ttl: Duration) -> LockManager {
    LockManager::builder().url(format!("etcd://{address}")).ttl(ttl).timeout(PATIENCE).build().wait().unwrap()
}

type Kind = (&'static str, fn(LockRequest) -> LockRequest);

const KINDS: [Kind; 4] = [
    ("exclusive", |request| request),
    ("shared", LockRequest::shared),
    ("isolated", LockRequest::isolated),
    ("a slot", |request| request.limit(1)),
];

/// The names of the claims of the key, oldest first.
fn claims(etcd: &Etcd, key: &str) -> Vec<String> {
    let prefix = format!("leasehold/{key}/");
    let names = etcd.etcdctl(&["get", "--prefix", "--keys-only", "--sort-by=CREATE", &prefix]);
    names.lines().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Waits until another manager waits for the key, has the claim ahead of it removed, and waits for its grant.
fn succeed(etcd: &Etcd, next: &LockManager, remove: impl FnOnce(&str)) -> LockGuard {
    let waiting = in_the_background(next.lock("k"));
    eventually("the next one waits", || (claims(etcd, "k").len() == 2).then_some(()));
    remove(&claims(etcd, "k")[0]);
    waiting.recv_timeout(PATIENCE).unwrap().0
}

fn is_refused(unlocked: leasehold::Result<()>, what: &str) {
    let error = unlocked.expect_err(what);
    assert!(matches!(error, LockError::Expired { cause: Loss::Revoked, .. }), "{what}: {error:?}");
    assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some("k")), "{what}");
}

/// A clock that can be stopped for good.
#[derive(Clone, Debug, Default)]
struct Stopwatch(Arc<OnceLock<Timestamp>>);

impl Stopwatch {
    fn stop(&self) {
        self.0.get_or_init(|| SystemClock.now());
    }
}

impl Clock for Stopwatch {
    fn now(&self) -> Timestamp {
        self.0.get().copied().unwrap_or_else(|| SystemClock.now())
    }
}

#[test]
fn an_unlock_of_a_lock_that_was_removed_says_so() {
    let etcd = Etcd::start();
    let (ours, next) = (manager(etcd.address(), PATIENCE), manager(etcd.address(), PATIENCE));
    for (kind, of_kind) in KINDS {
        for by in ["deleting its claim", "revoking its lease"] {
            for _ in 0..5 {
                let guard = of_kind(ours.lock("k")).wait().unwrap();
                let next = succeed(&etcd, &next, |claim| {
                    let lease = claim.rsplit('/').next().and_then(|name| name.split('-').next()).unwrap();
                    match by {
                        "deleting its claim" => assert_eq!(etcd.etcdctl(&["del", claim]).trim(), "1"),
                        _ => drop(etcd.etcdctl(&["lease", "revoke", lease])),
                    }
                });
                is_refused(guard.unlock().wait(), &format!("{kind}, by {by}"));
                assert_eq!(claims(&etcd, "k").len(), 1, "the successor keeps its lock");
                next.unlock().wait().unwrap();
            }
        }
    }
    assert_eq!(ours.stats().lost, 4 * 2 * 5);
}

/// Its lease has ended on the server, but not by the holder's clock, which has stood still.
#[test]
fn an_unlock_after_its_lease_has_expired_unnoticed_says_so() {
    for (kind, of_kind) in KINDS {
        let etcd = Etcd::start();
        let (proxy, next) = (Proxy::start(etcd.address()), manager(etcd.address(), PATIENCE));
        let url = format!("etcd://{}", proxy.address());
        let clock = Stopwatch::default();
        let builder = LockManager::builder().url(url).ttl(TTL).timeout(PATIENCE).clock(clock.clone());
        let ours = builder.build().wait().unwrap();
        let guard = of_kind(ours.lock("k")).wait().unwrap();
        proxy.hold_answers();
        clock.stop();
        // Its lease ends when its TTL is over.
        let next = succeed(&etcd, &next, |_| ());
        assert!(!guard.is_lost(), "{kind}: not yet");
        let requested = proxy.requested();
        let unlocking = std::thread::spawn(move || guard.unlock().wait());
        eventually("the release was sent", || (proxy.requested() > requested).then_some(()));
        proxy.heal();
        is_refused(unlocking.join().unwrap(), kind);
        assert_eq!(claims(&etcd, "k").len(), 1, "the successor keeps its lock");
        next.unlock().wait().unwrap();
    }
}

#[test]
fn an_unlock_after_the_process_stood_still_says_so() {
    let etcd = Etcd::start();
    let next = manager(etcd.address(), PATIENCE);
    for (number, (kind, _)) in KINDS.iter().enumerate() {
        let address = etcd.address().to_string();
        let mut holder = Child::of_this_test("releases::unlocks_when_told", &[&address, &number.to_string()]);
        holder.expect("held");
        let next = succeed(&etcd, &next, |_| holder.process.stop());
        // Ready before it continues, so the unlock is the first thing that it does.
        holder.send("unlock");
        holder.process.resume();
        assert_eq!(holder.said(), "LOCK_EXPIRED", "{kind}");
        assert!(holder.finish() && !next.is_lost());
        assert_eq!(claims(&etcd, "k").len(), 1, "the successor keeps its lock");
        next.unlock().wait().unwrap();
    }
}

#[test]
#[ignore = "a child of another test"]
fn unlocks_when_told() {
    let Some(arguments) = child::role() else { return };
    let of_kind = KINDS[arguments[1].parse::<usize>().unwrap()].1;
    let guard = of_kind(manager(&arguments[0], TTL).lock("k")).wait().unwrap();
    child::say("held");
    child::hear();
    child::say(guard.unlock().wait().map_or_else(|error| error.code(), |()| "unlocked"));
}

#[test]
fn an_unlock_whose_answer_was_lost_is_an_unlock() {
    for (kind, of_kind) in KINDS {
        let etcd = Etcd::start();
        let proxy = Proxy::start(etcd.address());
        let next = manager(etcd.address(), PATIENCE);
        let builder = LockManager::builder().url(format!("etcd://{}", proxy.address())).ttl(PATIENCE);
        let ours = builder.timeout(Duration::from_secs(2)).build().wait().unwrap();
        let guard = of_kind(ours.lock("k")).wait().unwrap();
        proxy.drop_answers(true);
        let unlocking = std::thread::spawn(move || guard.unlock().wait());
        let next = next.lock("k").timeout(PATIENCE).wait().unwrap();
        proxy.drop_answers(false);
        unlocking.join().unwrap().unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert!(!next.is_lost());
        next.unlock().wait().unwrap();
    }
}
