//! Clusters of which a member is killed, stopped or cut off: holds never overlap, and work continues.
//!
//! `LEASEHOLD_SOAK=60` runs the repeated tests for 60 seconds instead of a few rounds.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Loss};
use support::crowd::Crowd;
use support::etcd::{Cluster, Etcd};
use support::folder::Folder;
use support::history::{History, Hold};
use support::proxy::Proxy;
use support::{PATIENCE, eventually};

/// etcd's default election timeout.
const ELECTION: Duration = Duration::from_secs(1);
const PREFIX: &str = "cluster/";

fn manager(url: &str, ttl: Duration) -> LockManager {
    LockManager::builder().url(url).prefix(PREFIX).ttl(ttl).build().wait().unwrap()
}

/// The rounds of a repeated test.
fn rounds(few: usize) -> impl Iterator<Item = usize> {
    let soak = std::env::var("LEASEHOLD_SOAK").ok().map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
    let start = Instant::now();
    (0..).take_while(move |round| soak.map_or(*round < few, |soak| start.elapsed() < soak))
}

/// Clients that contend for one key and prefer different members, and the history of their holds.
struct Clients {
    crowd: Crowd,
    history: History,
    _folder: Folder,
}

impl Clients {
    fn start(cluster: &Cluster<3>, clients: usize, ttl: Duration) -> Self {
        let folder = Folder::new();
        let history = History::open(folder.path().join("history"));
        let managers = (0..clients).map(|number| manager(&cluster.url_from(number % 3), ttl));
        Self { crowd: Crowd::start(&history, managers), history, _folder: folder }
    }

    /// Ends the clients, and asserts that the history is correct and that nothing is left on the server.
    fn finish(self, cluster: &Cluster<3>) {
        println!("{} turns", self.crowd.finish());
        self.history.assert_clean(8);
        eventually("nothing is left", || cluster.members[0].keys(PREFIX).is_empty().then_some(()));
    }
}

#[test]
fn work_continues_when_the_leader_is_killed() {
    let mut cluster = Cluster::<3>::start();
    let clients = Clients::start(&cluster, 8, Duration::from_secs(5));
    for _ in rounds(3) {
        clients.crowd.progress();
        let leader = cluster.leader();
        cluster.members[leader].kill();
        let took = clients.crowd.progress();
        println!("progress {took:?} after the leader was killed");
        assert!(took < Duration::from_secs(10), "{took:?}");
        cluster.members[leader].restart();
    }
    clients.finish(&cluster);
}

#[test]
fn a_stopped_leader_that_resumes_causes_no_overlap() {
    let cluster = Cluster::<3>::start();
    let clients = Clients::start(&cluster, 8, Duration::from_secs(5));
    for _ in rounds(2) {
        clients.crowd.progress();
        let leader = cluster.leader();
        let process = cluster.members[leader].process();
        process.stop();
        let stopped = Instant::now();
        let took = clients.crowd.progress();
        println!("progress {took:?} after the leader was stopped");
        assert!(took < Duration::from_secs(10), "{took:?}");
        // A fixed pause: what the fault says.
        std::thread::sleep((3 * ELECTION).saturating_sub(stopped.elapsed()));
        process.resume();
        clients.crowd.progress();
    }
    clients.finish(&cluster);
}

/// Two managers on one key, each with its own members, and their history.
struct Pair {
    history: History,
    _folder: Folder,
}

impl Pair {
    fn new() -> Self {
        let folder = Folder::new();
        Self { history: History::open(folder.path().join("history")), _folder: folder }
    }

    fn hold(&self, manager: &LockManager) -> (LockGuard, Hold) {
        let guard = manager.lock("k").timeout(PATIENCE).wait().unwrap();
        let hold = self.history.acquired(&guard);
        (guard, hold)
    }

    /// Waits for the lock on a separate thread; returns once the waiter is in the queue.
    fn wait_for(&self, manager: &LockManager, member: &Etcd) -> Receiver<(LockGuard, Hold, Instant)> {
        let (request, history, (got, guards)) = (manager.lock("k"), self.history.clone(), channel());
        std::thread::spawn(move || {
            let guard = request.wait().unwrap();
            let hold = history.acquired(&guard);
            let _ = got.send((guard, hold, Instant::now()));
        });
        eventually("the other one waits", || (claims(member, "k") == 2).then_some(()));
        guards
    }
}

/// The number of claims of a key.
fn claims(member: &Etcd, key: &str) -> usize {
    member
        .try_etcdctl(&["get", &format!("{PREFIX}{key}/"), "--prefix", "--keys-only"])
        .map_or(0, |names| names.lines().filter(|name| !name.is_empty()).count())
}

/// Waits for the loss on this thread, and records it.
fn lost(guard: &LockGuard, hold: &Hold) -> (Loss, Instant) {
    let lost = support::lost(guard);
    hold.lost();
    lost
}

/// Ends the rival's hold normally.
fn release(guard: LockGuard, hold: &Hold) {
    assert!(!guard.is_lost());
    hold.released();
    guard.unlock().wait().unwrap();
}

#[test]
fn the_confirmation_of_a_deposed_leader_does_not_count() {
    const TTL: Duration = Duration::from_secs(10);
    let cluster = Cluster::<3>::start();
    let leader = cluster.leader();
    let (old, other) = (&cluster.members[leader], &cluster.members[(leader + 1) % 3]);
    let proxy = Proxy::start(old.address());
    let (holder, rival) = (manager(&format!("etcd://{}", proxy.address()), TTL), manager(&other.url(), TTL));
    let pair = Pair::new();
    let (guard, hold) = pair.hold(&holder);
    let waiting = pair.wait_for(&rival, other);
    let renewed = holder.stats().renewals;
    eventually("a renewal", || (holder.stats().renewals > renewed).then_some(()));
    old.process().stop();
    let stopped = Instant::now();
    cluster.peers.isolate(leader);
    // The next renewals go into the stop, which is as long as the fault says.
    std::thread::sleep(Duration::from_secs(6));
    let answered = proxy.answered();
    old.process().resume();
    eventually("the old leader answers", || (proxy.answered() > answered).then_some(()));
    proxy.cut();
    let (cause, at) = lost(&guard, &hold);
    println!("lost {:?} after the stop, since {cause}", at - stopped);
    assert_eq!(cause, Loss::Unreachable);
    let (guard, hold, got) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the next one in {:?} after the stop", got - stopped);
    assert!(at < got);
    release(guard, &hold);
    pair.history.assert_clean(2);
}

#[test]
fn a_holder_moves_on_from_a_stopped_member() {
    const TTL: Duration = Duration::from_secs(12);
    let cluster = Cluster::<3>::start();
    let stopped = (cluster.leader() + 1) % 3;
    let well = &cluster.members[(stopped + 1) % 3];
    let (manager, rival) = (manager(&cluster.url_from(stopped), TTL), manager(&cluster.url_from(stopped), TTL));
    let pair = Pair::new();
    let (guard, hold) = pair.hold(&manager);
    let waiting = pair.wait_for(&rival, well);
    let renewed = manager.stats().renewals;
    eventually("a renewal", || (manager.stats().renewals > renewed).then_some(()));
    cluster.members[stopped].process().stop();
    let start = Instant::now();
    let renewed = manager.stats().renewals;
    eventually("a renewal elsewhere", || (manager.stats().renewals > renewed).then_some(()));
    println!("renewed {:?} after the stop", start.elapsed());
    assert!(start.elapsed() < TTL, "{:?}", start.elapsed());
    eventually("the deadline before it has passed", || (start.elapsed() > TTL + ELECTION).then_some(()));
    assert!(!guard.is_lost() && waiting.try_recv().is_err());
    let released = Instant::now();
    release(guard, &hold);
    let (guard, hold, got) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the waiter of the same member in {:?} after the release", got - released);
    release(guard, &hold);
    cluster.members[stopped].process().resume();
    pair.history.assert_clean(2);
}

/// A member is cut off together with a holder that knows only this one.
fn a_holder_with_the_minority(member_is_leader: bool) {
    const TTL: Duration = Duration::from_secs(5);
    let cluster = Cluster::<3>::start();
    let alone = if member_is_leader { cluster.leader() } else { (cluster.leader() + 1) % 3 };
    let other = &cluster.members[(alone + 1) % 3];
    // The elections after the cut and after its end may take longer than a short lease lasts.
    let rival = manager(&other.url(), Duration::from_secs(60));
    let holder = manager(&cluster.members[alone].url(), TTL);
    let pair = Pair::new();
    let (guard, hold) = pair.hold(&holder);
    let waiting = pair.wait_for(&rival, other);
    cluster.peers.isolate(alone);
    let start = Instant::now();
    let (cause, at) = lost(&guard, &hold);
    println!("lost {:?} after the cut, since {cause}", at - start);
    // The leader may answer one more renewal before it finds that it is alone, but that does not count. A busy machine notifies
    // the loss a little late.
    assert!(at - start < TTL + Duration::from_millis(500), "{:?}", at - start);
    let (next, next_hold, got) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the majority's in {:?} later", got - at);
    assert!(at < got);
    cluster.peers.heal();
    // The disconnected manager is in the queue again, and its late requests have no effect.
    drop(guard);
    let back = pair.wait_for(&holder, other);
    assert!(!next.is_lost());
    release(next, &next_hold);
    let (guard, hold, _) = back.recv_timeout(PATIENCE).unwrap();
    release(guard, &hold);
    pair.history.assert_clean(3);
}

#[test]
fn a_holder_cut_off_with_a_follower_loses_before_the_majority_grants() {
    a_holder_with_the_minority(false);
}

#[test]
fn a_holder_cut_off_with_the_leader_loses_before_the_majority_grants() {
    a_holder_with_the_minority(true);
}
