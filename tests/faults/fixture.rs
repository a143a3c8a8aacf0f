//! The fixture of a fault: a separate server, managers, a history, and figures.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use leasehold::testing::MemoryStore;
use leasehold::{LockError, LockGuard, LockManager, LockManagerBuilder, LockRequest};

use crate::server::Server;
use crate::table::{Backend, Figures};
use crate::wire::Wire;
use support::child::Child;
use support::etcd::{Cluster, Etcd};
use support::folder::Folder;
use support::history::{History, Hold, What, judge};
use support::redis::Redis;
use support::{self, PATIENCE, eventually};

/// The TTL for leases that should end.
pub(crate) const SHORT: Duration = Duration::from_secs(3);
/// The TTL for leases that should survive an interruption.
pub(crate) const LONG: Duration = Duration::from_secs(9);
/// The bound for losses that the server reports.
pub(crate) const REPORTED: Duration = Duration::from_millis(200);
/// The tolerance for a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(1);

/// One fault on one backend.
pub(crate) struct Fixture {
    backend: Backend,
    full: bool,
    server: OnceLock<Server>,
    history: History,
    folder: Folder,
    longest: Mutex<Duration>,
    bound: Option<(Duration, &'static str)>,
    losses: Vec<Duration>,
    nexts: Vec<Duration>,
}

impl Fixture {
    pub(crate) fn new(backend: Backend, full: bool) -> Self {
        let folder = Folder::new();
        let history = History::open(folder.path().join("history"));
        Self {
            backend,
            full,
            server: OnceLock::new(),
            history,
            folder,
            longest: Mutex::default(),
            bound: None,
            losses: Vec::new(),
            nexts: Vec::new(),
        }
    }

    /// The rounds of a fault: `full` for the document, else one.
    pub(crate) fn rounds(&self, full: usize) -> std::ops::Range<usize> {
        0..if self.full { full } else { 1 }
    }

    /// Whether the figures are for the document.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// A number that differs between a full run and a check.
    pub(crate) fn many(&self, full: usize, few: usize) -> usize {
        if self.full { full } else { few }
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// Uses this server instead of one with default settings. Must be called first.
    pub(crate) fn use_server(&mut self, server: Server) {
        assert!(self.server.set(server).is_ok(), "there is a server already");
    }

    fn server(&self) -> &Server {
        self.server.get_or_init(|| Server::start(self.backend))
    }

    pub(crate) fn store(&self) -> &MemoryStore {
        let Server::Memory(store) = self.server() else { panic!("not in memory") };
        store
    }

    pub(crate) fn etcd(&self) -> &Etcd {
        let Server::Etcd(etcd) = self.server() else { panic!("not on etcd") };
        etcd
    }

    pub(crate) fn cluster(&self) -> &Cluster<3> {
        let Server::Cluster(cluster) = self.server() else { panic!("not on a cluster") };
        cluster
    }

    pub(crate) fn redis(&self) -> &Redis {
        let Server::Redis(redis) = self.server() else { panic!("not on Redis") };
        redis
    }

    /// The directory of locks in files.
    pub(crate) fn locks(&self) -> PathBuf {
        let Server::Files(folder) = self.server() else { panic!("not in files") };
        folder.path().join("locks")
    }

    pub(crate) fn cluster_mut(&mut self) -> &mut Cluster<3> {
        let Some(Server::Cluster(cluster)) = self.server.get_mut() else { panic!("not on a cluster") };
        cluster
    }

    /// Kills the server's process with SIGKILL.
    pub(crate) fn kill_server(&mut self) {
        match self.server.get_mut() {
            Some(Server::Etcd(etcd)) => etcd.kill(),
            Some(Server::Redis(redis)) => redis.kill(),
            _ => panic!("no process"),
        }
    }

    /// Kills the server's process if it runs, and starts it again with its data.
    pub(crate) fn restart_server(&mut self) {
        match self.server.get_mut() {
            Some(Server::Etcd(etcd)) => etcd.restart(),
            Some(Server::Redis(redis)) => redis.restart(),
            _ => panic!("no process"),
        }
    }

    /// Stops the server's process, or the store.
    pub(crate) fn stop_server(&self) {
        match self.server() {
            Server::Memory(store) => store.pause(),
            Server::Etcd(etcd) => etcd.process().stop(),
            Server::Redis(redis) => redis.process().stop(),
            Server::Cluster(_) | Server::Watched(_) | Server::RedisCluster(_) => panic!("which member?"),
            Server::Files(_) => panic!("no server"),
        }
    }

    pub(crate) fn resume_server(&self) {
        match self.server() {
            Server::Memory(store) => store.resume(),
            Server::Etcd(etcd) => etcd.process().resume(),
            Server::Redis(redis) => redis.process().resume(),
            Server::Cluster(_) | Server::Watched(_) | Server::RedisCluster(_) => panic!("which member?"),
            Server::Files(_) => panic!("no server"),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.server().url()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Settings of a manager with a separate connection.
    pub(crate) fn builder(&self, ttl: Duration) -> LockManagerBuilder {
        match self.server() {
            Server::Memory(store) => self.at(LockManager::builder().backend(store.link()), ttl),
            _ => self.at(LockManager::builder().url(self.url()), ttl),
        }
    }

    /// Sets the TTL, which [`finish`](Self::finish) waits for.
    pub(crate) fn at(&self, builder: LockManagerBuilder, ttl: Duration) -> LockManagerBuilder {
        let mut longest = self.longest.lock().unwrap();
        *longest = ttl.max(*longest);
        builder.ttl(ttl)
    }

    pub(crate) fn manager(&self, ttl: Duration) -> LockManager {
        self.builder(ttl).build().wait().unwrap()
    }

    /// A manager whose timeout is this short, and the network between it and the server.
    pub(crate) fn behind(&self, ttl: Duration, timeout: Duration) -> (Wire, LockManager) {
        let (wire, builder) = Wire::in_front_of(self.server());
        (wire, self.at(builder, ttl).name("behind").timeout(timeout).build().wait().unwrap())
    }

    /// Locks, and records the hold.
    pub(crate) fn hold(&self, manager: &LockManager, key: &str) -> Held {
        self.hold_as(manager.lock(key).timeout(PATIENCE))
    }

    pub(crate) fn hold_as(&self, request: LockRequest) -> Held {
        self.record(request.wait().unwrap())
    }

    /// Records a hold that was just acquired.
    pub(crate) fn record(&self, guard: LockGuard) -> Held {
        let hold = self.history.acquired(&guard);
        Held { guard, hold }
    }

    /// Locks on a separate thread; returns once the waiter is in the queue.
    pub(crate) fn wait_for(&self, manager: &LockManager, key: &str) -> Waiting {
        let waiting = self.waiting(manager.lock(key));
        eventually("the waiter is in the queue", || (manager.info(key).wait().ok()??.waiters > 0).then_some(()));
        waiting
    }

    /// Locks on a separate thread.
    pub(crate) fn waiting(&self, request: LockRequest) -> Waiting {
        let (history, (got, answer)) = (self.history.clone(), channel());
        std::thread::spawn(move || {
            let guard = request.wait();
            let held = guard.map(|guard| {
                let hold = history.acquired(&guard);
                Held { guard, hold }
            });
            let _ = got.send((held, Instant::now()));
        });
        Waiting(answer)
    }

    /// Starts a process that runs a function of this test with the server's URL, the folder with the history, the key and the TTL,
    /// and waits until it is ready.
    pub(crate) fn child(&self, role: &str, key: &str, ttl: Duration) -> Child {
        self.child_at(&self.url(), role, key, ttl)
    }

    pub(crate) fn child_at(&self, url: &str, role: &str, key: &str, ttl: Duration) -> Child {
        let mut longest = self.longest.lock().unwrap();
        *longest = ttl.max(*longest);
        let (folder, ttl) = (self.folder.path().to_str().unwrap(), ttl.as_millis().to_string());
        let mut child = Child::of_this_test(role, &[url, folder, key, &ttl]);
        child.expect("ready");
        child
    }

    /// Records the time from the fault to the loss of a hold.
    pub(crate) fn loss(&mut self, after: Duration) {
        self.losses.push(after);
    }

    /// Records the time from the fault or the release to the next hold.
    pub(crate) fn next(&mut self, after: Duration) {
        self.nexts.push(after);
    }

    /// Waits for the loss of a hold by the fault at `start`, and records it. It must be reported within `bound`.
    pub(crate) fn expect_loss(&mut self, held: &Held, start: Instant, bound: Duration) {
        let took = held.lost() - start;
        self.loss(took);
        assert!(took < bound + SLACK, "{took:?}");
    }

    /// Waits for the next holder, records the time since `start`, and unlocks. Returns its token, and the time.
    pub(crate) fn next_holder(&mut self, waiting: &Waiting, start: Instant) -> (u64, Duration) {
        let (next, at) = waiting.got();
        let (token, took) = (next.token(), at.saturating_duration_since(start));
        self.next(took);
        next.unlock();
        (token, took)
    }

    /// Unlocks, and waits for the [next holder](Self::next_holder). Returns the time between them.
    pub(crate) fn hand_over(&mut self, held: Held, waiting: &Waiting) -> Duration {
        let released = Instant::now();
        held.unlock();
        self.next_holder(waiting, released).1
    }

    /// Restarts the server of a holder and a waiter: both survive.
    pub(crate) fn restart_without_loss(&mut self) {
        let (holder, waiter) = (self.manager(LONG), self.manager(LONG));
        let held = self.hold(&holder, "k");
        let waiting = self.wait_for(&waiter, "k");
        let start = Instant::now();
        self.restart_server();
        held.lives_on(start, LONG);
        assert!(waiting.is_waiting());
        self.hand_over(held, &waiting);
    }

    /// Allows overlaps up to this long, because the server itself ends a live hold; `words` are added to the figures.
    pub(crate) fn allow(&mut self, bound: Duration, words: &'static str) {
        self.bound = Some((bound, words));
    }

    /// Judges the history, and checks what is left on the server once all leases must have ended.
    pub(crate) fn finish(self) -> Figures {
        let deadline = Instant::now() + *self.longest.lock().unwrap() + SLACK;
        let left = loop {
            let left = self.server().left();
            if left.is_empty() || Instant::now() > deadline {
                break left;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let records = self.history.records();
        let all = judge(&records, Duration::ZERO);
        // A busy machine may report a loss late.
        let bound = self.bound.map_or(Duration::ZERO, |(bound, _)| bound + SLACK);
        let beyond = judge(&records, bound).violations;
        let acquired = |what: What| matches!(what, What::Acquired { .. });
        Figures {
            holds: records.iter().filter(|record| acquired(record.what)).count(),
            overlaps: all.violations,
            bound: self.bound,
            beyond,
            losses: self.losses,
            nexts: self.nexts,
            left,
        }
    }
}

/// A hold that is recorded.
pub(crate) struct Held {
    pub(crate) guard: LockGuard,
    hold: Hold,
}

impl Held {
    pub(crate) fn token(&self) -> u64 {
        self.guard.token().get()
    }

    /// Waits for the loss. Returns when it was reported.
    pub(crate) fn lost(&self) -> Instant {
        let (_, at) = support::lost(&self.guard);
        self.hold.lost();
        at
    }

    /// # Errors
    ///
    /// Those of the unlock.
    pub(crate) fn try_unlock(self) -> Result<(), LockError> {
        self.hold.released();
        self.guard.unlock().wait()
    }

    pub(crate) fn unlock(self) {
        self.try_unlock().unwrap();
    }

    /// Waits for the deadline from before the fault, and asserts that the hold is not lost.
    pub(crate) fn lives_on(&self, since: Instant, ttl: Duration) {
        eventually("the old deadline has passed", || (since.elapsed() > ttl + SLACK).then_some(()));
        assert!(!self.guard.is_lost());
    }

    /// Drops the guard. Returns how long that took.
    pub(crate) fn drop(self) -> Duration {
        self.hold.released();
        let start = Instant::now();
        drop(self.guard);
        start.elapsed()
    }

    /// The guard alone, right before it is dropped somewhere else.
    pub(crate) fn release(self) -> LockGuard {
        self.hold.released();
        self.guard
    }
}

/// An acquire on another thread.
pub(crate) struct Waiting(Receiver<(Result<Held, LockError>, Instant)>);

impl Waiting {
    /// Waits for the lock. Returns when it was acquired.
    pub(crate) fn got(&self) -> (Held, Instant) {
        let (held, at) = self.result();
        (held.unwrap(), at)
    }

    /// Waits for the answer.
    pub(crate) fn result(&self) -> (Result<Held, LockError>, Instant) {
        self.0.recv_timeout(2 * PATIENCE).expect("an answer")
    }

    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Empty))
    }
}
