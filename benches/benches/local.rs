//! The cost of locks in memory, compared with tokio's mutex.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use leasehold::LockManager;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

/// Measures `count` runs of an async operation, all in one task.
fn timed<F: Future<Output = ()>>(runtime: &Runtime, count: u64, mut operation: impl FnMut() -> F) -> Duration {
    runtime.block_on(async {
        let start = Instant::now();
        for _ in 0..count {
            operation().await;
        }
        start.elapsed()
    })
}

fn uncontended(c: &mut Criterion) {
    let runtime = single();
    let mut group = c.benchmark_group("uncontended");
    let mutex = Mutex::new(());
    group.bench_function("tokio Mutex", |b| {
        b.iter_custom(|count| timed(&runtime, count, async || drop(black_box(mutex.lock().await))));
    });
    let manager = LockManager::memory();
    group.bench_function("memory, by key", |b| {
        b.iter_custom(|count| timed(&runtime, count, async || drop(black_box(manager.lock("k").await))));
    });
    let handle = manager.handle("k").expect("a good key");
    group.bench_function("memory, by handle", |b| {
        b.iter_custom(|count| timed(&runtime, count, async || drop(black_box(handle.lock().await))));
    });
    group.bench_function("memory, try_lock", |b| {
        b.iter_custom(|count| timed(&runtime, count, async || drop(black_box(handle.try_lock().await))));
    });
    group.bench_function("memory, from a plain thread", |b| b.iter(|| drop(black_box(handle.lock().wait()))));
    group.finish();
}

fn held(c: &mut Criterion) {
    let runtime = single();
    let mut group = c.benchmark_group("held");
    let manager = LockManager::memory();
    let handle = manager.handle("k").expect("a good key");
    group.bench_function("lock again", |b| {
        b.iter_custom(|count| {
            runtime.block_on(async {
                let _outer = handle.lock().await;
                let start = Instant::now();
                for _ in 0..count {
                    drop(black_box(handle.lock().await));
                }
                start.elapsed()
            })
        });
    });
    let guard = manager.lock("held").wait().expect("a free lock");
    group.bench_function("is_lost", |b| b.iter(|| black_box(guard.is_lost())));
    group.finish();
}

/// Eight tasks on one lock: the time for one handover.
fn contended(c: &mut Criterion) {
    const TASKS: u64 = 8;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    let mut group = c.benchmark_group("8 tasks");
    let mutex = std::sync::Arc::new(Mutex::new(()));
    group.bench_function("tokio Mutex", |b| {
        b.iter_custom(|count| {
            let mutex = mutex.clone();
            together(&runtime, TASKS, move || {
                let mutex = mutex.clone();
                async move {
                    for _ in 0..count.div_ceil(TASKS) {
                        let _guard = mutex.lock().await;
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
    });
    let manager = LockManager::memory();
    group.bench_function("memory", |b| {
        b.iter_custom(|count| {
            let manager = manager.clone();
            together(&runtime, TASKS, move || {
                let manager = manager.clone();
                async move {
                    for _ in 0..count.div_ceil(TASKS) {
                        let _guard = manager.lock("k").await;
                        tokio::task::yield_now().await;
                    }
                }
            })
        });
    });
    group.finish();
}

fn together<F>(runtime: &Runtime, tasks: u64, work: impl Fn() -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let start = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..tasks).map(|_| tokio::spawn(work())).collect();
        for task in tasks {
            task.await.expect("no panic");
        }
    });
    start.elapsed()
}

criterion_group!(benches, uncontended, held, contended);
criterion_main!(benches);
