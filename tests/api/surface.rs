//! The public API has the documented signatures, and works in every documented context: tasks, threads, other executors.

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::future::Ready;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use leasehold::backend::{Backend, BackendError, BoxFuture, Claim, Event, Evict, Grant, Lease, LeaseScope, Wait};
use leasehold::testing::MemoryStore;
use leasehold::{
    Acquire, Config, Credentials, CredentialsSource, Eviction, FencingToken, ForceUnlock, Guards, Holder, Lock,
    LockError, LockGuard, LockGuards, LockInfo, LockManager, LockManagerBuilder, LockRequest, Loss, Lost, Mode, Owner,
    Pending, Result, Secret, Stats,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// The documented signatures. It only has to compile.
#[allow(dead_code, clippy::type_complexity)]
mod shapes {
    use super::*;

    const MANAGER: (
        fn() -> LockManager,
        fn(&str) -> Pending<LockManager>,
        fn(String) -> Pending<LockManager>,
        fn() -> LockManagerBuilder,
        fn(&LockManager, &str) -> Result<Lock>,
        fn(&LockManager, &str) -> LockRequest,
        fn(&LockManager, &str) -> Pending<Option<LockGuard>>,
        fn(&LockManager, &[&str]) -> LockRequest<LockGuards>,
        fn(&LockManager, &str) -> Pending<bool>,
        fn(&LockManager, &str) -> Pending<Option<LockInfo>>,
        fn(&LockManager, &str) -> Pending<Vec<LockInfo>>,
        fn(&LockManager, &str) -> ForceUnlock,
        fn(&LockManager) -> Stats,
        fn(&LockManager) -> Pending<Duration>,
        fn(&LockManager) -> Pending<()>,
    ) = (
        LockManager::memory,
        |url| LockManager::connect(url),
        |url| LockManager::connect(url),
        LockManager::builder,
        |manager, key| manager.handle(key),
        |manager, key| manager.lock(key),
        |manager, key| manager.try_lock(key),
        |manager, keys| manager.lock_all(keys),
        |manager, key| manager.is_locked(key),
        |manager, key| manager.info(key),
        |manager, prefix| manager.list(prefix),
        |manager, key| manager.force_unlock(key),
        LockManager::stats,
        LockManager::ping,
        LockManager::close,
    );

    const LOCK: (
        fn(&Lock, &Lock) -> bool,
        fn(&Lock) -> &str,
        fn(&Lock) -> bool,
        fn(&Lock) -> LockRequest,
        fn(&Lock) -> Pending<Option<LockGuard>>,
        fn(&Lock) -> Pending<bool>,
        fn(&Lock) -> Pending<Option<LockInfo>>,
        fn(&Lock) -> Pending<Duration>,
        fn(&Lock) -> ForceUnlock,
    ) = (
        Lock::ptr_eq,
        Lock::key,
        Lock::is_held,
        Lock::lock,
        Lock::try_lock,
        Lock::is_locked,
        Lock::info,
        Lock::renew,
        Lock::force_unlock,
    );

    const REQUEST: (
        fn(LockRequest) -> LockRequest,
        fn(LockRequest, Duration) -> LockRequest,
        fn(LockRequest, Duration) -> LockRequest,
        fn(LockRequest, &Owner) -> LockRequest,
        fn(LockRequest, bool) -> LockRequest,
        fn(LockRequest, Duration) -> LockRequest,
        fn(LockRequest) -> LockRequest,
        fn(LockRequest, Duration) -> LockRequest,
        fn(LockRequest, u32) -> LockRequest,
        fn(LockRequest) -> Result<LockGuard>,
        fn(LockRequest) -> Pending<Option<LockGuard>>,
        fn(LockRequest) -> Acquire,
    ) = (
        LockRequest::shared,
        LockRequest::ttl,
        LockRequest::timeout,
        LockRequest::owner,
        LockRequest::auto_renew,
        LockRequest::max_hold,
        LockRequest::isolated,
        LockRequest::retry_interval,
        LockRequest::max_retries,
        LockRequest::wait,
        LockRequest::try_once,
        LockRequest::into_future,
    );

    const GUARD: (
        fn(&LockGuard) -> &str,
        fn(&LockGuard) -> FencingToken,
        fn(&LockGuard) -> Mode,
        fn(&LockGuard) -> u32,
        fn(&LockGuard) -> Owner,
        fn(&LockGuard) -> bool,
        fn(&LockGuard) -> Duration,
        fn(&LockGuard) -> Lost,
        fn(&LockGuard) -> Result<LockGuard>,
        fn(&LockGuard) -> Pending<Duration>,
        fn(LockGuard) -> Pending<()>,
    ) = (
        LockGuard::key,
        LockGuard::token,
        LockGuard::mode,
        LockGuard::depth,
        LockGuard::owner,
        LockGuard::is_lost,
        LockGuard::remaining,
        LockGuard::lost,
        LockGuard::reenter,
        LockGuard::renew,
        LockGuard::unlock,
    );

    const GUARDS: (
        fn(&LockGuards) -> bool,
        fn(&LockGuards) -> Lost,
        fn(LockGuards) -> Pending<()>,
        fn(&LockGuards) -> &[LockGuard],
        fn(LockGuards) -> std::vec::IntoIter<LockGuard>,
        fn(LockRequest<LockGuards>) -> Result<LockGuards>,
        fn(LockRequest<LockGuards>) -> Pending<Option<LockGuards>>,
        fn(LockRequest<LockGuards>) -> Acquire<LockGuards>,
    ) = (
        LockGuards::is_lost,
        LockGuards::lost,
        LockGuards::unlock,
        |guards| guards,
        LockGuards::into_iter,
        LockRequest::wait,
        LockRequest::try_once,
        LockRequest::into_future,
    );

    /// The returned futures outlive the manager's borrow, and can be spawned.
    fn closures<G: Guards>(manager: &LockManager, key: String, request: LockRequest<G>) -> Result<usize> {
        tokio::spawn(manager.with_lock(key.clone(), async |guard| guard.depth()));
        tokio::spawn(manager.try_with_lock(key.clone(), async move |_guard| key));
        tokio::spawn(manager.lock_all(["a", "b"]).with(async |guards| guards.len()));
        request.wait_with(|_guards| 1)
    }

    const OTHERS: (
        fn(Pending<u8>) -> Result<u8>,
        fn(ForceUnlock) -> ForceUnlock,
        fn(ForceUnlock, &LockInfo) -> ForceUnlock,
        fn(ForceUnlock) -> Result<Eviction>,
        fn() -> Owner,
        fn(u64) -> FencingToken,
        fn(FencingToken) -> u64,
        fn(&FencingToken) -> u64,
        fn(&LockError) -> &'static str,
        fn(&LockError) -> Option<&str>,
    ) = (
        Pending::wait,
        ForceUnlock::key_only,
        ForceUnlock::expecting,
        ForceUnlock::wait,
        Owner::new,
        FencingToken::from,
        FencingToken::into,
        |token| token.get(),
        LockError::code,
        LockError::key,
    );

    const BUILDER: (
        fn(LockManagerBuilder, &str) -> LockManagerBuilder,
        fn(LockManagerBuilder, Arc<dyn Backend>) -> LockManagerBuilder,
        fn(LockManagerBuilder, &str) -> LockManagerBuilder,
        fn(LockManagerBuilder, &str) -> LockManagerBuilder,
        fn(LockManagerBuilder, Duration) -> LockManagerBuilder,
        fn(LockManagerBuilder, Duration) -> LockManagerBuilder,
        fn(LockManagerBuilder, bool) -> LockManagerBuilder,
        fn(LockManagerBuilder, &str, &str) -> LockManagerBuilder,
        fn(LockManagerBuilder, &Path) -> LockManagerBuilder,
        fn(LockManagerBuilder, &CredentialsSource) -> LockManagerBuilder,
        fn(LockManagerBuilder, Config) -> LockManagerBuilder,
        fn(LockManagerBuilder) -> Pending<LockManager>,
    ) = (
        |builder, url| builder.url(url),
        |builder, backend| builder.backend(backend),
        |builder, prefix| builder.prefix(prefix),
        |builder, name| builder.name(name),
        LockManagerBuilder::ttl,
        LockManagerBuilder::max_hold,
        LockManagerBuilder::reentrant,
        |builder, username, password| builder.credentials(username, password),
        |builder, file| builder.password_file(file),
        LockManagerBuilder::credentials_from,
        LockManagerBuilder::config,
        LockManagerBuilder::build,
    );

    const CREDENTIALS: (
        fn(&str, &str) -> Credentials,
        fn(String, Secret) -> Credentials,
        fn(&Credentials) -> &str,
        fn(&Credentials) -> &Secret,
        fn(&Secret) -> &str,
        fn(fn() -> Ready<Result<Credentials, ()>>) -> CredentialsSource,
    ) = (
        |username, password| Credentials::new(username, password),
        |username, password| Credentials::new(username, password),
        Credentials::username,
        Credentials::password,
        Secret::expose,
        |ask| CredentialsSource::new(ask),
    );

    fn facts(info: LockInfo, eviction: Eviction) {
        let _: (String, Mode, Option<FencingToken>) = (info.key, info.mode, info.token);
        let _: (Option<SystemTime>, Option<Duration>) = (info.since, info.remaining);
        let _: (Vec<Holder>, usize, bool) = (info.holders, info.waiters, info.foreign);
        let (holders, _released): (Vec<Holder>, Vec<String>) = (eviction.holders, eviction.released);
        let Holder { name, host, pid, .. } = Holder::clone(&holders[0]);
        let _: (String, String, u32) = (name, host, pid);
    }

    fn losses(loss: Loss) -> bool {
        matches!(loss, Loss::Revoked | Loss::Expired | Loss::Unreachable | Loss::Closed | Loss::MaxHold)
    }
}

#[test]
fn types_can_be_sent_shared_and_kept() {
    fn is_object<T: Debug + Send + Sync + 'static>() {}
    fn is_future<T: Future + Debug + Send + Unpin + 'static>() {}
    fn is_value<T: Debug + Clone + PartialEq + Send + Sync + 'static>() {}
    fn is_number<T: Copy + Ord + Hash + Display + Debug + From<u64> + Into<u64>>() {}
    is_object::<LockManager>();
    is_object::<Lock>();
    is_object::<LockGuard>();
    is_object::<Owner>();
    is_object::<LockError>();
    fn can_be_sent<T: Debug + Send + 'static>() {}
    can_be_sent::<LockRequest>();
    can_be_sent::<ForceUnlock>();
    can_be_sent::<LockManagerBuilder>();
    is_future::<Pending<LockManager>>();
    is_future::<Pending<Option<LockGuard>>>();
    is_future::<Acquire>();
    is_future::<Acquire<LockGuards>>();
    is_future::<Lost>();
    is_object::<LockGuards>();
    is_value::<Mode>();
    is_value::<Loss>();
    is_value::<LockInfo>();
    is_value::<Holder>();
    is_value::<Eviction>();
    is_value::<Owner>();
    is_value::<Config>();
    is_value::<Secret>();
    is_value::<Credentials>();
    is_value::<CredentialsSource>();
    is_value::<Stats>();
    is_number::<FencingToken>();
    fn is_clone<T: Clone>() {}
    is_clone::<LockManager>();
    is_clone::<Lock>();
    is_clone::<Lost>();
    is_clone::<LockError>();
    fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_error::<LockError>();
    let _: Option<Box<dyn Backend>> = None;
    fn is_backend<B: Backend + ?Sized>() {}
    is_backend::<Arc<dyn Backend>>();
}

#[tokio::test]
async fn keys_are_any_text() {
    let manager = LockManager::memory();
    let owned = String::from("k");
    let (borrowed, shared): (&str, Arc<str>) = (&owned, "k".into());
    drop(manager.lock("k").await.unwrap());
    drop(manager.lock(&owned).await.unwrap());
    drop(manager.lock(owned.clone()).await.unwrap());
    #[allow(clippy::needless_borrows_for_generic_args, reason = "it only has to compile")]
    drop(manager.lock(&borrowed).await.unwrap());
    drop(manager.lock(shared.clone()).await.unwrap());
    drop(manager.lock(Cow::Borrowed(borrowed)).await.unwrap());
    drop(manager.lock(Box::<str>::from("k")).await.unwrap());
    // The key is copied: the request outlives it.
    let request = manager.lock(&owned);
    let looked_up = (manager.info(&owned), manager.is_locked(shared), manager.try_lock(&owned));
    drop(owned);
    let guard = request.await.unwrap();
    assert_eq!(guard.key(), "k");
    assert_eq!(looked_up.0.await.unwrap().unwrap().key, "k");
    assert!(looked_up.1.await.unwrap());
    assert_eq!(looked_up.2.await.unwrap().unwrap().depth(), 2);
    assert!(Lock::ptr_eq(&manager.handle("k").unwrap(), &manager.handle(Cow::<str>::Owned("k".into())).unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_work_with_tokios_combinators() {
    let manager = LockManager::memory();
    let guard = tokio::select! {
        guard = manager.lock("k") => guard.unwrap(),
        () = tokio::time::sleep(SOON) => panic!("the lock is free"),
    };
    tokio::select! {
        biased;
        _ = guard.lost() => panic!("the lock is held"),
        depth = async { guard.depth() } => assert_eq!(depth, 1),
    }
    assert!(guard.run(async { 7 }).await.unwrap() == 7);

    // A spawned task is another owner.
    let waiting = tokio::spawn(manager.lock("k").into_future());
    assert!(timeout(Duration::from_millis(20), manager.lock("k").owner(&Owner::new())).await.is_err());
    drop(guard);
    let guard = timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    drop(guard);
    let guard = timeout(SOON, manager.lock("k")).await.unwrap().unwrap();

    let (thread, task) = (manager.clone(), manager.clone());
    let blocked = tokio::task::spawn_blocking(move || thread.lock("k").wait());
    let spawned = tokio::spawn(async move { task.lock("k").shared().timeout(SOON).await.map(|guard| guard.mode()) });
    drop(guard);
    drop(timeout(SOON, blocked).await.unwrap().unwrap().unwrap());
    assert_eq!(timeout(SOON, spawned).await.unwrap().unwrap().unwrap(), Mode::Shared);
    assert_eq!(manager.stats().acquired, 5);

    let (one, two) = tokio::join!(manager.lock("one"), manager.try_lock("two"));
    assert_eq!((one.unwrap().key(), two.unwrap().unwrap().key()), ("one", "two"));
    drop(tokio::task::block_in_place(|| manager.lock("k").wait()).unwrap());
}

#[tokio::test]
async fn requests_work_with_the_combinators_of_futures() {
    let manager = LockManager::memory();
    let many = futures::future::join_all((0..8).map(|n| manager.lock(format!("k{n}")).into_future())).await;
    let guards: Vec<LockGuard> = many.into_iter().map(|guard| guard.unwrap()).collect();
    assert_eq!(manager.stats().held, 8);
    drop(guards);
    let (one, two) = futures::join!(manager.lock("a").into_future(), manager.is_locked("b"));
    assert!(one.unwrap().key() == "a" && !two.unwrap());
    let all = futures::future::try_join_all(["x", "y"].map(|key| manager.lock(key).into_future())).await.unwrap();
    assert_eq!(all.iter().map(|guard| guard.key()).collect::<Vec<_>>(), ["x", "y"]);
    // Futures that can be polled in place.
    let mut acquire = manager.lock("z").into_future();
    let guard = (&mut acquire).await.unwrap();
    let (mut lost, mut ping) = (guard.lost(), manager.ping());
    assert!(futures::poll!(&mut lost).is_pending());
    assert!((&mut ping).await.unwrap() < SOON);
    guard.unlock().await.unwrap();
}

/// Every call that has a `wait()`, in a context where that would block a runtime.
fn is_refused(manager: &LockManager) {
    fn unsupported<T: Debug>(result: Result<T>) {
        let error = result.unwrap_err();
        assert_eq!(error.code(), "UNSUPPORTED");
        assert!(error.to_string().contains(".await"), "{error}");
    }
    unsupported(manager.lock("k").wait());
    unsupported(manager.lock("k").shared().timeout(SOON).wait());
    unsupported(manager.try_lock("k").wait());
    unsupported(manager.info("k").wait());
    unsupported(manager.ping().wait());
    unsupported(manager.force_unlock("k").wait());
    unsupported(manager.close().wait());
    unsupported(LockManager::connect("memory://elsewhere").wait());
}

#[test]
fn waiting_inside_a_runtime_is_refused_and_does_not_hang() {
    let manager = LockManager::memory();
    let held = manager.lock("k").wait().unwrap();
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let single = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for runtime in [&many, &single] {
        runtime.block_on(async { is_refused(&manager) });
        let inside = manager.clone();
        runtime.block_on(async { tokio::spawn(async move { is_refused(&inside) }).await.unwrap() });
        let inside = manager.clone();
        let blocking = runtime.spawn_blocking(move || inside.lock("other").wait().map(|guard| guard.token()));
        assert!(runtime.block_on(blocking).unwrap().unwrap().get() > 0);
        // A thread that can only spawn may block.
        let _entered = runtime.enter();
        drop(manager.lock("other").wait().unwrap());
    }
    let local = tokio::task::LocalSet::new();
    local.block_on(&single, async {
        let inside = manager.clone();
        tokio::task::spawn_local(async move { is_refused(&inside) }).await.unwrap();
    });
    futures::executor::block_on(async { is_refused(&manager) });
    assert!(!held.is_lost());
    held.unlock().wait().unwrap();
    assert_eq!(manager.stats().waiting, 0);
}

#[test]
fn other_executors_work_as_well() {
    let manager = LockManager::memory();
    smol::block_on(async {
        let guard = manager.lock("k").await.unwrap();
        assert_eq!(manager.lock("k").await.unwrap().depth(), 2);
        let waiting = smol::spawn(manager.lock("k").into_future());
        let other = manager.clone();
        assert!(smol::spawn(async move { other.try_lock("k").await }).await.unwrap().is_none());
        drop(guard);
        let guard = waiting.await.unwrap();
        let error = manager.lock("k").timeout(Duration::from_millis(20)).await.unwrap_err();
        assert_eq!((error.code(), error.key()), ("LOCK_TIMEOUT", Some("k")));
        guard.unlock().await.unwrap();
    });
    futures::executor::block_on(async {
        let guard = manager.lock("k").await.unwrap();
        assert!(manager.lock("k").shared().await.unwrap().depth() == 2);
        assert!(guard.renew().await.unwrap() > SOON);
        manager.close().await.unwrap();
        assert_eq!(guard.lost().await, Loss::Closed);
    });
}

#[test]
fn a_plain_thread_can_call_everything() {
    let manager = LockManager::builder().url("memory://api-threads?ttl=10s").name("first").build().wait().unwrap();
    let admin = LockManager::connect("memory://api-threads").wait().unwrap();
    let handle: Lock = manager.handle("a/b").unwrap();
    assert_eq!(handle.renew().wait().unwrap_err().code(), "LOCK_NOT_HELD");
    let guard = handle.lock().isolated().max_retries(3).retry_interval(SOON).wait().unwrap();
    assert!(handle.is_held() && handle.is_locked().wait().unwrap() && admin.is_locked("a/b").wait().unwrap());
    assert!(handle.renew().wait().unwrap() <= Duration::from_secs(10));
    let info = admin.info("a/b").wait().unwrap().unwrap();
    assert_eq!((info.key.as_str(), info.mode, info.holders.len(), info.foreign), ("a/b", Mode::Exclusive, 1, false));
    assert_eq!((info.holders[0].name.as_str(), info.holders[0].pid), ("first", std::process::id()));
    let listed = admin.list("a/").wait().unwrap();
    assert_eq!((listed.len(), &listed[0].key, listed[0].token), (1, &info.key, info.token));
    assert_eq!(admin.list("b").wait().unwrap(), []);

    let again = guard.reenter().unwrap();
    assert_eq!((guard.depth(), again.owner() == guard.owner(), again.token()), (2, true, guard.token()));
    let (owner, moved) = (guard.owner(), manager.clone());
    let depth = std::thread::spawn(move || moved.lock("a/b").owner(&owner).wait().map(|guard| guard.depth())).join();
    assert_eq!(depth.unwrap().unwrap(), 3);
    again.unlock().wait().unwrap();

    let eviction = admin.force_unlock("a/b").key_only().wait().unwrap();
    assert_eq!((eviction.holders[0].name.as_str(), &eviction.released[..]), ("first", &["a/b".to_owned()][..]));
    assert_eq!(futures::executor::block_on(guard.lost()), Loss::Revoked);
    assert_eq!(guard.remaining(), Duration::ZERO);
    let error = guard.unlock().wait().unwrap_err();
    assert!(matches!(&error, LockError::Expired { cause: Loss::Revoked, .. }), "{error:?}");
    assert_eq!((error.code(), error.key()), ("LOCK_EXPIRED", Some("a/b")));
    assert_eq!(handle.force_unlock().wait().unwrap(), Eviction::default());

    let guard = manager.lock("k").max_hold(Duration::from_millis(50)).wait().unwrap();
    assert_eq!(futures::executor::block_on(guard.lost()), Loss::MaxHold);
    manager.close().wait().unwrap();
    manager.close().wait().unwrap();
    assert_eq!(manager.lock("k").wait().unwrap_err().code(), "CLOSED");
}

/// A third-party backend, which wraps another one.
#[derive(Debug)]
struct Counting<B> {
    inner: B,
    acquires: Arc<AtomicU32>,
}

impl<B: Backend> Backend for Counting<B> {
    fn kind(&self) -> &'static str {
        "counting"
    }
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease, BackendError>> {
        self.inner.open(ttl, scope)
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease, BackendError>>> {
        self.inner.renew(leases)
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.revoke(lease)
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>, BackendError>> {
        Box::pin(async move {
            // tokio's timers work here under any executor.
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.acquires.fetch_add(1, Ordering::Relaxed);
            self.inner.acquire(claim, wait).await
        })
    }
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.abort(claim)
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<(), BackendError>> {
        self.inner.release(grant)
    }
    fn next_event(&self) -> BoxFuture<'_, Result<Event, BackendError>> {
        self.inner.next_event()
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>, BackendError>> {
        self.inner.inspect(key)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>, BackendError>> {
        self.inner.list(prefix)
    }
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction, BackendError>> {
        self.inner.evict(key, evict)
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        self.inner.ping()
    }
    fn close(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        self.inner.close()
    }
}

#[test]
fn a_third_party_backend_works_like_a_built_in_one() {
    let (store, acquires) = (MemoryStore::new(), Arc::new(AtomicU32::new(0)));
    let backend = || Counting { inner: store.link(), acquires: acquires.clone() };
    let shared: Arc<dyn Backend> = Arc::new(backend());
    let a = LockManager::builder().backend(backend()).ttl(Duration::from_secs(1)).build().wait().unwrap();
    let b = LockManager::builder().backend(shared).build().wait().unwrap();
    let twice = Counting { inner: backend(), acquires: acquires.clone() };
    let c = LockManager::builder().backend(twice).build().wait().unwrap();
    assert!(format!("{a:?}").contains("counting"), "{a:?}");

    smol::block_on(async {
        let guard = a.lock("k").await.unwrap();
        assert!(b.try_lock("k").await.unwrap().is_none() && c.is_locked("k").await.unwrap());
        let waiting = [smol::spawn(b.lock("k").into_future()), smol::spawn(c.lock("k").into_future())];
        while b.info("k").await.unwrap().unwrap().waiters < 2 {
            smol::Timer::after(Duration::from_millis(2)).await;
        }
        let mut token = guard.token();
        guard.unlock().await.unwrap();
        // The order is not determined.
        let mut waiting =
            futures::future::join_all(waiting.map(|waiting| async { waiting.await.unwrap().token() })).await;
        waiting.sort();
        for next in waiting {
            assert!(next > token);
            token = next;
        }
        let guard = a.lock("k").await.unwrap();
        store.revoke("k");
        assert_eq!(guard.lost().await, Loss::Revoked);
    });
    assert!(acquires.load(Ordering::Relaxed) >= 6);
}
