//! An owner is recognized in an optimized program, where a waker and its clone may have different copies of one vtable, and the
//! library and the program may have different copies of a function.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use leasehold::LockManager;
use tokio::runtime::{Builder, Runtime};

const SOON: Duration = Duration::from_secs(10);

fn runtimes() -> [Runtime; 2] {
    [Builder::new_current_thread().enable_time().build(), Builder::new_multi_thread().enable_time().build()]
        .map(|runtime| runtime.expect("a runtime"))
}

/// Nested calls are one owner; closures and guards enter each other.
async fn nests(manager: &LockManager) {
    let _outer = manager.lock("k").await.expect("free");
    let inner = tokio::time::timeout(SOON, manager.lock("k")).await.expect("it waits for itself");
    assert_eq!(inner.expect("held").depth(), 2);
    let depths = manager.with_lock("k", async |third| {
        tokio::task::yield_now().await;
        let fourth = tokio::time::timeout(SOON, manager.lock("k")).await.expect("it waits for itself").expect("held");
        (third.depth(), fourth.depth())
    });
    assert_eq!(tokio::time::timeout(SOON, depths).await.expect("it waits for itself").expect("held"), (3, 3));
}

/// Branches with separate wakers are different owners.
async fn excludes(manager: &LockManager) {
    let inside = AtomicUsize::new(0);
    let branch = || async {
        let _guard = manager.lock("k").await.expect("granted");
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
        tokio::task::yield_now().await;
        inside.fetch_sub(1, Ordering::SeqCst);
    };
    let branches: FuturesUnordered<_> = (0..20).map(|_| branch()).collect();
    assert_eq!(tokio::time::timeout(SOON, branches.count()).await, Ok(20));
}

fn threads_of_one_runtime_exclude_each_other(runtime: &Arc<Runtime>) {
    let (manager, inside) = (LockManager::memory(), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (runtime, manager, inside) = (runtime.clone(), manager.clone(), inside.clone());
            std::thread::spawn(move || {
                for _ in 0..50 {
                    runtime.block_on(async {
                        let _guard = manager.lock("k").await.expect("granted");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

fn main() {
    for runtime in runtimes() {
        let runtime = Arc::new(runtime);
        let manager = LockManager::memory();
        runtime.block_on(async {
            nests(&manager).await;
            excludes(&manager).await;
        });
        runtime.handle().block_on(async {
            excludes(&manager).await;
        });
        let there = manager.clone();
        let task = runtime.spawn(async move {
            nests(&there).await;
            excludes(&there).await;
        });
        runtime.block_on(task).expect("no panic");
        threads_of_one_runtime_exclude_each_other(&runtime);
    }
    let manager = LockManager::memory();
    let _outer = manager.lock("k").wait().expect("free");
    let inner = manager.lock("k").timeout(SOON).wait().expect("the thread waits for itself");
    assert_eq!(inner.depth(), 2);
    assert!(manager.try_lock("k").wait().expect("an answer").is_some());
}
