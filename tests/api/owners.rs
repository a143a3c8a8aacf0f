//! The owner of a lock, under every way to poll a request.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::{FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use leasehold::{LockGuard, LockManager, Owner};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, block_in_place, yield_now};

const SOON: Duration = Duration::from_secs(20);

/// The number of visitors at the same time, and in all.
#[derive(Debug, Default)]
struct Room {
    inside: AtomicUsize,
    most: AtomicUsize,
    visits: AtomicUsize,
}

impl Room {
    fn enter(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        self.visits.fetch_add(1, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    #[track_caller]
    fn assert(&self, most: usize, visits: usize) {
        assert_eq!((self.most.load(Ordering::SeqCst), self.visits.load(Ordering::SeqCst)), (most, visits));
    }
}

/// Enters the room under the lock, and yields to other tasks meanwhile.
async fn visit(manager: &LockManager, room: &Room) {
    let guard = manager.lock("k").await.unwrap();
    room.enter();
    pause().await;
    room.leave();
    drop(guard);
}

/// Yields to other tasks, under any executor.
async fn pause() {
    for _ in 0..3 {
        smol::future::yield_now().await;
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs it in a body and in a task of both runtimes, in a `LocalSet`, and under smol.
fn everywhere<F: Future<Output = ()> + Send + 'static>(name: &str, work: impl Fn() -> F) {
    let within = |place: &'static str, work: F| {
        let name = name.to_owned();
        async move {
            assert!(tokio::time::timeout(SOON, work).await.is_ok(), "{name}: stuck in {place}");
        }
    };
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(within("a body", work()));
        runtime.block_on(async { tokio::spawn(within("a task", work())).await.unwrap() });
        LocalSet::new().block_on(&runtime, async { within("a LocalSet", work()).await });
        LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(within("a local task", work())).await.unwrap();
        });
    }
    let limited = |work: F| async move {
        let timer = async {
            smol::Timer::after(SOON).await;
            panic!("stuck under smol");
        };
        smol::future::or(work, timer).await;
    };
    smol::block_on(limited(work()));
    let executor = smol::Executor::new();
    smol::block_on(executor.run(executor.spawn(limited(work()))));
    futures::executor::block_on(limited(work()));
}

#[test]
fn threads_on_one_runtime_exclude_each_other() {
    for runtime in [current_thread(), multi_thread()] {
        let (runtime, manager, room) = (Arc::new(runtime), LockManager::memory(), Arc::new(Room::default()));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (runtime, manager, room) = (runtime.clone(), manager.clone(), room.clone());
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        runtime.block_on(visit(&manager, &room));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        room.assert(1, 400);
    }
}

#[test]
fn a_guard_kept_by_a_thread_excludes_other_threads_of_its_runtime() {
    let (runtime, manager) = (Arc::new(current_thread()), LockManager::memory());
    let guard = runtime.block_on(manager.lock("k").into_future()).unwrap();
    let (there, other) = (runtime.clone(), manager.clone());
    let tried = std::thread::spawn(move || there.block_on(other.try_lock("k")).unwrap().is_some());
    assert!(!tried.join().unwrap(), "another thread entered");
    assert_eq!(runtime.block_on(manager.lock("k").into_future()).unwrap().depth(), 2);
    assert_eq!(manager.lock("k").wait().unwrap().depth(), 2);
    drop(guard);
}

/// Its waker changes from the thread's parker to the runtime's when the other `block_on` ends.
#[test]
fn a_block_on_that_gets_the_core_later_is_the_same_owner() {
    let (runtime, manager) = (Arc::new(current_thread()), LockManager::memory());
    let (began, begun) = std::sync::mpsc::channel();
    let (end, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let first = runtime.clone();
    let first = std::thread::spawn(move || {
        first.block_on(async move {
            began.send(()).unwrap();
            let _ = ended.recv().await;
        });
    });
    begun.recv().unwrap();
    let second = runtime.clone();
    let second = std::thread::spawn(move || {
        second.block_on(async move {
            let guard = manager.lock("k").await.unwrap();
            // Polled with the parker so far. This thread gets the core when the other one ends.
            drop(end);
            for _ in 0..20 {
                tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await.unwrap_err();
                let inner = tokio::time::timeout(SOON, manager.lock("k")).await.expect("waits for itself").unwrap();
                assert_eq!(inner.depth(), 2);
            }
            drop(guard);
        });
    });
    first.join().unwrap();
    second.join().unwrap();
}

#[test]
fn branches_with_separate_wakers_exclude_each_other() {
    const BRANCHES: usize = 31;
    everywhere("FuturesUnordered", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        let set: FuturesUnordered<_> = (0..BRANCHES).map(|_| visit(&manager, &room)).collect();
        set.count().await;
        room.assert(1, BRANCHES);
    });
    everywhere("for_each_concurrent", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        futures::stream::iter(0..BRANCHES).for_each_concurrent(None, |_| visit(&manager, &room)).await;
        room.assert(1, BRANCHES);
    });
    everywhere("buffer_unordered", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        futures::stream::iter(0..BRANCHES).map(|_| visit(&manager, &room)).buffer_unordered(10).count().await;
        room.assert(1, BRANCHES);
    });
    everywhere("join_all of 31", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        join_all((0..BRANCHES).map(|_| visit(&manager, &room))).await;
        room.assert(1, BRANCHES);
    });
}

#[test]
fn branches_with_the_waker_of_their_task_are_one_owner() {
    everywhere("join_all of 30", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        join_all((0..30).map(|_| visit(&manager, &room))).await;
        room.assert(30, 30);
    });
}

#[test]
fn nested_locks_of_a_branch_are_one_owner() {
    everywhere("nested in FuturesUnordered", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        let nested = || async {
            let outer = manager.lock("k").await.unwrap();
            room.enter();
            pause().await;
            let inner = manager.lock("k").await.unwrap();
            assert_eq!((outer.depth(), inner.depth()), (2, 2));
            room.leave();
        };
        let set: FuturesUnordered<_> = (0..10).map(|_| nested()).collect();
        set.count().await;
        room.assert(1, 10);
    });
}

#[test]
fn closures_of_one_key_exclude_each_other() {
    everywhere("two with_lock in a join", || async {
        let (manager, room) = (LockManager::memory(), Room::default());
        let work = async |_: &LockGuard| {
            room.enter();
            pause().await;
            room.leave();
        };
        let (first, second) = futures::join!(manager.with_lock("k", work), manager.with_lock("k", work));
        first.and(second).unwrap();
        room.assert(1, 2);
        let several = async |_: &leasehold::LockGuards| work(&manager.lock("other").await.unwrap()).await;
        let (all, one) = futures::join!(manager.lock_all(["a", "k"]).with(several), manager.with_lock("k", work));
        all.and(one).unwrap();
        room.assert(1, 4);
    });
}

#[test]
fn a_closure_that_is_busy_elsewhere_in_the_task_is_not_entered() {
    everywhere("try_with_lock beside with_lock", || async {
        let manager = LockManager::memory();
        let long = manager.with_lock("k", async |_| pause().await);
        let tries = async {
            let first = manager.try_with_lock("k", async |_| ()).await.unwrap();
            let plain = manager.try_lock("k").await.unwrap();
            (first, plain.is_some())
        };
        let (long, tried) = futures::join!(long, tries);
        long.unwrap();
        assert_eq!(tried, (None, false));
    });
}

#[test]
fn guards_and_closures_nest() {
    everywhere("guard, with, guard, with", || async {
        let manager = LockManager::memory();
        let outer = manager.lock("k").await.unwrap();
        let depths = manager.with_lock("k", async |second| {
            pause().await;
            let third = manager.lock("k").await.unwrap();
            let fourth = manager.with_lock("k", async |fourth| {
                pause().await;
                (fourth.depth(), manager.try_lock("k").await.unwrap().unwrap().depth())
            });
            (second.depth(), third.depth(), fourth.await.unwrap())
        });
        assert_eq!(depths.await.unwrap(), (3, 3, (4, 5)));
        assert_eq!(outer.depth(), 1);
    });
    everywhere("with, guard, with", || async {
        let manager = LockManager::memory();
        let depths = manager.with_lock("k", async |first| {
            let second = manager.lock("k").await.unwrap();
            pause().await;
            let third = manager.try_with_lock("k", async |third| third.depth()).await.unwrap();
            (first.depth(), second.depth(), third)
        });
        assert_eq!(depths.await.unwrap(), (2, 2, Some(3)));
        assert!(!manager.is_locked("k").await.unwrap());
    });
}

#[test]
fn lock_all_enters_what_a_closure_holds() {
    everywhere("lock_all inside with", || async {
        let manager = LockManager::memory();
        let depths = manager.with_lock("b", async |_| {
            let all = manager.lock_all(["a", "b"]).await.unwrap();
            let inner = manager
                .lock_all(["c", "b", "a"])
                .with(async |guards| guards.iter().map(LockGuard::depth).collect::<Vec<_>>());
            (all[1].depth(), inner.await.unwrap())
        });
        assert_eq!(depths.await.unwrap(), (2, vec![1, 3, 2]));
    });
    everywhere("with inside lock_all's", || async {
        let manager = LockManager::memory();
        let depths = manager.lock_all(["a", "b"]).with(async |_| {
            let a = manager.lock("a").await.unwrap();
            let b = manager.with_lock("b", async |b| b.depth()).await.unwrap();
            (a.depth(), b)
        });
        assert_eq!(depths.await.unwrap(), (2, 2));
    });
}

/// A key that no scope holds is locked for the context; its guard can outlive the closure.
#[test]
fn a_guard_taken_inside_a_closure_is_the_tasks() {
    everywhere("a guard that leaves a closure", || async {
        let manager = LockManager::memory();
        let guard = manager.with_lock("outer", async |_| manager.lock("inner").await.unwrap()).await.unwrap();
        assert_eq!(manager.lock("inner").await.unwrap().depth(), 2);
        drop(guard);
    });
}

#[test]
fn branches_and_tasks_inside_a_closure_are_outside_of_its_scope() {
    everywhere("FuturesUnordered inside with", || async {
        let manager = LockManager::memory();
        let tried = manager.with_lock("k", async |guard| {
            let tries: FuturesUnordered<_> = (0..3).map(|_| manager.try_lock("k")).collect();
            let entered = tries.filter(|tried| std::future::ready(tried.as_ref().unwrap().is_some())).count().await;
            let mut mine: FuturesUnordered<_> =
                std::iter::once(manager.lock("k").owner(&guard.owner()).into_future()).collect();
            (entered, mine.next().await.unwrap().unwrap().depth())
        });
        assert_eq!(tried.await.unwrap(), (0, 2));
    });
    current_thread().block_on(async {
        let manager = LockManager::memory();
        let there = manager.clone();
        let spawned = manager.with_lock("k", async |_| {
            tokio::spawn(async move { there.try_lock("k").await.unwrap().is_some() }).await.unwrap()
        });
        assert!(!spawned.await.unwrap(), "a task spawned inside is outside");
    });
}

/// Another executor polls with another waker, even if the closure runs it.
#[test]
fn an_executor_run_inside_a_closure_is_outside() {
    everywhere("executors inside with", || async {
        let manager = LockManager::memory();
        let entered = manager.with_lock("k", async |_| {
            let executor = smol::LocalExecutor::new();
            let task = executor.spawn(manager.try_lock("k"));
            let smols = std::thread::scope(|_| smol::block_on(executor.run(task))).unwrap().is_some();
            let polled =
                manager.try_lock("k").poll_unpin(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            let noop = matches!(polled, Poll::Ready(Ok(Some(_))));
            (smols, noop)
        });
        assert_eq!(entered.await.unwrap(), (false, false));
    });
}

/// An executor may use one waker for several tasks; they are different owners.
#[test]
fn tasks_that_run_the_same_executor_inside_exclude_each_other() {
    current_thread().block_on(async {
        let manager = LockManager::memory();
        let there = manager.clone();
        let guard = tokio::spawn(async move { smol::block_on(there.try_lock("k")).unwrap() }).await.unwrap();
        assert!(guard.is_some());
        let there = manager.clone();
        let second = tokio::spawn(async move { smol::block_on(there.try_lock("k")).unwrap().is_some() });
        assert!(!second.await.unwrap(), "another task entered");
    });
}

#[test]
fn a_panic_leaves_no_scope_behind() {
    everywhere("a panic in a closure", || async {
        let manager = LockManager::memory();
        let work = manager.with_lock("k", async |_| {
            pause().await;
            let inner = manager.with_lock("k", async |_| std::panic::resume_unwind(Box::new("the work panics")));
            let _: () = inner.await.unwrap();
        });
        assert!(AssertUnwindSafe(work).catch_unwind().await.is_err());
        assert!(!manager.is_locked("k").await.unwrap());
        // A scope that was left on the stack would be entered.
        let hold = manager.lock("k").owner(&Owner::new()).await.unwrap();
        assert!(manager.try_lock("k").await.unwrap().is_none());
        drop(hold);
    });
}

#[test]
fn a_guard_moved_out_keeps_the_scopes_hold() {
    everywhere("reenter moved out", || async {
        let manager = LockManager::memory();
        let kept = manager.with_lock("k", async |guard| guard.reenter().unwrap()).await.unwrap();
        assert!(manager.try_lock("k").await.unwrap().is_none(), "only the scope's owner may enter");
        assert!(manager.try_with_lock("k", async |_| ()).await.unwrap().is_none());
        assert_eq!(manager.lock("k").owner(&kept.owner()).await.unwrap().depth(), 2);
        drop(kept);
        assert!(manager.try_lock("k").await.unwrap().is_some());
    });
}

#[test]
fn a_closure_for_an_explicit_owner_is_entered_by_what_it_calls() {
    everywhere("owner and with", || async {
        let (manager, owner) = (LockManager::memory(), Owner::new());
        let guard = manager.lock("k").owner(&owner).await.unwrap();
        let depths = manager
            .lock("k")
            .owner(&owner)
            .with(async |second| (second.depth(), manager.lock("k").await.unwrap().depth()));
        assert_eq!(depths.await.unwrap(), (2, 3));
        assert!(manager.try_lock("k").await.unwrap().is_none());
        drop(guard);
    });
}

#[test]
fn wait_in_block_in_place_nests() {
    let runtime = multi_thread();
    let nested = || async {
        let manager = LockManager::memory();
        let outer = manager.lock("k").await.unwrap();
        let inner = block_in_place(|| manager.lock("k").timeout(SOON).wait()).expect("waits for itself");
        assert_eq!((inner.depth(), block_in_place(|| manager.try_lock("k").wait()).unwrap().unwrap().depth()), (2, 3));
        drop((outer, inner));
        let depth = manager.with_lock("k", async |_| {
            block_in_place(|| manager.lock("k").timeout(SOON).wait()).expect("waits for itself").depth()
        });
        assert_eq!(depth.await.unwrap(), 2);
    };
    runtime.block_on(nested());
    runtime.block_on(async { tokio::spawn(nested()).await.unwrap() });
}

#[test]
fn wait_with_is_the_threads() {
    let manager = LockManager::memory();
    let depth = manager.lock("k").wait_with(|_| manager.lock("k").wait().unwrap().depth()).unwrap();
    assert_eq!(depth, 2);
    let outer = manager.lock("k").wait().unwrap();
    assert_eq!(manager.lock("k").wait_with(LockGuard::depth).unwrap(), 2);
    drop(outer);
}

#[test]
fn without_reentrancy_every_acquire_has_a_new_owner() {
    everywhere("reentrant(false)", || async {
        let manager = LockManager::builder().reentrant(false).build().await.unwrap();
        let guard = manager.lock("k").await.unwrap();
        assert!(manager.try_lock("k").await.unwrap().is_none());
        assert!(manager.try_with_lock("k", async |_| ()).await.unwrap().is_none());
        assert_eq!(manager.lock("k").owner(&guard.owner()).await.unwrap().depth(), 2, "but for an explicit owner");
        drop(guard);
        let room = Room::default();
        join_all((0..5).map(|_| visit(&manager, &room))).await;
        room.assert(1, 5);
        let inside = manager.with_lock("k", async |_| manager.try_lock("k").await.unwrap().is_some());
        assert!(!inside.await.unwrap());
        let twice = manager.lock_all(["a", "a"]).await.unwrap();
        assert_eq!(twice[0].depth(), 2, "a repeated key is locked once");
    });
    let manager = LockManager::connect("memory://?reentrant=false").wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    assert!(manager.try_lock("k").wait().unwrap().is_none());
    drop(guard);
    assert_eq!(LockManager::connect("memory://?reentrant=no").wait().unwrap_err().code(), "INVALID_CONFIG");
}

/// A pool that runs another job on a waiting thread.
#[test]
fn jobs_of_a_pool_exclude_each_other_without_reentrancy() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let (manager, room) = (LockManager::builder().reentrant(false).build().wait().unwrap(), Room::default());
    pool.scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|_| {
                // A try, since a waiting job may wait for one below it on the same thread.
                if let Some(guard) = manager.try_lock("k").wait().unwrap() {
                    room.enter();
                    rayon::join(std::thread::yield_now, std::thread::yield_now);
                    room.leave();
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(room.most.load(Ordering::SeqCst), 1);
}

#[test]
fn a_timeout_caused_by_the_same_task_says_so() {
    current_thread().block_on(async {
        let manager = LockManager::memory();
        let _guard = manager.lock("k").await.unwrap();
        let mut branch: FuturesUnordered<_> =
            std::iter::once(manager.lock("k").timeout(Duration::from_millis(50)).into_future()).collect();
        let error = branch.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), "LOCK_TIMEOUT");
        assert!(error.to_string().contains("same task or thread"), "{error}");
        let there = manager.clone();
        let other = tokio::spawn(there.lock("k").timeout(Duration::from_millis(50)).into_future());
        let error = other.await.unwrap().unwrap_err();
        assert!(!error.to_string().contains("same task or thread"), "{error}");
    });
}

/// A hold may have the last reference to a task, and the drop of the task may use the same key.
#[test]
fn a_task_that_ends_with_its_hold_may_use_the_key() {
    struct OnDrop(Option<LockGuard>, LockManager);
    impl std::task::Wake for OnDrop {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for OnDrop {
        fn drop(&mut self) {
            drop(self.0.take());
            assert!(catch_unwind(AssertUnwindSafe(|| self.1.try_lock("k").wait())).is_ok());
        }
    }
    let manager = LockManager::memory();
    let other = manager.lock("k2").wait().unwrap();
    let waker = std::task::Waker::from(Arc::new(OnDrop(Some(other), manager.clone())));
    let mut waiting = manager.lock("k").into_future();
    let Poll::Ready(Ok(guard)) = waiting.poll_unpin(&mut std::task::Context::from_waker(&waker)) else {
        panic!("it is free")
    };
    drop((waker, waiting));
    drop(guard);
    assert!(manager.try_lock("k").wait().unwrap().is_some());
    assert!(manager.try_lock("k2").wait().unwrap().is_some());
}

/// An executor's waker may own its task, and a `Lost` future may be a part of the task.
#[test]
fn a_hold_keeps_no_waker_when_it_has_ended() {
    struct Task;
    impl std::task::Wake for Task {
        fn wake(self: Arc<Self>) {}
    }
    let (manager, task) = (LockManager::memory(), Arc::new(Task));
    let waker = std::task::Waker::from(task.clone());
    let mut request = manager.lock("k").into_future();
    let Poll::Ready(Ok(guard)) = request.poll_unpin(&mut std::task::Context::from_waker(&waker)) else {
        panic!("it is free")
    };
    let (lost, owner) = (guard.lost(), guard.owner());
    drop((request, waker, owner));
    assert_eq!(Arc::strong_count(&task), 2);
    drop(guard);
    assert_eq!(Arc::strong_count(&task), 1, "kept by the `Lost` future");
    drop(lost);
}

#[test]
fn one_poll_acquires_a_free_lock() {
    current_thread().block_on(poll_fn(|cx| {
        let manager = LockManager::memory();
        assert!(matches!(manager.lock("k").into_future().poll_unpin(cx), Poll::Ready(Ok(_))));
        Poll::Ready(())
    }));
    current_thread().block_on(async { yield_now().await });
}

#[test]
fn a_loop_that_never_waits_lets_other_tasks_run() {
    for nested in [false, true] {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let manager = LockManager::memory();
            let _outer = if nested { Some(manager.lock("k").await.unwrap()) } else { None };
            let seen = Arc::new(AtomicBool::new(false));
            let other = seen.clone();
            tokio::spawn(async move { other.store(true, Ordering::SeqCst) });
            let begun = Instant::now();
            while !seen.load(Ordering::SeqCst) {
                drop(manager.lock("k").await.unwrap());
                assert!(begun.elapsed() < Duration::from_secs(10), "the other task never ran (nested: {nested})");
            }
        });
    }
}

/// The same for a loop of any call that completes at once.
#[test]
fn a_loop_of_any_call_lets_other_tasks_run() {
    type Call = fn(LockManager, LockGuard) -> futures::future::LocalBoxFuture<'static, ()>;
    let calls: [(&str, Call); 9] = [
        ("is_locked", |manager, _guard| Box::pin(async move { assert!(manager.is_locked("k").await.unwrap()) })),
        ("info", |manager, _guard| Box::pin(async move { assert!(manager.info("k").await.unwrap().is_some()) })),
        ("list", |manager, _guard| Box::pin(async move { assert_eq!(manager.list("k").await.unwrap().len(), 1) })),
        ("ping", |manager, _guard| Box::pin(async move { assert!(manager.ping().await.is_ok()) })),
        ("renew", |_manager, guard| Box::pin(async move { assert!(guard.renew().await.is_ok()) })),
        ("run", |_manager, guard| Box::pin(async move { guard.run(async {}).await.unwrap() })),
        ("handle renew", |manager, _guard| {
            Box::pin(async move { assert!(manager.handle("k").unwrap().renew().await.is_ok()) })
        }),
        ("unlock", |manager, _guard| Box::pin(async move { manager.lock("k").await.unwrap().unlock().await.unwrap() })),
        ("force_unlock", |manager, _guard| Box::pin(async move { drop(manager.force_unlock("other").await.unwrap()) })),
    ];
    for (name, call) in calls {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let manager = LockManager::memory();
            let guard = manager.lock("k").await.unwrap();
            let seen = Arc::new(AtomicBool::new(false));
            let other = seen.clone();
            tokio::spawn(async move { other.store(true, Ordering::SeqCst) });
            let begun = Instant::now();
            while !seen.load(Ordering::SeqCst) {
                call(manager.clone(), guard.reenter().unwrap()).await;
                assert!(begun.elapsed() < Duration::from_secs(10), "the other task never ran: {name}");
            }
        });
    }
}
