//! Corner cases of the engine: between a grant and its fetch, at refusals, at the end of a manager.

use std::future::{Future, IntoFuture};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use leasehold::backend::{
    Backend, BackendError, BoxFuture, Claim, ErrorKind, Event, Evict, Grant, Lease, LeaseId, LeaseScope, Result, Wait,
};
use leasehold::testing::{MemoryLink, MemoryStore};
use leasehold::{Eviction, LockError, LockGuard, LockInfo, LockManager, Lost, Owner};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(3);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A link that is slow or refuses on demand.
#[derive(Debug)]
struct FlakyBackend {
    link: MemoryLink,
    slow_open: AtomicBool,
    opening: Notify,
    go: Notify,
    no_sessions: AtomicBool,
    deny_key: Mutex<Option<String>>,
    deny_releases: AtomicUsize,
    opened: AtomicUsize,
    revoked: Mutex<Vec<LeaseId>>,
    slow_revoke: AtomicBool,
    inspected: AtomicUsize,
    closed: AtomicBool,
}

impl FlakyBackend {
    fn new(store: &MemoryStore) -> Arc<Self> {
        Arc::new(Self {
            link: store.link(),
            slow_open: AtomicBool::new(false),
            opening: Notify::new(),
            go: Notify::new(),
            no_sessions: AtomicBool::new(false),
            deny_key: Mutex::new(None),
            deny_releases: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            revoked: Mutex::default(),
            slow_revoke: AtomicBool::new(false),
            inspected: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        })
    }

    fn denied(&self, key: &str) -> bool {
        self.deny_key.lock().unwrap().as_deref() == Some(key)
    }
}

fn denied<T>() -> Result<T> {
    Err(BackendError::new(ErrorKind::Denied, "no permission"))
}

impl Backend for FlakyBackend {
    fn kind(&self) -> &'static str {
        "flaky"
    }
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        Box::pin(async move {
            if self.slow_open.load(SeqCst) {
                self.opening.notify_one();
                self.go.notified().await;
            }
            self.opened.fetch_add(1, SeqCst);
            let scope = if self.no_sessions.load(SeqCst) { LeaseScope::Claim } else { scope };
            self.link.open(ttl, scope).await
        })
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        self.link.renew(leases)
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.slow_revoke.load(SeqCst) {
                sleep(ms(200)).await;
            }
            self.revoked.lock().unwrap().push(lease.id);
            self.link.revoke(lease).await
        })
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        if self.denied(&claim.key) {
            return Box::pin(async { denied() });
        }
        self.link.acquire(claim, wait)
    }
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        if self.denied(&claim.key) {
            return Box::pin(async { denied() });
        }
        self.link.abort(claim)
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        if self.deny_releases.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Box::pin(async { denied() });
        }
        self.link.release(grant)
    }
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        self.link.next_event()
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        self.inspected.fetch_add(1, SeqCst);
        self.link.inspect(key)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        self.link.list(prefix)
    }
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        self.link.evict(key, evict)
    }
    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.link.ping()
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.closed.store(true, SeqCst);
        self.link.close()
    }
}

async fn flaky(store: &MemoryStore) -> (Arc<FlakyBackend>, LockManager) {
    let flaky = FlakyBackend::new(store);
    let manager = LockManager::builder().backend(flaky.clone()).build().await.unwrap();
    (flaky, manager)
}

async fn plain(store: &MemoryStore) -> LockManager {
    LockManager::builder().backend(store.link()).build().await.unwrap()
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A waker that runs a closure when it is woken or dropped: like an executor that runs tasks inline, or whose task ends with its last
/// waker.
struct Trap(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Trap {
    fn waker(run: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Self(Mutex::new(Some(Box::new(run))))))
    }
    fn spring(&self) {
        let run = self.0.lock().unwrap().take();
        if let Some(run) = run {
            run();
        }
    }
}

impl Wake for Trap {
    fn wake(self: Arc<Self>) {
        self.spring();
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        self.spring();
    }
}

fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, all_done) = mpsc::channel();
    std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    all_done.recv_timeout(limit).expect("deadlock");
}

fn listen(lost: &mut Lost, waker: &Waker) {
    assert!(std::pin::Pin::new(lost).poll(&mut Context::from_waker(waker)).is_pending());
}

#[tokio::test]
async fn close_wakes_a_waiter_for_a_handover() {
    let manager = LockManager::builder().hand_over(Duration::from_secs(60), 1000).build().await.unwrap();
    let _guard = manager.lock("k").await.unwrap();
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(manager.lock("k").into_future())).collect();
    sleep(ms(50)).await;
    manager.close().await.unwrap();
    for waiter in waiting {
        let closed = timeout(SOON, waiter).await.expect("it was never woken").unwrap().unwrap_err();
        assert_eq!(closed.code(), "CLOSED");
    }
}

#[test]
fn first_locks_at_the_same_time_share_one_session() {
    const THREADS: usize = 8;
    let store = MemoryStore::new();
    for round in 0..200 {
        let flaky = FlakyBackend::new(&store);
        let manager = LockManager::builder().backend(flaky.clone()).build().wait().unwrap();
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (manager, start) = (&manager, &start);
                scope.spawn(move || {
                    start.wait();
                    manager.lock(format!("{round}/{thread}")).wait().unwrap().unlock().wait().unwrap();
                });
            }
        });
        let begun = Instant::now();
        while flaky.opened.load(SeqCst) - flaky.revoked.lock().unwrap().len() != 1 {
            let (opened, revoked) = (flaky.opened.load(SeqCst), flaky.revoked.lock().unwrap().len());
            assert!(begun.elapsed() < SOON, "{opened} sessions opened, {revoked} ended");
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_thousand_timeouts_at_once_look_up_the_holder_once() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    let holder = LockManager::builder().backend(store.link()).name("the holder").build().await.unwrap();
    let _held = holder.lock("k").await.unwrap();
    let waiting: Vec<_> = (0..1000).map(|_| tokio::spawn(manager.lock("k").timeout(SOON).into_future())).collect();
    for waiter in waiting {
        let error = waiter.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("held by the holder"), "{error}");
    }
    assert_eq!(flaky.inspected.load(SeqCst), 1);
}

#[tokio::test]
async fn local_waiters_keep_their_order() {
    let store = MemoryStore::new();
    let (a, b) = (plain(&store).await, plain(&store).await);
    let held = b.lock("k").await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let queue = |manager: &LockManager, name: &'static str| {
        let (request, order) = (manager.lock("k").into_future(), order.clone());
        tokio::spawn(async move {
            let guard = request.await.unwrap();
            order.lock().unwrap().push(name);
            sleep(ms(300)).await;
            drop(guard);
        })
    };
    let first = queue(&a, "first");
    sleep(ms(20)).await;
    let second = queue(&a, "second");
    sleep(ms(20)).await;
    drop(held);
    sleep(ms(200)).await;
    let third = queue(&b, "third");
    for task in [first, second, third] {
        timeout(SOON, task).await.unwrap().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["first", "second", "third"]);
}

#[tokio::test]
async fn a_claim_removed_before_its_grant_was_fetched_is_lost() {
    let store = MemoryStore::new();
    let (a, b) = (plain(&store).await, plain(&store).await);
    let held = b.lock("k").await.unwrap();
    let mut waiting = a.lock("k").into_future();
    assert!(poll_once(&mut waiting).is_pending());
    held.unlock().await.unwrap();
    b.force_unlock("k").key_only().await.unwrap();
    sleep(ms(50)).await;
    let _other = timeout(SOON, b.lock("k")).await.unwrap().unwrap();
    if let Poll::Ready(got) = poll_once(&mut waiting) {
        let guard = got.unwrap();
        sleep(ms(200)).await;
        assert!(guard.is_lost(), "two hold the key");
    }
}

#[tokio::test]
async fn a_refused_key_is_refused_again_at_once() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    *flaky.deny_key.lock().unwrap() = Some("k".into());
    for _ in 0..3 {
        let refused = timeout(SOON, manager.lock("k")).await.expect("it fails fast").unwrap_err();
        assert_eq!(refused.code(), "BACKEND");
        let refused = timeout(SOON, manager.try_lock("k")).await.expect("it fails fast").unwrap_err();
        assert!(matches!(refused, LockError::Backend { kind: ErrorKind::Denied, .. }), "{refused:?}");
    }
    *flaky.deny_key.lock().unwrap() = None;
    drop(timeout(SOON, manager.lock("k")).await.unwrap().unwrap());
}

#[tokio::test]
async fn a_release_that_was_refused_is_tried_again() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    let other = plain(&store).await;
    flaky.deny_releases.store(2, SeqCst);
    drop(manager.lock("k").await.unwrap());
    drop(timeout(SOON, other.lock("k")).await.expect("the claim stays on a live session").unwrap());
    flaky.deny_releases.store(1, SeqCst);
    let error = manager.lock("k").await.unwrap().unlock().await.unwrap_err();
    assert_eq!(error.code(), "BACKEND");
    drop(timeout(SOON, other.lock("k")).await.expect("the claim stays on a live session").unwrap());
}

#[tokio::test]
async fn a_session_that_ended_in_silence_is_replaced_by_the_next_lock() {
    let store = MemoryStore::new();
    let manager = plain(&store).await;
    let old = manager.lock("old").await.unwrap();
    store.expire("old");
    drop(timeout(SOON, manager.lock("k")).await.expect("the server can be reached").unwrap());
    assert!(old.is_lost());
    let old = manager.lock("old").await.unwrap();
    store.expire("old");
    drop(timeout(SOON, manager.try_lock("k")).await.expect("the server can be reached").unwrap().unwrap());
    assert!(old.is_lost());
}

#[tokio::test]
async fn a_lease_opened_for_a_cancelled_request_is_ended() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    flaky.slow_open.store(true, SeqCst);
    let mut waiting = manager.lock("k").isolated().into_future();
    assert!(poll_once(&mut waiting).is_pending());
    flaky.opening.notified().await;
    flaky.slow_open.store(false, SeqCst);
    flaky.go.notify_waiters();
    flaky.go.notify_one();
    sleep(ms(100)).await;
    drop(waiting);
    sleep(ms(200)).await;
    let (opened, revoked) = (flaky.opened.load(SeqCst), flaky.revoked.lock().unwrap().len());
    assert_eq!(opened, revoked, "a lease without a claim is kept");
}

#[tokio::test]
async fn an_isolated_lock_opens_one_lease() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    flaky.slow_open.store(true, SeqCst);
    let waiting = tokio::spawn(manager.lock("k").isolated().into_future());
    for _ in 0..3 {
        sleep(ms(30)).await;
        flaky.go.notify_waiters();
    }
    drop(timeout(SOON, waiting).await.unwrap().unwrap().unwrap());
    assert_eq!(flaky.opened.load(SeqCst), 1);
}

#[tokio::test]
async fn a_backend_without_sessions_may_open_slowly() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    flaky.no_sessions.store(true, SeqCst);
    flaky.slow_open.store(true, SeqCst);
    let pump = tokio::spawn({
        let flaky = flaky.clone();
        async move {
            loop {
                flaky.go.notify_waiters();
                sleep(ms(5)).await;
            }
        }
    });
    for round in 0..3 {
        let guard = timeout(SOON, manager.lock("k")).await.unwrap_or_else(|_| panic!("round {round}")).unwrap();
        guard.unlock().await.unwrap();
    }
    let both = tokio::join!(
        timeout(SOON, manager.lock("a").owner(&Owner::new())),
        timeout(SOON, manager.lock("b").owner(&Owner::new()))
    );
    let (a, b) = (both.0.unwrap().unwrap(), both.1.unwrap().unwrap());
    a.unlock().await.unwrap();
    sleep(ms(50)).await;
    assert!(!b.is_lost(), "they shared a lease that is for one claim");
    assert!(manager.info("b").await.unwrap().is_some());
    pump.abort();
}

#[test]
fn depth_is_right_after_concurrent_reentries() {
    let manager = LockManager::memory();
    let owner = Owner::new();
    for _ in 0..3000 {
        let guard = manager.lock("k").owner(&owner).wait().unwrap();
        let more = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..2).map(|_| scope.spawn(|| manager.lock("k").owner(&owner).wait().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(guard.depth(), 3);
        drop(more);
        assert_eq!(guard.depth(), 1);
    }
}

#[tokio::test]
async fn a_renewal_by_the_handle_is_no_share_of_the_hold() {
    let store = MemoryStore::new();
    let link = store.link();
    let manager = LockManager::builder().backend(link.clone()).build().await.unwrap();
    let guard = manager.lock("k").await.unwrap();
    let handle = manager.handle("k").unwrap();
    link.partition();
    let mut renewing = handle.renew();
    let polled = futures::poll!(&mut renewing);
    assert!(polled.is_pending());
    assert_eq!(guard.depth(), 1);
    link.heal();
    guard.unlock().await.unwrap();
    assert!(plain(&store).await.try_lock("k").await.unwrap().is_some(), "unlock() said that it was released");
}

#[test]
fn a_waker_that_runs_inline_may_drop_the_guard_that_was_lost() {
    within(SOON, || {
        let manager = LockManager::memory();
        for _ in 0..5 {
            let guard = manager.lock("k").auto_renew(false).ttl(ms(150)).owner(&Owner::new()).wait().unwrap();
            let mut lost = guard.lost();
            let trap = Trap::waker(move || drop(guard));
            listen(&mut lost, &trap);
            drop(trap);
            let handle = manager.handle("k").unwrap();
            // The first check that finds the loss wakes the listeners.
            while handle.is_held() {}
            drop(lost);
        }
    });
}

#[test]
fn a_waker_that_dies_in_the_queue_may_have_a_guard() {
    within(SOON, || {
        let manager = LockManager::memory();
        let guard: LockGuard = manager.lock("k").wait().unwrap();
        let mut waiting = manager.lock("k").owner(&Owner::new()).into_future();
        let trap = Trap::waker(move || drop(guard));
        assert!(std::pin::Pin::new(&mut waiting).poll(&mut Context::from_waker(&trap)).is_pending());
        drop(trap);
        // Replaces the waker.
        let _ = poll_once(&mut waiting);
        drop(waiting.into_future());
        drop(manager.lock("k").wait().unwrap());
    });
}

#[test]
fn a_waiter_may_be_cancelled_whose_waker_has_a_guard() {
    within(SOON, || {
        let manager = LockManager::memory();
        let guard: LockGuard = manager.lock("k").wait().unwrap();
        let mut waiting = manager.lock("k").owner(&Owner::new()).into_future();
        let trap = Trap::waker(move || drop(guard));
        assert!(std::pin::Pin::new(&mut waiting).poll(&mut Context::from_waker(&trap)).is_pending());
        drop(trap);
        drop(waiting);
        drop(manager.lock("k").wait().unwrap());
    });
}

#[test]
fn a_listener_may_be_dropped_whose_waker_has_another() {
    within(SOON, || {
        let manager = LockManager::memory();
        let guard: LockGuard = manager.lock("k").wait().unwrap();
        let (mut lost, mut inner) = (guard.lost(), guard.lost());
        listen(&mut inner, Waker::noop());
        let trap = Trap::waker(move || drop(inner));
        listen(&mut lost, &trap);
        drop(trap);
        drop(lost);
    });
}

#[tokio::test]
async fn unlock_ends_at_the_deadline_though_the_server_is_silent() {
    let store = MemoryStore::new();
    let link = store.link();
    let manager = LockManager::builder().backend(link.clone()).ttl(ms(300)).build().await.unwrap();
    let guard = manager.lock("k").await.unwrap();
    link.partition();
    let start = Instant::now();
    let lost = timeout(SOON, guard.unlock()).await.expect("it ends at the deadline").unwrap_err();
    assert_eq!(lost.code(), "LOCK_EXPIRED");
    assert!(start.elapsed() < ms(600));
}

#[tokio::test]
async fn a_dropped_close_continues() {
    let store = MemoryStore::new();
    let (flaky, manager) = flaky(&store).await;
    let guard = manager.lock("k").await.unwrap();
    flaky.slow_revoke.store(true, SeqCst);
    assert!(timeout(ms(20), manager.close()).await.is_err());
    drop((guard, manager));
    sleep(ms(600)).await;
    assert!(flaky.closed.load(SeqCst), "the backend was never closed");
}

#[tokio::test]
async fn a_manager_may_be_dropped_on_the_keeper() {
    let store = MemoryStore::new();
    let (_moody, manager) = flaky(&store).await;
    let guard = manager.lock("k").auto_renew(false).ttl(ms(150)).await.unwrap();
    let mut lost = guard.lost();
    let took = Arc::new(Mutex::new(None));
    let recorder = took.clone();
    let doomed = LockManager::memory();
    drop(doomed.lock("k").await.unwrap());
    let trap = Trap::waker(move || {
        let start = Instant::now();
        drop(doomed);
        *recorder.lock().unwrap() = Some(start.elapsed());
    });
    listen(&mut lost, &trap);
    drop(trap);
    sleep(ms(1800)).await;
    let took = took.lock().unwrap().expect("the loss is notified");
    assert!(took < ms(300), "the keeper was blocked for {took:?}");
}

#[tokio::test]
async fn close_leaves_the_backend_open_until_all_is_cleaned_up() {
    let store = MemoryStore::new();
    let flaky = FlakyBackend::new(&store);
    let manager = LockManager::builder().backend(flaky.clone()).timeout(ms(100)).build().await.unwrap();
    let _guard = manager.lock("k").await.unwrap();
    flaky.link.partition();
    assert_eq!(manager.close().await.unwrap_err().code(), "BACKEND");
    assert!(!flaky.closed.load(SeqCst), "closed while a lease was being revoked");
    flaky.link.heal();
    let other = plain(&store).await;
    drop(timeout(SOON, other.lock("k")).await.expect("it is revoked in the end").unwrap());
    sleep(ms(300)).await;
    assert!(flaky.closed.load(SeqCst));
}
