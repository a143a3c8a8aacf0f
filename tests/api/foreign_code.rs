//! Foreign code may panic or block: wakers, the logger, backends. This must affect nothing else.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::fixture::{TTL, on, works};
use futures::FutureExt;
use futures::future::BoxFuture;
use leasehold::backend::{Backend, Claim, Event, Evict, Grant, Lease, LeaseScope, Result, Wait};
use leasehold::testing::MemoryStore;
use leasehold::{Eviction, LockInfo, LockManager, Loss};
use log::{Log, Metadata, Record};
use support::{PATIENCE, eventually, in_a_separate_process, lost};

/// A logger that counts its lines, and panics or blocks on demand.
struct Logger;

static LINES: AtomicUsize = AtomicUsize::new(0);
static PANICS: AtomicBool = AtomicBool::new(false);
static BLOCKS: AtomicBool = AtomicBool::new(false);

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        if !record.target().starts_with("leasehold") {
            return;
        }
        LINES.fetch_add(1, Ordering::SeqCst);
        if PANICS.load(Ordering::SeqCst) {
            resume_unwind(Box::new("a logger panics"));
        }
        // Only on the library's threads: a caller's lines are written by the caller.
        let is_ours = std::thread::current().name().is_some_and(|name| name.starts_with("leasehold"));
        while is_ours && BLOCKS.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    fn flush(&self) {}
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("a waker panics"));
    }
}

fn panics() -> Waker {
    Waker::from(Arc::new(Panics))
}

#[test]
fn a_waker_that_panics_panics_nowhere_else() {
    in_a_separate_process!();
    let store = MemoryStore::new();
    let manager = futures::executor::block_on(on(&store));
    let other = futures::executor::block_on(on(&store));
    for round in 0..2 {
        // One waits locally, one at the store, one for a loss.
        let guard = manager.lock("k").wait().unwrap();
        let (mut here, mut there) = (manager.lock("k").into_future(), other.lock("k").into_future());
        let mut loss = guard.lost();
        for waker in [panics(), panics()] {
            let mut cx = Context::from_waker(&waker);
            assert!(here.poll_unpin(&mut cx).is_pending() && there.poll_unpin(&mut cx).is_pending());
            assert!(loss.poll_unpin(&mut cx).is_pending());
        }
        let mut unlock = guard.unlock();
        let _ = unlock.poll_unpin(&mut Context::from_waker(&panics()));
        if round == 0 {
            drop((here, there));
        } else {
            // They have to fetch the outcome.
            let first = eventually("one of them is granted", || {
                let mut cx = Context::from_waker(Waker::noop());
                let polled = [here.poll_unpin(&mut cx), there.poll_unpin(&mut cx)];
                polled.into_iter().find_map(|polled| match polled {
                    Poll::Ready(guard) => Some(guard.unwrap()),
                    Poll::Pending => None,
                })
            });
            drop(first);
            drop((here, there));
        }
        drop(manager.lock("k").timeout(PATIENCE).wait().unwrap());
        works(&manager, &store, "k");
        works(&other, &store, "k");
    }
    // Those that are notified of a loss.
    let guard = manager.lock("k").wait().unwrap();
    let mut loss = guard.lost();
    assert!(loss.poll_unpin(&mut Context::from_waker(&panics())).is_pending());
    drop(store.steal("k"));
    assert_eq!(lost(&guard).0, Loss::Revoked);
    works(&manager, &store, "k");
}

struct PanicsAtItsEnd;

impl Wake for PanicsAtItsEnd {
    fn wake(self: Arc<Self>) {}
}

impl Drop for PanicsAtItsEnd {
    fn drop(&mut self) {
        resume_unwind(Box::new("a task panics"));
    }
}

#[test]
fn a_waker_that_panics_at_its_end_panics_in_no_guard() {
    let manager = LockManager::memory();
    let waker = Waker::from(Arc::new(PanicsAtItsEnd));
    let mut request = manager.lock("k").into_future();
    let Poll::Ready(Ok(guard)) = request.poll_unpin(&mut Context::from_waker(&waker)) else { panic!("it is free") };
    drop(request);
    // Another clone keeps the waker alive until the guard is dropped.
    drop(waker);
    drop(guard);
    assert!(manager.try_lock("k").wait().unwrap().is_some());
}

#[test]
fn a_logger_that_panics_or_blocks_stops_nothing() {
    in_a_separate_process!();
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let store = MemoryStore::new();
    let manager = futures::executor::block_on(on(&store));
    for fault in [&PANICS, &BLOCKS] {
        fault.store(true, Ordering::SeqCst);
        for n in 0..3 {
            // More lines than the keeper's queue can hold.
            works(&manager, &store, &format!("k{n}"));
        }
        fault.store(false, Ordering::SeqCst);
    }
    let before = LINES.load(Ordering::SeqCst);
    works(&manager, &store, "k");
    eventually("it is logged again", || (LINES.load(Ordering::SeqCst) > before + 2).then_some(()));
}

/// A backend that panics when it is called, or when its answer is polled.
#[derive(Debug)]
struct Faulty<B> {
    inner: B,
    /// The number of calls of each kind that will still panic.
    panics: AtomicUsize,
    /// The calls that panic.
    of: &'static str,
}

impl<B: Backend> Faulty<B> {
    fn call<'a, T: Send + 'a>(&'a self, name: &str, call: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        let hit = |left: usize| left.checked_sub(1);
        if name != self.of || self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, hit).is_err() {
            return call;
        }
        if self.panics.load(Ordering::SeqCst).is_multiple_of(2) {
            resume_unwind(Box::new("as backends should not"));
        }
        Box::pin(async move {
            tokio::task::yield_now().await;
            resume_unwind(Box::new("as backends should not"));
        })
    }
}

impl<B: Backend> Backend for Faulty<B> {
    fn kind(&self) -> &'static str {
        "faulty"
    }
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        self.call("open", self.inner.open(ttl, scope))
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        self.call("renew", self.inner.renew(leases))
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.call("revoke", self.inner.revoke(lease))
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        self.call("acquire", self.inner.acquire(claim, wait))
    }
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        self.call("abort", self.inner.abort(claim))
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        self.call("release", self.inner.release(grant))
    }
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        self.call("next_event", self.inner.next_event())
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        self.call("inspect", self.inner.inspect(key))
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        self.call("list", self.inner.list(prefix))
    }
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        self.call("evict", self.inner.evict(key, evict))
    }
    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.call("ping", self.inner.ping())
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.call("close", self.inner.close())
    }
}

#[test]
fn a_backend_that_panics_is_an_error_and_is_tried_again() {
    const CALLS: [&str; 11] =
        ["open", "renew", "revoke", "acquire", "abort", "release", "next_event", "inspect", "list", "evict", "ping"];
    let threads: Vec<_> = CALLS
        .into_iter()
        .map(|of| {
            std::thread::spawn(move || {
                let store = MemoryStore::new();
                let backend = Faulty { inner: store.link(), panics: AtomicUsize::new(2), of };
                let manager = LockManager::builder().backend(backend).ttl(TTL * 2).build().wait().unwrap();
                for key in ["a", "b"] {
                    let guard = manager.lock(key).timeout(PATIENCE).wait().expect(of);
                    std::thread::sleep(TTL * 5 / 2);
                    assert!(!guard.is_lost(), "{of}: it is not renewed");
                    let _ = (manager.info(key).wait(), manager.list("").wait(), manager.ping().wait());
                    let isolated = manager.lock("own").isolated().timeout(PATIENCE).wait().expect(of);
                    guard.unlock().wait().expect(of);
                    drop(isolated);
                    drop(manager.lock("own").timeout(PATIENCE).wait().expect(of));
                    let mut waiting = manager.lock(key).into_future();
                    let _ = (&mut waiting).now_or_never();
                    drop(waiting);
                    let evicted = manager.lock(key).timeout(PATIENCE).wait().expect(of);
                    eventually("it is evicted", || manager.force_unlock(key).wait().ok());
                    lost(&evicted);
                }
                manager.close().wait().unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
