//! Futures that are polled once and then neither polled nor dropped, on a real Redis: they hold nothing that other calls need.

use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use leasehold::{LockGuard, LockManager, Owner};
use support::PATIENCE;
use support::proxy::Proxy;
use support::redis::Redis;

/// The limit for an operation of less than 100 ms, on a busy machine. Far less than any timeout.
const PROMPT: Duration = Duration::from_millis(800);

type Left = Pin<Box<dyn Future<Output = ()>>>;

/// The kinds of calls.
const KINDS: [&str; 9] =
    ["lock", "waiting lock", "try_lock", "unlock", "info", "list", "ping", "renew", "force_unlock"];

/// Managers on one server.
struct Fixture {
    manager: LockManager,
    /// Holds the keys that the others wait for.
    other: LockManager,
    _taken: LockGuard,
}

impl Fixture {
    fn new(url: &str, replicas: u32) -> Self {
        let build = || {
            LockManager::builder()
                .url(url)
                .min_replicas(replicas)
                .timeout(Duration::from_secs(5))
                .build()
                .wait()
                .unwrap()
        };
        let (manager, other) = (build(), build());
        let taken = lock(&other, "taken");
        Self { manager, other, _taken: taken }
    }

    /// Polls a call `times` times, each after it was woken, and then no more.
    fn left(&self, kind: &str, number: usize, polls: usize) -> Left {
        let key = format!("{kind} {number}");
        let manager = &self.manager;
        let mut left: Left = match kind {
            "lock" => ignored(manager.lock(key).owner(&Owner::new()).into_future()),
            "waiting lock" => ignored(manager.lock("taken").owner(&Owner::new()).timeout(PATIENCE).into_future()),
            "try_lock" => ignored(manager.lock(key).owner(&Owner::new()).try_once()),
            "unlock" => ignored(lock(manager, &key).unlock()),
            "info" => ignored(manager.info("taken")),
            "list" => ignored(manager.list("")),
            "ping" => ignored(manager.ping()),
            "renew" => {
                let guard = lock(manager, &key);
                let renewal = guard.renew();
                ignored(async move {
                    let renewed = renewal.await;
                    drop(guard);
                    renewed
                })
            }
            "force_unlock" => ignored(manager.force_unlock(key).into_future()),
            _ => unreachable!("{kind}"),
        };
        let (waker, woken) = woken();
        for poll in 0..polls {
            // An acquire of a held lock is never woken.
            if poll > 0 && woken.recv_timeout(Duration::from_millis(20)).is_err() {
                break;
            }
            if left.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return Box::pin(std::future::ready(()));
            }
        }
        left
    }

    /// Returns how long a release and a lock of other keys take.
    fn bystander(&self, key: &str) -> [Duration; 2] {
        let held = lock(&self.manager, key);
        let start = Instant::now();
        held.unlock().wait().unwrap();
        let released = start.elapsed();
        let start = Instant::now();
        let next = self.manager.lock(format!("{key}, next")).owner(&Owner::new()).timeout(PATIENCE).wait().unwrap();
        let locked = start.elapsed();
        next.unlock().wait().unwrap();
        [released, locked]
    }
}

/// A waker, and the flag that it sets.
fn woken() -> (Waker, Receiver<()>) {
    struct Call(Mutex<Sender<()>>);
    impl Wake for Call {
        fn wake(self: Arc<Self>) {
            let _ = self.0.lock().unwrap().send(());
        }
    }
    let (call, called) = channel();
    (Arc::new(Call(Mutex::new(call))).into(), called)
}

fn lock(manager: &LockManager, key: &str) -> LockGuard {
    manager.lock(key).owner(&Owner::new()).timeout(PATIENCE).wait().unwrap()
}

fn ignored(call: impl Future + 'static) -> Left {
    Box::pin(async move {
        call.await;
    })
}

/// Each kind alone, six at a time.
fn each_kind(url: &str, replicas: u32) {
    let mut slow = Vec::new();
    for (kind, polls) in KINDS.into_iter().flat_map(|kind| [1, 2, 3].map(|polls| (kind, polls))) {
        let fixture = Fixture::new(url, replicas);
        let left: Vec<_> = (0..6).map(|number| fixture.left(kind, number, polls)).collect();
        let took = fixture.bystander(&format!("beside {kind}"));
        println!("{kind}, polled {polls} times: release and lock in {took:?}");
        if took.iter().any(|took| *took > PROMPT) {
            slow.push((kind, polls));
        }
        drop(left);
        fixture.manager.close().wait().unwrap();
        fixture.other.close().wait().unwrap();
    }
    assert!(slow.is_empty(), "slow beside {slow:?}");
}

#[test]
fn an_unpolled_call_blocks_no_other() {
    each_kind(&Redis::start().url(), 0);
}

#[test]
fn an_unpolled_call_blocks_no_other_with_replicas() {
    let master = Redis::start();
    let _replica = master.start_replica();
    each_kind(&master.url(), 1);
}

#[test]
fn two_hundred_unpolled_calls_block_no_other_and_cost_no_connection() {
    for replicas in [0, 1] {
        let master = Redis::start();
        let _replica = master.start_replica();
        let proxy = Proxy::start(master.address());
        let fixture = Fixture::new(&format!("redis://{}", proxy.address()), replicas);
        let accepted = proxy.accepted();
        let left: Vec<_> =
            (0..200).map(|number| fixture.left(KINDS[number % KINDS.len()], number, 1 + number % 3)).collect();
        let took = fixture.bystander("beside");
        println!("{replicas} replicas: release and lock in {took:?}");
        assert!(took.iter().all(|took| *took < PROMPT), "{took:?}");
        // A fixed pause: longer than an answer is waited for.
        std::thread::sleep(Duration::from_millis(2500));
        let took = fixture.bystander("beside, later");
        println!("{replicas} replicas: later in {took:?}");
        assert!(took.iter().all(|took| *took < PROMPT), "{took:?}");
        assert_eq!(proxy.accepted(), accepted, "no connection was abandoned");
        // Polled again, they complete, all but the waiters for a held key.
        drop(fixture._taken);
        block_on(futures::future::join_all(left));
        fixture.manager.close().wait().unwrap();
    }
}
