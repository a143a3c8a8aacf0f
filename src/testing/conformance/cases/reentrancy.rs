//! Reentrancy: the owner of a hold enters it again without waiting; other owners wait.

use std::future::poll_fn;
use std::sync::mpsc::channel;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures::executor::ThreadPool;
use futures::task::SpawnExt;

use super::support::{
    A_WHILE, SOON, at_other_roots, at_tokio_roots, done, eventually, is_busy, is_free, key, on_thread, soon, within,
};
use crate::{LockManager, Mode, Owner};

/// Locks twice in the current context, and checks that both guards are of the same hold.
async fn nest(manager: LockManager, key: String) {
    let outer = soon(manager.lock(&key)).await;
    let inner = soon(manager.handle(&key).expect("a good key").lock()).await;
    let tried = manager.try_lock(&key).await.expect("no I/O").expect("the same owner");
    assert_eq!((outer.depth(), inner.depth(), tried.depth()), (3, 3, 3));
    assert_eq!(outer.token(), inner.token());
    assert_eq!(outer.owner(), inner.owner());
    drop(outer);
    drop(tried);
    assert_eq!(inner.depth(), 1);
    assert!(is_busy(&manager, &key).await, "the last guard still holds it");
    inner.unlock().await.expect("unlocked");
    drop(manager.try_lock(&key).await.expect("the server answers").expect("free"));
}

/// In a tokio task.
pub async fn a_task_enters_again(a: LockManager, _: LockManager) {
    let key = key("task");
    done(tokio::spawn(nest(a, key))).await;
}

/// In the root future of `#[tokio::main]`, in both kinds of runtime.
pub async fn a_tokio_root_enters_again(a: LockManager, _: LockManager) {
    let key = key("root");
    at_tokio_roots(move || nest(a.clone(), key.clone())).await;
}

/// In the `block_on` of another executor, without a tokio runtime.
pub async fn a_root_of_another_executor_enters_again(a: LockManager, _: LockManager) {
    let key = key("other-root");
    let inside = a.clone();
    // Without tokio's timers around it, which `nest` has.
    at_other_roots(move || {
        let (manager, key) = (inside.clone(), key.clone());
        async move {
            let outer = manager.lock(&key).await.expect("granted");
            let inner = manager.lock(&key).timeout(SOON).await.expect("the same owner");
            assert_eq!((outer.depth(), inner.depth()), (2, 2));
            drop(outer);
            assert!(is_busy(&manager, &key).await);
            inner.unlock().await.expect("unlocked");
            drop(manager.try_lock(&key).await.expect("the server answers").expect("free"));
        }
    })
    .await;
}

/// On a blocking thread.
pub async fn a_thread_enters_again(a: LockManager, _: LockManager) {
    let key = key("thread");
    on_thread(move || {
        let outer = a.lock(&key).wait().expect("granted");
        let inner = a.lock(&key).timeout(SOON).wait().expect("the same owner");
        let tried = a.try_lock(&key).wait().expect("no I/O").expect("the same owner");
        assert_eq!((outer.depth(), inner.depth(), tried.depth()), (3, 3, 3));
        drop((outer, tried));
        inner.unlock().wait().expect("unlocked");
        drop(a.try_lock(&key).wait().expect("the server answers").expect("free"));
    })
    .await;
}

/// In a task that moves between the threads of an executor.
pub async fn a_task_that_changes_threads_enters_again(a: LockManager, _: LockManager) {
    const TASKS: usize = 6;
    let key = key("migrating");
    let executor = ThreadPool::builder().pool_size(3).create().expect("threads");
    // A task that is woken after its poll may run on any of the threads.
    let (sleepers, asleep) = channel::<Waker>();
    std::thread::spawn(move || {
        for waker in asleep {
            std::thread::sleep(Duration::from_micros(200));
            waker.wake();
        }
    });
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (a, key, sleepers) = (a.clone(), key.clone(), sleepers.clone());
            let task = async move {
                for _ in 0..10 {
                    let outer = a.lock(&key).await.expect("granted");
                    for _ in 0..3 {
                        let mut sleeper = Some(&sleepers);
                        poll_fn(|cx| match sleeper.take() {
                            Some(sleepers) => {
                                sleepers.send(cx.waker().clone()).expect("the waker thread runs");
                                Poll::Pending
                            }
                            None => Poll::Ready(()),
                        })
                        .await;
                    }
                    let inner = a.lock(&key).timeout(SOON).await.expect("the same owner");
                    assert_eq!((outer.depth(), inner.depth()), (2, 2));
                }
            };
            executor.spawn_with_handle(task).expect("the executor lives")
        })
        .collect();
    for task in tasks {
        within(4 * SOON, "a task's end", task).await;
    }
    is_free(&a, &key).await;
}

/// An explicit owner enters wherever it is passed.
pub async fn an_owner_enters_from_another_task(a: LockManager, _: LockManager) {
    let key = key("owner");
    for owner in [None, Some(Owner::new())] {
        let request = owner.iter().fold(a.lock(&key), |request, owner| request.owner(owner));
        let outer = soon(request).await;
        let (owner, there, its_key) = (outer.owner(), a.clone(), key.clone());
        let inner = done(tokio::spawn(async move {
            assert!(
                there.try_lock(&its_key).await.expect("the server answers").is_none(),
                "the task itself is another"
            );
            soon(there.lock(&its_key).owner(&owner)).await
        }))
        .await;
        assert_eq!((outer.depth(), inner.depth()), (2, 2));
        drop(outer);
        assert!(is_busy(&a, &key).await);
        drop(inner);
        is_free(&a, &key).await;
    }
}

/// A guard made by `reenter` keeps the lock in another task.
pub async fn a_second_guard_goes_to_another_task(a: LockManager, b: LockManager) {
    let key = key("second-guard");
    let guard = soon(a.lock(&key)).await;
    let token = guard.token();
    let second = guard.reenter().expect("not lost");
    assert_eq!(guard.depth(), 2);
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let there = tokio::spawn(async move {
        gone.await.expect("the sign");
        assert_eq!((second.token(), second.depth(), second.is_lost()), (token, 1, false));
    });
    drop(guard);
    assert!(is_busy(&b, &key).await);
    go.send(()).expect("the task waits");
    done(there).await;
    is_free(&b, &key).await;
}

/// The branches of a `join!` are one owner: both enter.
pub async fn branches_of_a_join_are_one_owner(a: LockManager, _: LockManager) {
    let key = key("join");
    done(tokio::spawn(async move {
        let branch = async || {
            let guard = soon(a.lock(&key)).await;
            eventually(SOON, "both branches are in", || std::future::ready(guard.depth() == 2)).await;
            guard
        };
        let (left, right) = tokio::join!(branch(), branch());
        assert_eq!(left.token(), right.token());
    }))
    .await;
}

/// Reentrancy works through a manager and its clones, not through another manager in the same task.
pub async fn another_manager_is_another_owner(a: LockManager, b: LockManager) {
    let key = key("managers");
    let guard = soon(a.lock(&key)).await;
    let again = soon(a.clone().lock(&key)).await;
    assert_eq!(again.depth(), 2);
    assert!(b.try_lock(&key).await.expect("the server answers").is_none());
    let error = b.lock(&key).owner(&guard.owner()).timeout(A_WHILE).await.expect_err("held by another manager");
    assert_eq!(error.code(), "LOCK_TIMEOUT");
}

/// An exclusive holder that requests the key in shared mode keeps its exclusive hold.
pub async fn an_exclusive_holder_shares_with_itself(a: LockManager, b: LockManager) {
    let key = key("exclusive-shares");
    let guard = soon(a.lock(&key)).await;
    let shared = soon(a.lock(&key).shared()).await;
    assert_eq!((shared.mode(), shared.depth(), shared.token()), (Mode::Exclusive, 2, guard.token()));
    drop(guard);
    assert_eq!(shared.mode(), Mode::Exclusive);
    assert!(b.lock(&key).shared().try_once().await.expect("the server answers").is_none(), "still exclusive");
}

/// A shared holder that requests the key exclusively would wait for itself.
pub async fn a_shared_holder_cannot_become_exclusive(a: LockManager, b: LockManager) {
    let key = key("upgrade");
    let mine = soon(a.lock(&key).shared()).await;
    let _others = soon(b.lock(&key).shared()).await;
    for error in [
        within(SOON, "refused", a.lock(&key)).await.expect_err("it would wait for itself"),
        a.try_lock(&key).await.expect_err("it would wait for itself"),
    ] {
        assert_eq!((error.code(), error.key()), ("LOCK_ALREADY_HELD", Some(&*key)), "{error}");
    }
    let again = soon(a.lock(&key).shared()).await;
    assert_eq!((again.depth(), again.mode()), (2, Mode::Shared));
    assert!(!mine.is_lost());
}

/// Only the last guard's unlock releases the lock.
pub async fn unlock_counts_down_to_the_last_guard(a: LockManager, b: LockManager) {
    const DEPTH: u32 = 5;
    let key = key("depth");
    let mut guards = Vec::new();
    for depth in 1..=DEPTH {
        guards.push(soon(a.lock(&key)).await);
        assert!(guards.iter().all(|guard| guard.depth() == depth));
    }
    for left in (1..DEPTH).rev() {
        // In the order of creation: guards need not be nested.
        guards.remove(0).unlock().await.expect("counted down");
        assert!(guards.iter().all(|guard| guard.depth() == left && !guard.is_lost()));
        assert!(is_busy(&b, &key).await);
    }
    guards.remove(0).unlock().await.expect("unlocked");
    drop(b.try_lock(&key).await.expect("the server answers").expect("free"));
}

/// Moving a guard to another task does not change the owner.
pub async fn a_moved_guard_keeps_its_owner(a: LockManager, _: LockManager) {
    let key = key("moved");
    let guard = soon(a.lock(&key)).await;
    let (there, its_key) = (a.clone(), key.clone());
    let guard = done(tokio::spawn(async move {
        assert!(there.try_lock(&its_key).await.expect("the server answers").is_none());
        assert_eq!(soon(there.lock(&its_key).owner(&guard.owner())).await.depth(), 2);
        guard
    }))
    .await;
    assert_eq!(soon(a.lock(&key)).await.depth(), 2);
    drop(guard);
    is_free(&a, &key).await;
}
