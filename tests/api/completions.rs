//! Backends that report the outcome of a release late, from another thread, or never.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::backend::{
    Backend, BackendError, BoxFuture, Claim, Completion, ErrorKind, Evict, Grant, Lease, LeaseScope, Result, Wait,
};
use leasehold::{Eviction, LockError, LockInfo, LockManager};
use support::broken::{Broken, Defect};
use support::{PATIENCE, eventually};

/// The manager's timeout, after which an outcome is overdue.
const TIMEOUT: Duration = Duration::from_millis(300);

/// What becomes of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Dropped,
    Kept,
    FromAnotherThread,
    Failed(ErrorKind),
}

/// A sound store, but for the completions.
#[derive(Debug)]
struct Late {
    store: Broken,
    way: Way,
    kept: Mutex<Vec<(Grant, Completion)>>,
}

impl Backend for Late {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        self.store.open(ttl, scope)
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        self.store.renew(leases)
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.store.revoke(lease)
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        self.store.acquire(claim, wait)
    }
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        self.store.abort(claim)
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        self.store.release(grant)
    }
    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        match self.way {
            Way::Dropped => drop(completion),
            Way::Kept => self.kept.lock().unwrap().push((grant.clone(), completion)),
            Way::FromAnotherThread => {
                drop(self.store.release(grant));
                std::thread::spawn(move || completion.complete(Ok(())));
            }
            Way::Failed(kind) => completion.complete(Err(BackendError::new(kind, "as it likes"))),
        }
        None
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        self.store.inspect(key)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        self.store.list(prefix)
    }
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        self.store.evict(key, evict)
    }
    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.store.ping()
    }
}

fn manager(way: Way) -> (LockManager, Arc<Late>) {
    let late = Arc::new(Late { store: Broken::new(Defect::None), way, kept: Mutex::default() });
    let manager = LockManager::builder().backend(late.clone()).timeout(TIMEOUT).build().wait().unwrap();
    (manager, late)
}

/// The key can be locked by another owner, within the time of a test.
fn is_free(manager: &LockManager) {
    let guard = manager.lock("k").owner(&leasehold::Owner::new()).timeout(PATIENCE).wait().unwrap();
    std::mem::forget(guard);
}

#[test]
fn an_outcome_that_is_dropped_or_late_is_asked_for_again() {
    for way in [Way::Dropped, Way::Kept, Way::FromAnotherThread, Way::Failed(ErrorKind::Unreachable)] {
        let (manager, _late) = manager(way);
        manager.lock("k").wait().unwrap().unlock().wait().unwrap();
        assert_eq!(manager.stats().released, 1, "{way:?}");
        // With a lease that ends with it.
        manager.lock("k").isolated().wait().unwrap().unlock().wait().unwrap();
        drop(manager.lock("k").wait().unwrap());
        eventually("the third release", || (manager.stats().released == 3).then_some(()));
        is_free(&manager);
    }
}

#[test]
fn an_outcome_after_the_end_of_its_release_is_not_counted() {
    let (manager, late) = manager(Way::Kept);
    manager.lock("k").wait().unwrap().unlock().wait().unwrap();
    for (_, completion) in late.kept.lock().unwrap().drain(..) {
        completion.complete(Err(BackendError::new(ErrorKind::LeaseLost, "too late")));
    }
    let stats = manager.stats();
    assert_eq!((stats.released, stats.losses.revoked), (1, 0));
}

#[test]
fn a_loss_and_a_refusal_are_reported_and_counted_once() {
    let (manager, _late) = manager(Way::Failed(ErrorKind::LeaseLost));
    let error = manager.lock("k").wait().unwrap().unlock().wait().unwrap_err();
    assert!(matches!(error, LockError::Expired { .. }), "{error}");
    assert_eq!((manager.stats().released, manager.stats().losses.revoked), (0, 1));
    let (manager, _late) = self::manager(Way::Failed(ErrorKind::Denied));
    let error = manager.lock("k").wait().unwrap().unlock().wait().unwrap_err();
    assert_eq!(error.code(), "BACKEND", "{error}");
    is_free(&manager);
}

#[test]
fn a_close_and_the_last_drop_do_not_wait_for_outcomes_that_never_come() {
    let start = Instant::now();
    for closes in [true, false] {
        let (manager, late) = manager(Way::Kept);
        for number in 0..100 {
            drop(manager.lock(format!("k{number}")).wait().unwrap());
        }
        if closes {
            // Its bound is the same as that of the outcomes.
            let closed = manager.close().wait();
            assert!(closed.is_ok() || closed.as_ref().unwrap_err().code() == "BACKEND", "{closed:?}");
        }
        drop(manager);
        // The manager's clean-up goes on, and lets go of the backend.
        late.kept.lock().unwrap().clear();
        eventually("nothing keeps the backend", || (Arc::strong_count(&late) == 1).then_some(()));
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_unlock_that_is_polled_once_and_dropped_is_counted() {
    let (manager, late) = tokio::task::spawn_blocking(|| manager(Way::Kept)).await.unwrap();
    let mut unlock = manager.lock("k").await.unwrap().unlock();
    assert!(futures::poll!(&mut unlock).is_pending());
    drop(unlock);
    for (grant, completion) in late.kept.lock().unwrap().drain(..) {
        drop(late.store.release(&grant));
        completion.complete(Ok(()));
    }
    assert_eq!(manager.stats().released, 1);
    drop(manager.lock("k").timeout(PATIENCE).await.unwrap());
}
