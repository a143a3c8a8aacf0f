//! Futures and guards that are dropped at any point, crowds, and refused attempts.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures::future::join_all;
use leasehold::{LockGuard, LockManager, Owner};
use rustix::process::{Signal, getpid, kill_process};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::fixture::{Fixture, Held, LONG, SLACK};
use crate::server::Server;
use crate::table::Absence::NoServer;
use crate::table::Cell::{Absent, Run};
use crate::table::{Backend, Fault};
use support::etcd::Etcd;
use support::{PATIENCE, eventually};

pub(crate) const FAULTS: &[Fault] = &[
    Fault::everywhere(40, "An acquire dropped at each Pending: nothing is left after 1 s", dropped_at_each_pending),
    Fault::everywhere(41, "timeout(acquire) races the grant, 10,000 times: nothing is left", timeouts),
    Fault::everywhere(
        42,
        "Guard dropped after its runtime's end, on a thread, in a panic, in a signal's task: released",
        dropped,
    ),
    Fault::everywhere(43, "Readers without pause: a writer gets in", readers),
    Fault::everywhere(44, "1,000 waiters on one key: all get in, in order, each woken once", crowd),
    Fault {
        number: 45,
        name: "Wrong password, no permission, wrong type of key, unknown host: a clear error within the timeout",
        cells: [Absent(NoServer), Run(refused_by_etcd), Run(refused_by_redis)],
    },
];

/// A waker that wakes a thread, and records that it did.
struct Alarm {
    thread: Thread,
    rang: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Polls an acquire `times` times, each after it was woken, then drops it. Returns the guard, if it was granted.
fn polled(manager: &LockManager, key: &str, polls: usize, between: impl FnOnce()) -> Option<LockGuard> {
    let alarm = Arc::new(Alarm { thread: std::thread::current(), rang: AtomicBool::new(false) });
    let waker = Waker::from(alarm.clone());
    let mut acquire = manager.lock(key).owner(&Owner::new()).into_future();
    let mut between = Some(between);
    for _ in 0..polls {
        if let Poll::Ready(guard) = std::pin::Pin::new(&mut acquire).poll(&mut Context::from_waker(&waker)) {
            return Some(guard.unwrap());
        }
        if let Some(between) = between.take() {
            between();
        }
        let patience = Instant::now() + Duration::from_millis(50);
        while !alarm.rang.swap(false, Ordering::SeqCst) && Instant::now() < patience {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
    None
}

fn dropped_at_each_pending(fixture: &mut Fixture) {
    let (manager, rival) = (fixture.manager(LONG), fixture.manager(LONG));
    for round in fixture.rounds(10) {
        for contended in [false, true] {
            for polls in 1..12 {
                let key = format!("k{round}-{contended}-{polls}");
                let mut held = contended.then(|| fixture.hold(&rival, &key));
                // The lock becomes free between two polls, or only at the end.
                let release_early = polls % 2 == 0;
                let early = if release_early { held.take() } else { None };
                let guard = polled(&manager, &key, polls, || early.into_iter().for_each(Held::unlock));
                let is_ready = guard.is_some();
                drop(guard);
                held.into_iter().for_each(Held::unlock);
                let start = Instant::now();
                eventually("nothing is left of it", || rival.info(&key).wait().unwrap().is_none().then_some(()));
                assert!(start.elapsed() < SLACK, "{key}: {:?}", start.elapsed());
                if is_ready && !contended {
                    break;
                }
            }
        }
        eventually("no waiter is left", || (manager.stats().waiting + manager.stats().held == 0).then_some(()));
    }
    fixture.hold(&manager, "k").unlock();
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn timeouts(fixture: &mut Fixture) {
    let times = fixture.many(10_000, 500);
    let managers = [fixture.manager(LONG), fixture.manager(LONG)];
    let start = Instant::now();
    for _ in 0..20 {
        managers[0].lock("k").wait().unwrap().unlock().wait().unwrap();
    }
    let pair = start.elapsed() / 20;
    runtime().block_on(async {
        let fixture = &*fixture;
        let lane = async |manager: &LockManager| {
            for _ in 0..times / 2 {
                let limit = rand::random_range(Duration::ZERO..3 * pair);
                let acquire = manager.lock("k").owner(&Owner::new());
                if let Ok(guard) = tokio::time::timeout(limit, acquire).await {
                    let guard = fixture.record(guard.unwrap()).release();
                    guard.unlock().await.unwrap();
                }
            }
        };
        tokio::join!(lane(&managers[0]), lane(&managers[1]));
    });
    eventually("the key is free", || managers[0].info("k").wait().unwrap().is_none().then_some(()));
    for manager in &managers {
        assert_eq!(manager.stats().waiting + manager.stats().held, 0);
    }
    fixture.hold(&managers[0], "k").unlock();
}

type Drops = fn(Held);

fn dropped(fixture: &mut Fixture) {
    let after_the_runtimes_end = |held: Held| {
        let runtime = runtime();
        let (send, held_back) = channel();
        runtime.spawn(async move { send.send(held) });
        let held: Held = held_back.recv().unwrap();
        drop(runtime);
        held.drop();
    };
    let on_a_thread = |held: Held| {
        std::thread::spawn(move || held.drop()).join().unwrap();
    };
    let in_a_panic = |held: Held| {
        let guard = held.release();
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _guard = guard;
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(unwound.is_err());
    };
    let in_a_signals_task = |held: Held| {
        runtime().block_on(async {
            let mut signals = signal(SignalKind::user_defined1()).unwrap();
            let task = tokio::spawn(async move {
                signals.recv().await;
                held.drop();
            });
            kill_process(getpid(), Signal::USR1).unwrap();
            task.await.unwrap();
        });
    };
    let ways: [Drops; 4] = [after_the_runtimes_end, on_a_thread, in_a_panic, in_a_signals_task];
    let (holder, waiter) = (fixture.manager(LONG), fixture.manager(LONG));
    for _ in fixture.rounds(5) {
        for way in ways {
            let held = fixture.hold(&holder, "k");
            let waiting = fixture.wait_for(&waiter, "k");
            let start = Instant::now();
            way(held);
            fixture.next_holder(&waiting, start);
        }
    }
}

fn readers(fixture: &mut Fixture) {
    const READERS: usize = 3;
    const HOLD: Duration = Duration::from_millis(20);
    let managers: Vec<_> = (0..READERS).map(|_| fixture.manager(LONG)).collect();
    let writer = fixture.manager(LONG);
    let (ended, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (ended, rounds) = (&ended, &rounds);
    let times: Vec<_> = std::thread::scope(|scope| {
        let fixture = &*fixture;
        for (number, manager) in managers.iter().enumerate() {
            scope.spawn(move || {
                // They never end together.
                std::thread::sleep(HOLD * number as u32 / READERS as u32);
                while !ended.load(Ordering::SeqCst) {
                    let held = fixture.hold_as(manager.lock("k").shared());
                    std::thread::sleep(HOLD);
                    held.unlock();
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let write = |_| {
            let before = rounds.load(Ordering::SeqCst);
            eventually("readers lock and unlock", || (rounds.load(Ordering::SeqCst) > before + READERS).then_some(()));
            let start = Instant::now();
            let held = fixture.hold(&writer, "k");
            let took = start.elapsed();
            held.unlock();
            took
        };
        let times = fixture.rounds(20).map(write).collect();
        ended.store(true, Ordering::SeqCst);
        times
    });
    for took in times {
        assert!(took < SLACK, "{took:?}");
        fixture.next(took);
    }
}

fn crowd(fixture: &mut Fixture) {
    let (count, polls) = (fixture.many(1000, 200), AtomicUsize::new(0));
    let (holder, manager) = (fixture.manager(LONG), fixture.manager(LONG));
    let first = fixture.hold(&holder, "k");
    let (order, times) = Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (order, times) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let released = Cell::new(Instant::now());
        let mut requests: Vec<_> = (0..count).map(|_| manager.lock("k").owner(&Owner::new()).into_future()).collect();
        // Their places are taken at the first poll.
        for request in &mut requests {
            assert!(futures::poll!(request).is_pending());
        }
        let waiters = requests.into_iter().enumerate().map(|(number, mut request)| {
            let (order, times, released, polls, fixture) = (&order, &times, &released, &polls, &*fixture);
            async move {
                let guard = std::future::poll_fn(|context| {
                    polls.fetch_add(1, Ordering::SeqCst);
                    std::pin::Pin::new(&mut request).poll(context)
                });
                let held = fixture.record(guard.await.unwrap());
                times.borrow_mut().push(released.get().elapsed());
                order.borrow_mut().push(number);
                released.set(Instant::now());
                held.drop();
            }
        });
        let release = async {
            released.set(Instant::now());
            first.release().unlock().await.unwrap();
        };
        // join_all of more than 30 polls only woken futures.
        futures::join!(join_all(waiters), release);
        (order.into_inner(), times.into_inner())
    });
    times.into_iter().for_each(|time| fixture.next(time));
    assert!(order.is_sorted() && order.len() == count, "{order:?}");
    let polls = polls.load(Ordering::SeqCst);
    assert!(polls <= 3 * count, "{polls} polls of {count}: a release wakes more than one");
}

/// Asserts that an attempt that cannot succeed ends soon, with an error.
fn is_refused(what: &str, attempt: impl FnOnce() -> leasehold::Result<LockGuard>) {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let start = Instant::now();
    let error = attempt().map(drop).expect_err(what);
    assert!(start.elapsed() < TIMEOUT + SLACK, "{what}: {:?}", start.elapsed());
    assert_eq!(error.code(), "BACKEND", "{what}: {error}");
}

fn lock_at(url: &str) -> leasehold::Result<LockGuard> {
    LockManager::builder().url(url).ttl(LONG).build().wait()?.lock("k").wait()
}

fn refused_by_etcd(fixture: &mut Fixture) {
    let etcd = Etcd::start_with(&["--bcrypt-cost=4"]);
    for user in ["root", "joe"] {
        etcd.etcdctl(&["user", "add", &format!("{user}:secret")]);
    }
    etcd.etcdctl(&["auth", "enable"]);
    let url = etcd.url();
    fixture.use_server(Server::Etcd(Box::new(etcd)));
    let with = |user: &str| url.replace("//", &format!("//{user}@"));
    is_refused("wrong password", || lock_at(&with("root:wrong")));
    is_refused("no permission", || lock_at(&with("joe:secret")));
    is_refused("unknown host", || lock_at("etcd://nobody.invalid:2379"));
    let builder = fixture.at(LockManager::builder().url(with("root:secret")), LONG);
    fixture.hold(&builder.build().wait().unwrap(), "k").unlock();
    fixture.etcd().etcdctl(&["--user", "root:secret", "auth", "disable"]);
}

fn refused_by_redis(fixture: &mut Fixture) {
    assert!(matches!(fixture.backend(), Backend::Redis(_)));
    let url = fixture.url();
    let with = |user: &str| url.replace("//", &format!("//{user}@"));
    fixture.redis().cli(&["ACL", "SETUSER", "joe", "on", ">secret", "~other:*", "+@all"]);
    fixture.redis().cli(&["LPUSH", "lock:k", "a list"]);
    is_refused("wrong password", || lock_at(&with("joe:wrong")));
    is_refused("no permission", || lock_at(&with("joe:secret")));
    is_refused("unknown host", || lock_at("redis://nobody.invalid:6379"));
    is_refused("wrong type of key", || lock_at(&url));
    fixture.redis().cli(&["DEL", "lock:k"]);
    fixture.hold_as(fixture.manager(LONG).lock("k").timeout(PATIENCE)).unlock();
}
