//! Many holds that end at the same time: the cost is in proportion, and each is notified in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use leasehold::testing::MemoryStore;
use leasehold::{LockGuard, LockManager, LockRequest, Loss, Owner};
use support::eventually;

const HOLDS: usize = 10_000;
/// The documented limit in an optimized build; a debug build on a busy machine gets more.
const IN_TIME: Duration = if cfg!(debug_assertions) { Duration::from_millis(1500) } else { Duration::from_millis(100) };

/// A manager on another store, whose holds must not suffer.
struct Bystander(LockGuard);

impl Bystander {
    fn new() -> Self {
        let manager = LockManager::builder()
            .ttl(if cfg!(debug_assertions) { Duration::from_secs(2) } else { Duration::from_millis(300) })
            .build()
            .wait()
            .unwrap();
        Self(manager.lock("k").wait().unwrap())
    }

    fn check(&self) {
        assert!(!self.0.is_lost(), "another manager lost its hold");
    }
}

fn hold(manager: &LockManager, request: impl Fn(LockRequest) -> LockRequest) -> Vec<LockGuard> {
    let owner = Owner::new();
    (0..HOLDS).map(|n| request(manager.lock(format!("k{n}"))).owner(&owner).wait().unwrap()).collect()
}

/// Waits for all losses; returns how long after `due` the last was notified, as the tasks saw it.
fn all_lost(guards: &[LockGuard], due: impl Fn() -> Instant) -> (Duration, Vec<Loss>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let polled = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = guards
            .iter()
            .map(|guard| {
                let (mut lost, polled) = (guard.lost(), polled.clone());
                tokio::spawn(async move {
                    assert!(futures::poll!(&mut lost).is_pending(), "lost before its time");
                    polled.fetch_add(1, Ordering::SeqCst);
                    (lost.await, Instant::now())
                })
            })
            .collect();
        while polled.load(Ordering::SeqCst) < guards.len() {
            tokio::task::yield_now().await;
        }
        let due = due();
        let lost = join_all(tasks).await.into_iter().map(Result::unwrap);
        let (causes, times): (Vec<_>, Vec<_>) = lost.unzip();
        let last: Instant = times.into_iter().max().unwrap();
        (last.saturating_duration_since(due), causes)
    })
}

#[test]
fn separate_leases_that_end_together_are_notified_at_once() {
    let _alone = crate::ALONE.blocking_lock();
    let bystander = Bystander::new();
    let terms: [fn(LockRequest) -> LockRequest; 3] = [
        |request| request.isolated(),
        |request| request.auto_renew(false),
        |request| request.max_hold(Duration::from_secs(3600)),
    ];
    for (place, terms) in terms.into_iter().enumerate() {
        let store = MemoryStore::new();
        let manager = LockManager::builder().backend(store.link()).ttl(Duration::from_secs(8)).build().wait().unwrap();
        let guards = hold(&manager, terms);
        store.pause();
        let due = || Instant::now() + guards.iter().map(LockGuard::remaining).max().unwrap();
        let (late, causes) = all_lost(&guards, due);
        println!("case {place}: the last loss was notified {late:?} after the last deadline");
        assert!(late < IN_TIME, "{late:?}");
        assert!(causes.iter().all(|cause| matches!(cause, Loss::Expired | Loss::Unreachable)));
        bystander.check();
        store.resume();
        drop(guards);
        manager.close().wait().unwrap();
        bystander.check();
    }
}

#[test]
fn the_end_of_a_session_with_many_holds_is_notified_at_once() {
    let _alone = crate::ALONE.blocking_lock();
    let bystander = Bystander::new();
    let store = MemoryStore::new();
    let manager = LockManager::builder().backend(store.link()).ttl(Duration::from_secs(8)).build().wait().unwrap();
    let guards = hold(&manager, |request| request);
    store.pause();
    let (late, _) = all_lost(&guards, || Instant::now() + guards[0].remaining());
    println!("the last loss was notified {late:?} after the deadline");
    assert!(late < IN_TIME, "{late:?}");
    bystander.check();
    store.resume();
    drop(guards);

    let guards = hold(&manager, |request| request);
    let (late, causes) = all_lost(&guards, || {
        store.revoke("k0");
        Instant::now()
    });
    println!("the last loss was notified {late:?} after the revocation");
    assert!(late < IN_TIME.max(Duration::from_millis(200)), "{late:?}");
    assert!(causes.iter().all(|cause| *cause == Loss::Revoked));
    eventually("all keys are removed", || (manager.stats().held == 0).then_some(()));
    bystander.check();
}
