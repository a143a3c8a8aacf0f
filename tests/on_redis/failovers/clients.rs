//! The processes that contend for the locks.
//!
//! The name of a lock says how it is used: `<min_replicas>:<pace>:<number>`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager};
use rand::random_range;
use support::PATIENCE;
use support::child::{self, Child};
use support::folder::Folder;
use support::history::{History, Record, What};

use super::Servers;

/// The processes.
const PROCESSES: usize = 8;

/// How a lock is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Each hold is short.
    Fast,
    /// A third of the holds outlive renewals, some the TTL.
    Slow,
}

/// The name of a lock.
pub(super) fn name(min_replicas: u32, pace: Pace, number: usize) -> String {
    format!("{min_replicas}:{pace:?}:{number}")
}

pub(super) fn is_fast(key: &str) -> bool {
    key.contains("Fast")
}

/// How many replicas have to confirm a lock.
pub(super) fn min_replicas(key: &str) -> u32 {
    key.split(':').next().unwrap().parse().unwrap()
}

/// The processes, and what they have recorded.
pub(super) struct Clients {
    children: Vec<Child>,
    keys: Vec<String>,
    history: History,
    read: u64,
    records: Vec<Record>,
    /// When each process has acquired each lock last.
    last: BTreeMap<(u32, String), u64>,
    _folder: Folder,
}

impl Clients {
    pub(super) fn start(servers: &impl Servers) -> Self {
        let folder = Folder::new();
        let history = History::open(folder.path().join("history"));
        let (url, ttl, keys) = (servers.url(), servers.ttl().as_millis().to_string(), servers.keys().join(" "));
        let arguments = [&url, history.path().to_str().unwrap(), &ttl, &keys];
        let function = "failovers::clients::contender";
        let mut children: Vec<_> = (0..PROCESSES)
            .map(|number| match servers.islands().get(number) {
                Some(island) => Child::start("nsenter".into(), |command| {
                    command.args(island.within()).arg(std::env::current_exe().unwrap());
                    child::play(command, function, &arguments);
                }),
                None => Child::of_this_test(function, &arguments),
            })
            .collect();
        children.iter_mut().for_each(|child| child.expect("ready"));
        let (keys, records, last) = (servers.keys().to_vec(), Vec::new(), BTreeMap::new());
        Self { children, keys, history, read: 0, records, last, _folder: folder }
    }

    fn read(&mut self) {
        let new = self.history.records_after(&mut self.read);
        for record in new.iter().filter(|record| matches!(record.what, What::Acquired { .. })) {
            self.last.insert((process(record), record.key.clone()), record.at);
        }
        self.records.extend(new);
    }

    /// Waits until each process has acquired each lock with short holds after this time. Returns how long that takes.
    ///
    /// # Panics
    ///
    /// If a process does not within [`PATIENCE`], or has failed.
    pub(super) fn wait_for_all(&mut self, since: u64) -> Duration {
        let start = Instant::now();
        loop {
            self.read();
            for child in &mut self.children {
                assert!(child.process.ended().is_none(), "a process has failed");
            }
            let ids = self.children.iter().map(|child| child.process.id());
            let turns =
                ids.flat_map(|id| self.keys.iter().filter(|key| is_fast(key)).map(move |key| (id, key.clone())));
            let late: Vec<_> = turns.filter(|turn| self.last.get(turn).is_none_or(|at| *at < since)).collect();
            if late.is_empty() {
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "these do not get their turns: {late:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the processes. Returns all that they have recorded.
    pub(super) fn finish(mut self) -> Vec<Record> {
        self.children.iter_mut().for_each(|child| child.send("stop"));
        for child in std::mem::take(&mut self.children) {
            assert!(child.finish(), "a process has failed");
        }
        self.read();
        self.records
    }
}

/// The id of the process that has recorded this.
fn process(record: &Record) -> u32 {
    record.hold.split('-').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of a test, in a child process"]
async fn contender() {
    let Some(arguments) = child::role() else { return };
    let [url, history, ttl, keys] = &arguments[..] else { panic!("{arguments:?}") };
    let (history, ttl) = (History::open(history), Duration::from_millis(ttl.parse().unwrap()));
    let mut managers = BTreeMap::new();
    for replicas in keys.split(' ').map(min_replicas).collect::<BTreeSet<_>>() {
        let manager = LockManager::builder().url(url).ttl(ttl).min_replicas(replicas).build().await.unwrap();
        managers.insert(replicas, manager);
    }
    let enough = Arc::new(AtomicBool::new(false));
    let tasks = keys.split(' ').map(|key| {
        let (manager, key) = (managers[&min_replicas(key)].clone(), key.to_owned());
        tokio::spawn(Contender { manager, history: history.clone(), key, ttl, enough: enough.clone() }.contend())
    });
    let tasks: Vec<_> = tasks.collect();
    child::say("ready");
    tokio::task::spawn_blocking(child::hear).await.unwrap();
    enough.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    for manager in managers.values() {
        manager.close().await.unwrap();
    }
}

/// A task that locks one key again and again.
struct Contender {
    manager: LockManager,
    history: History,
    key: String,
    ttl: Duration,
    enough: Arc<AtomicBool>,
}

impl Contender {
    fn is_enough(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }

    async fn contend(self) {
        while !self.is_enough() {
            let request = self.manager.lock(&self.key);
            let request = if random_range(0..4) == 0 { request.shared() } else { request };
            let acquired = if random_range(0..8) == 0 {
                // Given up at any point, also when it is granted.
                let limit = Duration::from_millis(random_range(0..100));
                let Ok(acquired) = tokio::time::timeout(limit, request).await else { continue };
                acquired
            } else {
                request.await
            };
            match acquired {
                Ok(guard) => self.hold(guard).await,
                Err(error) => panic!("{}: {error}", self.key),
            }
        }
    }

    async fn hold(&self, guard: LockGuard) {
        let (hold, start) = (self.history.acquired(&guard), Instant::now());
        let time = match is_fast(&self.key) || random_range(0..3) > 0 {
            true => Duration::from_millis(random_range(5..25)),
            false => self.ttl.mul_f64(random_range(0.2..1.3)),
        };
        while start.elapsed() < time && !self.is_enough() {
            tokio::time::sleep(time.saturating_sub(start.elapsed()).min(Duration::from_millis(10))).await;
            if hold.is_lost(&guard) {
                return;
            }
        }
        hold.released();
        match random_range(0..2) {
            0 => drop(guard),
            // It may be lost by now.
            _ => drop(guard.unlock().await),
        }
    }
}
