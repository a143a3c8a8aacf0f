//! Leasehold and `etcdctl lock` exclude each other and share one queue, and an administrator can use etcdctl on leasehold's locks.

use std::time::{Duration, Instant};

use leasehold::{LockError, LockManager, Loss, Mode};
use rustix::process::Signal;
use support::child::Child;
use support::etcd::Etcd;
use support::{PATIENCE, eventually, in_the_background, lost_since};

/// The limit for an immediate notification, on a busy machine.
const NOTIFIED: Duration = Duration::from_secs(2);

/// A manager without a prefix, so that its keys are etcdctl's.
fn manager(etcd: &Etcd, name: &str) -> LockManager {
    LockManager::builder().url(format!("{}?prefix=", etcd.url())).name(name).build().wait().unwrap()
}

/// An `etcdctl lock` that holds the lock, or waits for it.
struct Etcdctl(Child);

impl Etcdctl {
    fn lock(etcd: &Etcd, key: &str) -> Self {
        let endpoint = format!("--endpoints={}", etcd.endpoint());
        Self(Child::start("etcdctl".into(), |command| {
            command.env("ETCDCTL_API", "3").args([&endpoint, "lock", "--ttl=10", key]);
        }))
    }

    /// Waits until it holds the lock: it prints its key then.
    fn has_it(&mut self, key: &str) {
        assert!(self.0.line_with(&format!("{key}/")).len() >= 8);
    }

    fn waits(&mut self) -> bool {
        self.0.line_within(Duration::from_millis(100)).is_none()
    }

    /// Makes it unlock and end.
    fn unlock(self) {
        self.0.process.signal(Signal::INT);
        assert!(self.0.finish());
    }
}

fn has_claims(etcd: &Etcd, key: &str, count: usize) {
    eventually(&format!("{count} claims of {key}"), || (etcd.keys(&format!("{key}/")).len() == count).then_some(()));
}

/// The lease of leasehold's only claim of the key, from the claim's name.
fn lease_of(etcd: &Etcd, key: &str) -> String {
    let [claim] = &etcd.keys(&format!("{key}/"))[..] else { panic!("not one claim") };
    let lease = claim.rsplit('/').next().and_then(|name| name.split('-').next()).unwrap().to_owned();
    assert!(etcd.leases().iter().any(|known| known.trim_start_matches('0') == lease), "{lease} is not a lease");
    lease
}

#[test]
fn etcdctl_waits_for_leasehold_and_gets_the_lock_after_it() {
    let etcd = Etcd::start();
    let ours = manager(&etcd, "ours");
    let guard = ours.lock("job").wait().unwrap();
    let mut theirs = Etcdctl::lock(&etcd, "job");
    has_claims(&etcd, "job", 2);
    assert!(theirs.waits());
    assert_eq!(ours.info("job").wait().unwrap().unwrap().waiters, 1);
    guard.unlock().wait().unwrap();
    theirs.has_it("job");
    assert!(ours.try_lock("job").wait().unwrap().is_none());
    theirs.unlock();
    drop(ours.try_lock("job").wait().unwrap().expect("free"));
}

#[test]
fn leasehold_waits_for_etcdctl_and_gets_the_lock_after_it() {
    let etcd = Etcd::start();
    let (one, two) = (manager(&etcd, "one"), manager(&etcd, "two"));
    let mut theirs = Etcdctl::lock(&etcd, "job");
    theirs.has_it("job");
    for request in [one.lock("job"), one.lock("job").shared()] {
        assert!(request.try_once().wait().unwrap().is_none());
    }
    let error = one.lock("job").shared().timeout(Duration::from_millis(200)).wait().unwrap_err();
    assert_eq!(error.code(), "LOCK_TIMEOUT");
    let first = in_the_background(one.lock("job"));
    has_claims(&etcd, "job", 2);
    let second = in_the_background(two.lock("job"));
    has_claims(&etcd, "job", 3);
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    let start = Instant::now();
    theirs.unlock();
    let guard = first.recv_timeout(PATIENCE).unwrap().0;
    println!("woken within {:?} of the signal", start.elapsed());
    assert!(second.try_recv().is_err());
    let token = guard.token();
    drop(guard);
    assert!(second.recv_timeout(PATIENCE).unwrap().0.token() > token);
}

#[test]
fn a_mixed_queue_is_served_first_come_first_served() {
    let etcd = Etcd::start();
    let managers = ["one", "two", "three"].map(|name| manager(&etcd, name));
    let first = managers[0].lock("job").wait().unwrap();
    // etcdctl, leasehold, etcdctl, leasehold.
    let mut second = Etcdctl::lock(&etcd, "job");
    has_claims(&etcd, "job", 2);
    let third = in_the_background(managers[1].lock("job"));
    has_claims(&etcd, "job", 3);
    let mut fourth = Etcdctl::lock(&etcd, "job");
    has_claims(&etcd, "job", 4);
    let fifth = in_the_background(managers[2].lock("job"));
    has_claims(&etcd, "job", 5);

    drop(first);
    second.has_it("job");
    assert!(third.try_recv().is_err() && fourth.waits() && fifth.try_recv().is_err());
    second.unlock();
    let third = third.recv_timeout(PATIENCE).unwrap().0;
    assert!(fourth.waits() && fifth.try_recv().is_err());
    third.unlock().wait().unwrap();
    fourth.has_it("job");
    assert!(fifth.try_recv().is_err());
    fourth.unlock();
    drop(fifth.recv_timeout(PATIENCE).unwrap().0);
    has_claims(&etcd, "job", 0);
}

#[test]
fn an_etcdctl_holder_is_shown_as_foreign() {
    let etcd = Etcd::start();
    let ours = manager(&etcd, "ours");
    let _other = ours.lock("jobs").wait().unwrap();
    let mut theirs = Etcdctl::lock(&etcd, "job");
    theirs.has_it("job");
    let info = ours.info("job").wait().unwrap().unwrap();
    assert!(info.foreign, "{info:?}");
    assert_eq!((info.key.as_str(), info.mode, info.waiters, info.since), ("job", Mode::Exclusive, 0, None));
    let left = info.remaining.expect("it has a lease");
    assert!(left <= Duration::from_secs(10) && left > Duration::ZERO, "{left:?}");
    let listed = ours.list("").wait().unwrap();
    let shown: Vec<_> = listed.iter().map(|info| (info.key.as_str(), info.foreign)).collect();
    assert_eq!(shown, [("job", true), ("jobs", false)]);
    theirs.unlock();
    assert_eq!(ours.info("job").wait().unwrap(), None);
}

#[test]
fn a_lease_revoked_by_etcdctl_is_lost_at_once() {
    let etcd = Etcd::start();
    let ours = manager(&etcd, "ours");
    for _ in 0..3 {
        let (guard, also) = (ours.lock("job").wait().unwrap(), ours.lock("also").wait().unwrap());
        let isolated = ours.lock("alone").isolated().wait().unwrap();
        let lease = lease_of(&etcd, "job");
        assert_eq!(lease, lease_of(&etcd, "also"));
        let start = Instant::now();
        etcd.etcdctl(&["lease", "revoke", &lease]);
        println!("etcdctl took {:?}", start.elapsed());
        let (loss, took) = lost_since(&guard, start);
        assert!(loss == Loss::Revoked && took < NOTIFIED, "{loss:?} after {took:?}");
        assert_eq!(lost_since(&also, start).0, Loss::Revoked);
        assert!(!isolated.is_lost());
        let error = guard.unlock().wait().unwrap_err();
        assert!(matches!(error, LockError::Expired { cause: Loss::Revoked, .. }), "{error:?}");
        isolated.unlock().wait().unwrap();
    }
}

#[test]
fn a_claim_that_etcdctl_deletes_is_lost_at_once_and_alone() {
    let etcd = Etcd::start();
    let (ours, other) = (manager(&etcd, "ours"), manager(&etcd, "other"));
    for _ in 0..3 {
        let (guard, also) = (ours.lock("job").wait().unwrap(), ours.lock("also").wait().unwrap());
        let token = guard.token();
        let waiting = in_the_background(other.lock("job"));
        has_claims(&etcd, "job", 2);
        let [claim] = &etcd.keys(&format!("job/{}", lease_of(&etcd, "also")))[..] else { panic!("not one claim") };
        let start = Instant::now();
        etcd.etcdctl(&["del", claim]);
        let (loss, took) = lost_since(&guard, start);
        assert!(loss == Loss::Revoked && took < NOTIFIED, "{loss:?} after {took:?}");
        assert!(!also.is_lost());
        let successor = waiting.recv_timeout(PATIENCE).unwrap().0;
        assert!(successor.token() > token);
        // Late requests of the previous holder have no effect on the present one.
        drop(guard);
        assert_eq!(also.unlock().wait().map_err(|error| error.code()), Ok(()));
        assert!(!successor.is_lost());
        successor.unlock().wait().unwrap();
    }
}

#[test]
fn an_etcdctl_holder_can_be_forced_out() {
    let etcd = Etcd::start();
    let ours = manager(&etcd, "ours");
    let mut theirs = Etcdctl::lock(&etcd, "job");
    theirs.has_it("job");
    let eviction = ours.force_unlock("job").wait().unwrap();
    assert_eq!(eviction.released, ["job"]);
    assert_eq!(eviction.holders.len(), 1);
    // Its session has ended: it exits with an error.
    assert!(!theirs.0.finish());
    drop(ours.try_lock("job").wait().unwrap().expect("free"));

    // Only the key: its session continues.
    let mut theirs = Etcdctl::lock(&etcd, "job");
    theirs.has_it("job");
    let eviction = ours.force_unlock("job").key_only().wait().unwrap();
    assert_eq!(eviction.released, ["job"]);
    let guard = ours.try_lock("job").wait().unwrap().expect("free");
    theirs.unlock();
    assert!(!guard.is_lost() && ours.info("job").wait().unwrap().is_some());
    assert_eq!(ours.force_unlock("nobody's").wait().unwrap().released, [""; 0]);
}

#[test]
fn nothing_is_left_behind() {
    let etcd = Etcd::start();
    let url = format!("{}?prefix=tidy/", etcd.url());
    let managers = [0, 1].map(|_| LockManager::connect(&url).wait().unwrap());
    let threads: Vec<_> = (0..8)
        .map(|n| {
            let manager = managers[n % 2].clone();
            std::thread::spawn(move || {
                for round in 0..4 {
                    let request = manager.lock(format!("k{}", (n + round) % 3));
                    let request = if n % 4 == 0 { request.shared() } else { request };
                    let request = if n % 3 == 0 { request.isolated() } else { request };
                    let guard = request.ttl(Duration::from_secs(10 + n as u64 % 2)).wait().unwrap();
                    drop(manager.lock(guard.key()).timeout(Duration::from_millis(5)).wait());
                    drop(guard);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let is_record = |name: &String| name.starts_with("tidy/%session/");
    eventually("only the sessions' records are left", || etcd.keys("").iter().all(is_record).then_some(()));
    // Two managers with two TTLs each.
    eventually("only the sessions are left", || (etcd.leases().len() <= 4).then_some(()));
    let start = Instant::now();
    drop(managers);
    println!("the managers' drop took {:?}", start.elapsed());
    eventually("no lease is left", || etcd.leases().is_empty().then_some(()));
    println!("no lease {:?} after the drop began", start.elapsed());
    assert_eq!(etcd.keys(""), [""; 0]);
}
