//! Ways in which a program ends, each in a separate process: in every case, its lock is free afterwards.
//!
//! With its own test harness: the usual one runs tests on threads, but the end of a program concerns its main thread.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockGuards, LockManager};
use tokio::runtime::{Builder, Runtime};

use support::eventually;

const WAY: &str = "LEASEHOLD_WAY";
/// Long enough that no lock becomes free by its expiry.
const TTL: Duration = Duration::from_secs(60);

type Way = fn(&str);

/// Each way with the exit code that it ends with.
const WAYS: [(&str, Way, i32); 29] = [
    ("manager_before_guard", manager_before_guard, 0),
    ("guard_before_manager", guard_before_manager, 0),
    ("returned_from_a_function", returned_from_a_function, 0),
    ("kept_by_main_alone", kept_by_main_alone, 0),
    ("kept_in_a_thread_local", kept_in_a_thread_local, 0),
    ("kept_in_a_thread_local_with_its_manager", kept_in_a_thread_local_with_its_manager, 0),
    ("kept_in_a_thread_local_that_ends_last", kept_in_a_thread_local_that_ends_last, 0),
    ("a_static_manager", a_static_manager, 0),
    ("a_panic_that_is_caught", a_panic_that_is_caught, 0),
    ("a_panic_in_main", a_panic_in_main, 101),
    ("lock_all_after_its_manager", lock_all_after_its_manager, 0),
    ("a_task_when_its_runtime_ends", a_task_when_its_runtime_ends, 0),
    ("a_task_when_its_current_thread_runtime_ends", a_task_when_its_current_thread_runtime_ends, 0),
    ("a_body_that_returns_the_guard", a_body_that_returns_the_guard, 0),
    ("spawn_blocking", spawn_blocking, 0),
    ("a_thread_that_is_joined", a_thread_that_is_joined, 0),
    ("an_unlock_that_is_not_polled", an_unlock_that_is_not_polled, 0),
    ("an_unlock_that_is_polled_once", an_unlock_that_is_polled_once, 0),
    ("wait_in_a_destructor", wait_in_a_destructor, 0),
    ("wait_in_a_late_destructor", wait_in_a_late_destructor, 0),
    ("wait_in_a_panic_hook", wait_in_a_panic_hook, 0),
    ("wait_in_a_panic_hook_within_a_runtime", wait_in_a_panic_hook_within_a_runtime, 0),
    ("an_acquire_dropped_at_the_end", an_acquire_dropped_at_the_end, 0),
    ("scoped_threads", scoped_threads, 0),
    ("scoped_threads_of_a_main_that_locks", scoped_threads_of_a_main_that_locks, 0),
    ("a_thread_that_continues", a_thread_that_continues, 0),
    ("a_task_of_a_runtime_that_is_not_waited_for", a_task_of_a_runtime_that_is_not_waited_for, 0),
    ("a_fork", a_fork, 0),
    ("forks_among_busy_threads", forks_among_busy_threads, 0),
];

fn main() {
    if let Ok(way) = std::env::var(WAY) {
        let (way, url) = way.split_once(' ').unwrap();
        let (_, play, _) = WAYS.iter().find(|(name, ..)| *name == way).unwrap();
        return play(url);
    }
    // For `cargo nextest`, which lists the tests, and runs them by name.
    let arguments: Vec<_> = std::env::args().collect();
    let is_there = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    match (is_there("--list"), is_there("--ignored")) {
        (true, false) => println!("whatever_the_end_the_lock_is_free: test"),
        (true, true) => {}
        _ => test(),
    }
}

fn test() {
    println!("running 1 test");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let etcd = support::etcd::Etcd::start();
            all_ways(&etcd.url(), |way| {
                // A manager in a `static` is never dropped: its session ends by its TTL.
                let left = if way == "a_static_manager" { 1 } else { 0 };
                eventually(&format!("{way} leaves {left} leases"), || (etcd.leases().len() == left).then_some(()));
                for lease in etcd.leases() {
                    etcd.etcdctl(&["lease", "revoke", &lease]);
                }
            });
        });
        scope.spawn(|| {
            let redis = support::redis::Redis::start();
            all_ways(&redis.url(), |_| ());
        });
    });
    println!("test whatever_the_end_the_lock_is_free ... ok");
    println!("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
}

fn all_ways(url: &str, check: impl Fn(&str)) {
    for (way, _, code) in WAYS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(WAY, format!("{way} {url}"))
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        eventually(way, || child.try_wait().unwrap());
        let took = began.elapsed();
        let output = child.wait_with_output().unwrap();
        let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{way} on {url}: {} {said:?}", output.status);
        let observer = manager(url);
        for key in KEYS {
            let free = observer.try_lock(key).wait().unwrap();
            assert!(free.is_some(), "{way} on {url} left {key} locked after {took:?}: {said:?}");
            drop(free);
        }
        assert!(said.0.contains("held"), "{way}: {said:?}");
        observer.close().wait().unwrap();
        check(way);
    }
}

const KEYS: [&str; 2] = ["ends", "ends/2"];

fn manager(url: &str) -> LockManager {
    LockManager::builder().url(url).ttl(TTL).build().wait().unwrap()
}

fn lock(manager: &LockManager) -> LockGuard {
    let guard = manager.lock(KEYS[0]).wait().unwrap();
    println!("held");
    guard
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[expect(dead_code, reason = "its fields are dropped in their order")]
struct ManagerFirst {
    manager: LockManager,
    guard: LockGuard,
}

fn manager_before_guard(url: &str) {
    let manager = manager(url);
    let guard = lock(&manager);
    let _service = ManagerFirst { manager, guard };
}

#[expect(dead_code, reason = "its fields are dropped in their order")]
struct GuardFirst {
    guard: LockGuard,
    manager: LockManager,
}

fn guard_before_manager(url: &str) {
    let manager = manager(url);
    let _service = GuardFirst { guard: lock(&manager), manager };
}

fn made(url: &str) -> LockGuard {
    lock(&manager(url))
}

fn returned_from_a_function(url: &str) {
    let guard = made(url);
    assert!(!guard.is_lost());
}

fn kept_by_main_alone(url: &str) {
    let _guard = made(url);
    std::thread::sleep(Duration::from_millis(20));
}

thread_local! {
    static KEPT: RefCell<Vec<Box<dyn std::any::Any>>> = const { RefCell::new(Vec::new()) };
}

fn keep(what: impl std::any::Any) {
    KEPT.with(|kept| kept.borrow_mut().push(Box::new(what)));
}

fn kept_in_a_thread_local(url: &str) {
    keep(made(url));
}

fn kept_in_a_thread_local_with_its_manager(url: &str) {
    let manager = manager(url);
    let guard = lock(&manager);
    keep((manager, guard));
}

/// The thread-local is older than those of the library and tokio, so it is destroyed last.
fn kept_in_a_thread_local_that_ends_last(url: &str) {
    KEPT.with(|kept| kept.borrow_mut().clear());
    keep(made(url));
    let manager = manager(url);
    keep(manager.lock(KEYS[1]).wait().unwrap());
    keep(manager);
}

fn a_static_manager(url: &str) {
    static MANAGER: OnceLock<LockManager> = OnceLock::new();
    let _guard = lock(MANAGER.get_or_init(|| manager(url)));
}

fn a_panic_that_is_caught(url: &str) {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _guard = made(url);
        panic!("a test");
    }));
    assert!(caught.is_err());
}

fn a_panic_in_main(url: &str) {
    let _guard = made(url);
    panic!("a test");
}

fn lock_all_after_its_manager(url: &str) {
    fn made(url: &str) -> LockGuards {
        manager(url).lock_all(KEYS).wait().unwrap()
    }
    let guards = made(url);
    println!("held");
    drop(guards);
}

fn in_a_task(runtime: &Runtime, url: &str) {
    let manager = runtime.block_on(LockManager::builder().url(url).ttl(TTL).build()).unwrap();
    let (held, holds) = tokio::sync::oneshot::channel();
    let there = manager.clone();
    drop(manager);
    runtime.spawn(async move {
        let _guard = there.lock(KEYS[0]).await.unwrap();
        let _second = there.lock(KEYS[1]).await.unwrap();
        drop(there);
        held.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    runtime.block_on(holds).unwrap();
    println!("held");
}

fn a_task_when_its_runtime_ends(url: &str) {
    in_a_task(&runtime(), url);
}

fn a_task_when_its_current_thread_runtime_ends(url: &str) {
    in_a_task(&Builder::new_current_thread().enable_all().build().unwrap(), url);
}

fn a_body_that_returns_the_guard(url: &str) {
    let guard = runtime().block_on(async {
        let manager = LockManager::builder().url(url).ttl(TTL).build().await.unwrap();
        manager.lock(KEYS[0]).await.unwrap()
    });
    println!("held");
    drop(guard);
}

fn spawn_blocking(url: &str) {
    let (held, holds) = std::sync::mpsc::channel();
    let runtime = runtime();
    let url = url.to_owned();
    runtime.spawn_blocking(move || {
        let _guard = made(&url);
        held.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    });
    holds.recv().unwrap();
}

fn a_thread_that_is_joined(url: &str) {
    let guard = made(url);
    std::thread::spawn(move || drop(guard)).join().unwrap();
}

fn an_unlock_that_is_not_polled(url: &str) {
    let _never = made(url).unlock();
}

fn an_unlock_that_is_polled_once(url: &str) {
    use futures::FutureExt;
    let mut unlock = made(url).unlock();
    let _ = (&mut unlock).now_or_never();
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Calls in a destructor: they work or return an error, and never abort.
fn in_a_destructor(manager: LockManager, guard: LockGuard) -> impl FnMut() {
    let mut guard = Some(guard);
    move || {
        let allowed = |error: leasehold::LockError| assert_eq!(error.code(), "UNSUPPORTED", "{error}");
        match manager.try_lock(KEYS[1]).wait() {
            Ok(tried) => drop(tried.expect("free")),
            Err(error) => allowed(error),
        }
        match manager.lock(KEYS[0]).timeout(Duration::from_secs(5)).wait() {
            Ok(again) => assert_eq!(again.depth(), 2),
            Err(error) => allowed(error),
        }
        guard.take().unwrap().unlock().wait().unwrap_or_else(allowed);
    }
}

fn wait_in_a_destructor(url: &str) {
    let manager = manager(url);
    let guard = lock(&manager);
    keep(OnDrop(in_a_destructor(manager, guard)));
}

fn wait_in_a_late_destructor(url: &str) {
    // Created before tokio's thread-locals, so destroyed after them.
    KEPT.with(|kept| kept.borrow_mut().clear());
    let runtime = runtime();
    runtime.block_on(async { tokio::task::yield_now().await });
    wait_in_a_destructor(url);
}

fn hook(url: &str) {
    let url = url.to_owned();
    std::panic::set_hook(Box::new(move |_| {
        match LockManager::builder().url(&url).ttl(TTL).build().wait() {
            Ok(manager) => drop(manager.lock(KEYS[0]).wait().unwrap()),
            Err(error) => assert_eq!(error.code(), "UNSUPPORTED"),
        }
        println!("held");
    }));
}

fn wait_in_a_panic_hook(url: &str) {
    hook(url);
    assert!(catch_unwind(|| panic!("a test")).is_err());
}

fn wait_in_a_panic_hook_within_a_runtime(url: &str) {
    hook(url);
    let runtime = runtime();
    let _within = runtime.enter();
    assert!(catch_unwind(|| panic!("a test")).is_err());
    let task = runtime.spawn(async { panic!("a test") });
    assert!(futures::executor::block_on(task).is_err());
}

/// A scope ends with its closures, before the thread-locals are destroyed.
fn scoped_threads(url: &str) {
    std::thread::scope(|scope| {
        for key in KEYS {
            scope.spawn(move || {
                let _guard = manager(url).lock(key).wait().unwrap();
                println!("held");
            });
        }
    });
}

fn scoped_threads_of_a_main_that_locks(url: &str) {
    drop(made(url));
    let manager = manager(url);
    let guards = KEYS.map(|key| manager.lock(key).wait().unwrap());
    drop(manager);
    std::thread::scope(|scope| {
        for guard in guards {
            scope.spawn(move || drop(guard));
        }
    });
}

/// Its drop is confirmed although the thread never ends.
fn a_thread_that_continues(url: &str) {
    let guard = made(url);
    let (dropped, drops) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(guard);
        dropped.send(()).unwrap();
        std::thread::park();
    });
    drops.recv().unwrap();
}

fn a_task_of_a_runtime_that_is_not_waited_for(url: &str) {
    let runtime = runtime();
    let guard = runtime.block_on(async {
        let manager = LockManager::builder().url(url).ttl(TTL).build().await.unwrap();
        manager.lock(KEYS[0]).await.unwrap()
    });
    println!("held");
    runtime.block_on(runtime.spawn(async move { drop(guard) })).unwrap();
    runtime.shutdown_background();
}

/// A claim in the queue, whose owner and manager are dropped.
fn an_acquire_dropped_at_the_end(url: &str) {
    use futures::FutureExt;
    let (holder, waiter) = (manager(url), manager(url));
    let guard = lock(&holder);
    let mut waiting = waiter.lock(KEYS[0]).into_future();
    assert!((&mut waiting).now_or_never().is_none());
    drop(guard);
    drop((waiter, holder));
    drop(waiting);
}

fn a_fork(url: &str) {
    let manager = manager(url);
    let guard = lock(&manager);
    let lost = guard.lost();
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            // Ends like any program, without an effect on its parent's lock.
            assert!(!manager.handle(KEYS[0]).is_ok_and(|lock| lock.is_held()));
            drop(lost);
            drop((guard, manager));
        }
        fork::Fork::Parent(child) => {
            let status = fork::waitpid(child).unwrap();
            assert_eq!(status, 0, "the child ends well");
            let other = LockManager::builder().url(url).build().wait().unwrap();
            assert!(other.try_lock(KEYS[0]).wait().unwrap().is_none(), "the child released it");
        }
    }
}

/// A thread of the parent may hold any mutex at the fork; the child's copy is never unlocked.
fn forks_among_busy_threads(url: &str) {
    use futures::FutureExt;
    let manager = manager(url);
    let guard = lock(&manager);
    let handle = manager.handle(KEYS[0]).unwrap();
    let (guard, handle, manager) = (&guard, &handle, &manager);
    let done = &std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut lost = guard.lost();
                    let _ = (&mut lost).now_or_never();
                    let _ = (handle.is_held(), manager.stats(), guard.reenter().unwrap());
                    drop(manager.handle("unused").unwrap());
                }
            });
        }
        for _ in 0..100 {
            let mut lost = guard.lost();
            let _ = (&mut lost).now_or_never();
            let mut waiting = Some(manager.lock(KEYS[0]).into_future());
            let _ = waiting.as_mut().unwrap().now_or_never();
            let unused = manager.handle("unused in the child").unwrap();
            let mut asking = Some(handle.info());
            let _ = asking.as_mut().unwrap().now_or_never();
            match fork::fork().unwrap() {
                fork::Fork::Child => {
                    assert!(!handle.is_held() && manager.stats().held == 0);
                    assert_eq!(guard.reenter().unwrap_err().code(), "CLOSED");
                    assert_eq!(manager.lock(KEYS[1]).wait().unwrap_err().code(), "CLOSED");
                    let _ = format!("{guard:?} {handle:?} {manager:?} {lost:?} {:?}", guard.remaining());
                    let _ = (guard.is_lost(), lost.now_or_never());
                    drop((waiting.take(), asking.take(), unused));
                    std::process::exit(0);
                }
                fork::Fork::Parent(child) => {
                    let patience = Instant::now() + Duration::from_secs(10);
                    while rustix::process::waitpid(
                        rustix::process::Pid::from_raw(child),
                        rustix::process::WaitOptions::NOHANG,
                    )
                    .unwrap()
                    .is_none()
                    {
                        assert!(Instant::now() < patience, "the child hangs");
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
