//! The background thread: guards live without the user's runtime, and unused data is removed.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use leasehold::testing::MemoryStore;
use support::{PATIENCE, eventually, in_a_separate_process};

const TTL: Duration = Duration::from_secs(1);

fn becomes_free(manager: &LockManager, key: &str) {
    eventually("the key is free", || manager.info(key).wait().unwrap().is_none().then_some(()));
}

#[test]
fn guards_can_be_dropped_after_the_end_of_the_runtime() {
    let store = MemoryStore::new();
    let build = || LockManager::builder().backend(store.link()).ttl(TTL).build();
    let observer = build().wait().unwrap();
    let runtimes = [
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        // Neither timers nor sockets.
        tokio::runtime::Builder::new_current_thread().build().unwrap(),
    ];
    for runtime in runtimes {
        // The manager is created in the runtime, too.
        let (manager, one, two, stuck) = runtime.block_on(async {
            let manager = build().await.unwrap();
            let (one, two) = (manager.lock("one").await.unwrap(), manager.lock("two").await.unwrap());
            let task = manager.clone();
            let stuck = tokio::spawn(async move {
                let _guard = task.lock("three").await.unwrap();
                std::future::pending::<()>().await;
            });
            while !manager.handle("three").unwrap().is_held() {
                tokio::task::yield_now().await;
            }
            (manager, one, two, stuck)
        });
        // The shutdown drops the task and its guard.
        drop(runtime);
        drop(stuck);
        becomes_free(&observer, "three");
        // A pause, not an event: the holds are renewed without a runtime of the test.
        std::thread::sleep(2 * TTL);
        assert!(!one.is_lost() && observer.is_locked("one").wait().unwrap());
        let start = Instant::now();
        drop(one);
        println!("drop took {:?}", start.elapsed());
        becomes_free(&observer, "one");
        std::thread::spawn(move || drop(two)).join().unwrap();
        becomes_free(&observer, "two");
        drop(manager.lock("one").wait().unwrap());
    }
}

#[test]
fn a_guard_is_dropped_with_its_unwinding_thread_or_task() {
    let manager = LockManager::memory();
    let thread = manager.clone();
    let panicked = std::thread::spawn(move || {
        let _guard = thread.lock("k").wait().unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    becomes_free(&manager, "k");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let task = manager.clone();
    let panicked = runtime.spawn(async move {
        let _guard = task.lock("k").await.unwrap();
        panic!("on purpose");
    });
    assert!(runtime.block_on(panicked).is_err());
    becomes_free(&manager, "k");
    drop(manager.try_lock("k").wait().unwrap().expect("free"));
}

#[test]
fn waiters_are_woken_under_any_executor() {
    let manager = LockManager::memory();
    let held = manager.lock("k").wait().unwrap();
    let (smol, futures, thread) = (manager.clone(), manager.clone(), manager.clone());
    let waiters = [
        std::thread::spawn(move || smol::block_on(smol.lock("k").into_future()).map(|guard| guard.token())),
        std::thread::spawn(move || {
            futures::executor::block_on(futures.lock("k").into_future()).map(|guard| guard.token())
        }),
        std::thread::spawn(move || thread.lock("k").wait().map(|guard| guard.token())),
    ];
    eventually("all wait", || (manager.stats().waiting == 3).then_some(()));
    drop(held);
    let start = Instant::now();
    let mut tokens = waiters.map(|waiter| waiter.join().unwrap().unwrap());
    assert!(start.elapsed() < PATIENCE);
    tokens.sort();
    assert!(tokens[0] < tokens[1] && tokens[1] < tokens[2]);
    // Timeouts need a timer, which none of these executors provides.
    let _held = manager.lock("k").wait().unwrap();
    let request = || manager.lock("k").owner(&leasehold::Owner::new()).timeout(Duration::from_millis(30)).into_future();
    for error in [smol::block_on(request()), futures::executor::block_on(request())] {
        assert_eq!(error.unwrap_err().code(), "LOCK_TIMEOUT");
    }
}

#[test]
fn keys_used_once_leave_nothing() {
    in_a_separate_process!();
    let manager = LockManager::memory();
    let start = Instant::now();
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4 / 1024
    };
    let round = |from: u32| {
        for n in from..from + 100_000 {
            let guard = manager.lock(format!("user/{n}/profile")).wait().unwrap();
            if n % 1000 == 0 {
                assert!(manager.stats().keys < 10);
            }
            drop(guard);
        }
    };
    round(0);
    let before = resident();
    round(100_000);
    round(200_000);
    let after = resident();
    println!("300,000 keys in {:?}; {before} MiB after the first third, {after} MiB at the end", start.elapsed());
    assert_eq!(manager.stats().keys, 0);
    assert!(after < before + 10, "{before} MiB, then {after} MiB");
    assert_eq!(manager.list("").wait().unwrap(), []);
}
