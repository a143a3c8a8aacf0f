//! Different owners of one process exclude each other as two processes do.

use std::sync::Arc;

use futures::StreamExt;
use futures::executor::LocalPool;
use futures::stream::FuturesUnordered;
use futures::task::LocalSpawnExt;
use tokio::runtime::Builder;

use super::support::{Alone, SOON, at_other_roots, at_tokio_roots, done, is_free, key, on_thread, soon, yield_now};
use crate::{LockManager, Owner};

/// Two tasks on the same manager and handle.
pub async fn two_tasks_exclude_each_other(a: LockManager, _: LockManager) {
    let key = key("two-tasks");
    let (alone, handle) = (Arc::new(Alone::default()), a.handle(&key).expect("a good key"));
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let (handle, alone) = (handle.clone(), alone.clone());
            tokio::spawn(async move {
                for _ in 0..50 {
                    let _guard = handle.lock().await.expect("granted");
                    let _visit = alone.enter();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        done(task).await;
    }
    assert_eq!(alone.visits(), 100);
}

/// A task that the holder has spawned is not the holder.
pub async fn a_spawned_child_is_another_owner(a: LockManager, _: LockManager) {
    let key = key("child");
    let guard = soon(a.lock(&key)).await;
    let (there, its_key) = (a.clone(), key.clone());
    let child = async move { there.try_lock(&its_key).await.expect("the server answers").is_none() };
    assert!(done(tokio::spawn(child)).await);
    let waiting = tokio::spawn(a.lock(&key).into_future());
    drop(guard);
    drop(done(waiting).await.expect("granted"));
}

/// The futures of a `FuturesUnordered` are polled by one task or root, but each with a separate waker, so each is an owner.
pub async fn futures_of_a_set_exclude_each_other(a: LockManager, _: LockManager) {
    const FUTURES: usize = 20;
    let crowd = move || {
        let (a, key) = (a.clone(), key("set"));
        async move {
            let alone = Alone::default();
            let one = || async {
                let guard = a.lock(&key).await.expect("granted");
                assert_eq!(guard.depth(), 1, "no other owner has entered");
                let visit = alone.enter();
                // Lets the others be polled.
                for _ in 0..3 {
                    yield_now().await;
                }
                drop(visit);
            };
            let set: FuturesUnordered<_> = (0..FUTURES).map(|_| one()).collect();
            set.count().await;
            assert_eq!(alone.visits(), FUTURES as u64);
        }
    };
    at_other_roots(crowd.clone()).await;
    at_tokio_roots(crowd.clone()).await;
    done(tokio::spawn(crowd())).await;
}

/// Threads that block on one runtime are polled with the same waker, the runtime's.
pub async fn threads_on_one_runtime_exclude_each_other(a: LockManager, _: LockManager) {
    let key = key("one-runtime");
    let work = move || {
        let (runtime, alone) =
            (Builder::new_current_thread().enable_all().build().expect("a runtime"), Alone::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        runtime.block_on(async {
                            let _guard = a.lock(&key).await.expect("granted");
                            let _visit = alone.enter();
                            tokio::task::yield_now().await;
                        });
                    }
                });
            }
        });
        assert_eq!(alone.visits(), 40);
    };
    on_thread(work).await;
}

/// The closures of two calls are two owners although one task runs both; code that a closure calls has the closure's owner.
pub async fn closures_of_one_key_exclude_each_other(a: LockManager, _: LockManager) {
    let (key, alone) = (key("closures"), Alone::default());
    let nested = || {
        a.with_lock(&key, async |outer| {
            let _visit = alone.enter();
            tokio::task::yield_now().await;
            let plain = a.lock(&key).await.expect("inside");
            let inner = a.with_lock(&key, async |inner| inner.depth()).await.expect("inside");
            assert_eq!((outer.depth(), plain.depth(), inner), (2, 2, 3));
        })
    };
    let (first, second) = futures::join!(nested(), nested());
    first.and(second).expect("held to the end");
    assert_eq!(alone.visits(), 2);
}

/// A task may be allocated at the address of an earlier one; while that one's guard lives, they are different owners.
pub async fn tasks_at_the_same_address_exclude_each_other(a: LockManager, _: LockManager) {
    let key = key("same-address");
    let free = key.clone();
    let manager = a.clone();
    on_thread(move || {
        let mut executor = LocalPool::new();
        let mut run = |with: Option<Owner>| {
            let (manager, key) = (manager.clone(), key.clone());
            let task = async move {
                let request = with.iter().fold(manager.lock(&key), |request, owner| request.owner(owner));
                request.try_once().await.expect("the server answers")
            };
            let task = executor.spawner().spawn_local_with_handle(task).expect("the executor lives");
            executor.run_until(task)
        };
        for _ in 0..50 {
            let guard = run(None).expect("free");
            for _ in 0..3 {
                assert!(run(None).is_none(), "another task entered");
            }
            assert!(run(Some(guard.owner())).is_some());
            drop(guard);
        }
    })
    .await;
    is_free(&a, &free).await;
}

/// Threads that block, and a guard that outlives its thread.
pub async fn threads_exclude_each_other(a: LockManager, _: LockManager) {
    let key = key("threads");
    for _ in 0..10 {
        let (first, second) = ((a.clone(), key.clone()), (a.clone(), key.clone()));
        let guard = on_thread(move || first.0.lock(&first.1).timeout(SOON).wait().expect("free")).await;
        assert!(on_thread(move || second.0.try_lock(&second.1).wait().expect("the server answers").is_none()).await);
        drop(guard);
    }
}

/// Two explicit owners in one task.
pub async fn owners_exclude_each_other(a: LockManager, _: LockManager) {
    let key = key("owners");
    let (one, other) = (Owner::new(), Owner::new());
    assert!(one == one.clone() && one != other);
    let guard = soon(a.lock(&key).owner(&one)).await;
    assert_eq!(guard.owner(), one);
    assert!(a.lock(&key).owner(&other).try_once().await.expect("the server answers").is_none());
    assert_eq!(soon(a.lock(&key).owner(&one)).await.depth(), 2);
}
