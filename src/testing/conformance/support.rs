//! Helpers of the cases.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::executor::LocalPool;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::{Acquire, LockGuard, LockManager, LockRequest, Owner, Result};

/// The limit for an effect that is immediate on an idle machine; the cases also run on busy ones.
pub(super) const SOON: Duration = Duration::from_secs(5);

/// The time within which an effect that must not happen would happen.
pub(super) const A_WHILE: Duration = Duration::from_millis(100);

/// Longer than a grant stays within a process, whatever the number of its waiters.
pub(super) const HAND_OVER: Duration = Duration::from_millis(50);

/// A random key, so that earlier runs on the same server do not matter.
pub(super) fn key(case: &str) -> String {
    format!("conformance/{case}/{:016x}", rand::random::<u64>())
}

pub(super) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// The message of a failed task.
pub(super) fn reason(failed: JoinError) -> String {
    match failed.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").into()
        }
        Err(cancelled) => cancelled.to_string(),
    }
}

/// The result of a task. Its panic fails the case.
pub(super) async fn done<T>(task: JoinHandle<T>) -> T {
    within(4 * SOON, "a task's end", task).await.unwrap_or_else(|failed| panic!("a task failed: {}", reason(failed)))
}

/// Runs `work` on a plain thread, outside of any runtime.
pub(super) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
    std::thread::spawn(move || {
        // The receiver is dropped only if the case has failed already.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    });
    result.await.expect("the thread answers").unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a future as the root of a runtime of each kind, one after another, each on a separate thread.
pub(super) async fn at_tokio_roots<F: Future<Output = ()>>(work: impl Fn() -> F + Send + Clone + 'static) {
    for workers in [0, 2] {
        let work = work.clone();
        on_thread(move || match workers {
            0 => Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work()),
            _ => runtime().block_on(work()),
        })
        .await;
    }
}

/// Runs a future as the root of executors that are not tokio's.
pub(super) async fn at_other_roots<F: Future<Output = ()>>(work: impl Fn() -> F + Send + Clone + 'static) {
    let other = work.clone();
    on_thread(move || futures::executor::block_on(work())).await;
    on_thread(move || LocalPool::new().run_until(other())).await;
}

/// Yields to other tasks, under any executor.
pub(super) async fn yield_now() {
    let mut is_second = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut is_second, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

pub(super) async fn within<T>(limit: Duration, what: &str, work: impl IntoFuture<Output = T>) -> T {
    timeout(limit, work).await.unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Acquires a lock, which must be granted soon.
pub(super) async fn soon(request: LockRequest) -> LockGuard {
    let key = format!("{request:?}");
    within(SOON, &key, request).await.unwrap_or_else(|error| panic!("{key}: {error}"))
}

/// The request with a new owner.
pub(super) fn stranger(request: LockRequest) -> LockRequest {
    request.owner(&Owner::new())
}

/// Waits until the check returns true.
pub(super) async fn eventually<F: Future<Output = bool>>(limit: Duration, what: &str, mut check: impl FnMut() -> F) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Whether the backend supports the option of this request. If it does not, it says so.
pub(super) async fn supports(manager: &LockManager, key: &str, request: impl Fn(&LockManager) -> LockRequest) -> bool {
    match request(manager).try_once().await {
        Ok(guard) => {
            drop(guard);
            is_free(manager, key).await;
            true
        }
        Err(error) => {
            assert_eq!(error.code(), "UNSUPPORTED", "{error}");
            false
        }
    }
}

/// Waits until the key has neither holders nor waiters, at most a few seconds.
pub(super) async fn is_free(manager: &LockManager, key: &str) {
    // Longer than on an idle machine, because the cases also run on busy ones.
    eventually(SOON / 2, &format!("{key} is free"), || async {
        manager.info(key).await.expect("the server answers").is_none()
    })
    .await;
}

/// Waits until this many claims are queued for the key at the server.
pub(super) async fn has_waiters(manager: &LockManager, key: &str, count: usize) {
    eventually(SOON, &format!("{count} wait for {key}"), || async {
        manager.info(key).await.expect("the server answers").is_some_and(|info| info.waiters == count)
    })
    .await;
}

/// Whether another owner cannot acquire the key now.
pub(super) async fn is_busy(manager: &LockManager, key: &str) -> bool {
    try_as_stranger(manager, key).await.is_none()
}

pub(super) async fn try_as_stranger(manager: &LockManager, key: &str) -> Option<LockGuard> {
    stranger(manager.lock(key)).try_once().await.expect("the server answers")
}

/// Polls the request once, and asserts that it waits in the queue.
pub(super) fn queue_up(request: LockRequest) -> Acquire {
    let mut acquire = request.into_future();
    let polled = futures::FutureExt::now_or_never(&mut acquire);
    assert!(polled.is_none(), "it waits: {polled:?}");
    acquire
}

/// Detects two visitors at the same time.
#[derive(Debug, Default)]
pub(super) struct Alone {
    inside: AtomicBool,
    visits: AtomicU64,
}

impl Alone {
    pub(super) fn enter(&self) -> Visit<'_> {
        assert!(!self.inside.swap(true, Ordering::SeqCst), "two hold the lock at the same time");
        self.visits.fetch_add(1, Ordering::SeqCst);
        Visit(self)
    }

    pub(super) fn visits(&self) -> u64 {
        self.visits.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub(super) struct Visit<'a>(&'a Alone);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.inside.store(false, Ordering::SeqCst);
    }
}
