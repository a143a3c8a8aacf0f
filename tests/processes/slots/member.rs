//! The processes of the crowd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leasehold::{LockError, LockGuard, LockManager, LockRequest, Owner};
use rand::random_range;
use support::PATIENCE;
use support::child::{self, Child};
use support::history::{History, Record, now};
use support::proxy::Proxy;

use super::{KEYS, LIMITS, Server, TTL};

const PROCESSES: usize = 6;

/// The tasks of each process.
const TASKS: usize = 3;

/// A process, and the network between it and the server.
pub(super) struct Member {
    pub(super) child: Child,
    pub(super) proxy: Proxy,
}

pub(super) struct Members {
    pub(super) all: Vec<Member>,
    server: Server,
    history: History,
    surplus: u32,
}

/// The id of the process that has recorded this.
pub(super) fn of(record: &Record) -> u32 {
    record.hold.split('-').next().unwrap().parse().unwrap()
}

impl Members {
    pub(super) fn start(server: Server, history: &History, surplus: u32) -> Self {
        let mut members = Self { all: Vec::new(), server, history: history.clone(), surplus };
        for _ in 0..PROCESSES {
            let proxy = Proxy::start(server.address);
            let child = members.child(&proxy);
            members.all.push(Member { child, proxy });
        }
        members
    }

    fn child(&self, proxy: &Proxy) -> Child {
        let (url, surplus) = (self.server.url(proxy.address()), self.surplus.to_string());
        Child::of_this_test("slots::member::contender", &[&url, self.history.path().to_str().unwrap(), &surplus])
    }

    /// Kills a process, and starts another one.
    pub(super) fn replace(&mut self, number: usize) {
        self.all[number].child.process.kill();
        self.all[number].child = self.child(&self.all[number].proxy);
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u32> {
        self.all.iter().map(|member| member.child.process.id())
    }

    pub(super) fn assert_alive(&mut self) {
        for member in &mut self.all {
            assert!(member.child.process.ended().is_none(), "a process has failed");
        }
    }

    /// Ends the processes.
    pub(super) fn finish(mut self) {
        self.all.iter_mut().for_each(|member| member.child.send("stop"));
        for member in self.all {
            assert!(member.child.finish(), "a process has failed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of a test, in a child process"]
async fn contender() {
    let Some(arguments) = child::role() else { return };
    let [url, history, surplus] = &arguments[..] else { panic!("{arguments:?}") };
    let manager = loop {
        match LockManager::builder().url(url).ttl(TTL).timeout(PATIENCE).build().await {
            Ok(manager) => break manager,
            // Its connection was reset already.
            Err(error) if error.code() == "BACKEND" => pause(5..50).await,
            Err(error) => panic!("{error}"),
        }
    };
    let enough = Arc::<AtomicBool>::default();
    let contender = |_| {
        let (history, surplus) = (History::open(history), surplus.parse().unwrap());
        let contender = Contender { manager: manager.clone(), history, surplus, enough: enough.clone() };
        tokio::spawn(contender.contend())
    };
    let tasks: Vec<_> = (0..TASKS).map(contender).collect();
    tokio::task::spawn_blocking(child::hear).await.unwrap();
    enough.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    manager.close().await.unwrap();
}

/// A task that takes one slot after another.
struct Contender {
    manager: LockManager,
    history: History,
    /// By how much its claims exceed the limits that it records.
    surplus: u32,
    enough: Arc<AtomicBool>,
}

impl Contender {
    fn is_enough(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }

    async fn contend(self) {
        while !self.is_enough() {
            let (key, others) = KEYS[random_range(0..KEYS.len())];
            let request = self.manager.lock(key).owner(&Owner::new());
            let (request, limit) = match random_range(0..2 * others) {
                0 => (request, None),
                1 => (request.shared(), None),
                _ => {
                    let limit = LIMITS[random_range(0..LIMITS.len())];
                    (request.limit(limit + self.surplus), Some(limit))
                }
            };
            let asked = now();
            match acquire(request).await {
                Ok(Some(guard)) => self.hold(guard, limit, asked).await,
                Ok(None) => {}
                // While its connection is cut, or after it was stopped.
                Err(error) if ["BACKEND", "LOCK_EXPIRED"].contains(&error.code()) => pause(5..50).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn hold(&self, guard: LockGuard, limit: Option<u32>, asked: u64) {
        // It was stopped for long when the grant arrived.
        if guard.is_lost() {
            return;
        }
        let hold = limit
            .map_or_else(|| self.history.acquired(&guard), |limit| self.history.acquired_slot(&guard, limit, asked));
        let (start, time) = (
            Instant::now(),
            match random_range(0..128) {
                0 if limit.is_some() => TTL.mul_f64(f64::from(random_range(30..130)) / 100.0),
                1..8 => Duration::from_millis(random_range(20..60)),
                _ => Duration::from_millis(random_range(1..12)),
            },
        );
        while start.elapsed() < time && !self.is_enough() {
            tokio::time::sleep(time.saturating_sub(start.elapsed()).min(Duration::from_millis(20))).await;
            if hold.is_lost(&guard) {
                return;
            }
        }
        hold.released();
        match random_range(0..2) {
            0 => drop(guard),
            // It may be lost by now, or the server not be reached.
            _ => drop(guard.unlock().await),
        }
    }
}

/// Acquires in one of the ways in which a request can end. None of the waits is so long that it ends without a grant.
async fn acquire(request: LockRequest) -> Result<Option<LockGuard>, LockError> {
    match random_range(0..8) {
        0 => request.try_once().await,
        1 => request.try_for(Duration::from_millis(random_range(0..100))).await,
        2 => {
            // Dropped at any point, also when it is granted.
            let limit = Duration::from_millis(random_range(0..60));
            let acquired = tokio::time::timeout(limit, request).await;
            acquired.map_or(Ok(None), |acquired| acquired.map(Some))
        }
        _ => request.await.map(Some),
    }
}

async fn pause(milliseconds: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random_range(milliseconds))).await;
}
