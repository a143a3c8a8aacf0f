//! Holders that are cut off from the rest of the network together with the master that has their lock.

use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager};
use support::child::{self, Child};
use support::clusters::{NODE_TIMEOUT, RedisCluster};
use support::folder::Folder;
use support::history::{History, Hold, judge, longest_overlap};
use support::island::Island;
use support::redis::Redis;
use support::sentinels::Watched;
use support::{PATIENCE, eventually};

const TTL: Duration = Duration::from_secs(6);
/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// The servers of a test.
trait Servers {
    /// Starts them. A master is on the island.
    fn start(island: &Island) -> Self;
    fn url(&self) -> String;
    /// A key whose lock is at the master on the island.
    fn key(&self) -> String;
    /// Waits until another master has the locks of the one on the island.
    fn wait_for_another(&self, key: &str);
}

impl Servers for Watched {
    fn start(island: &Island) -> Self {
        let master = Redis::start_at(island.inside(), &island.within(), &[]);
        let outside = island.outside();
        Self::start_for(master, outside, |more| Redis::start_at(outside, &[], more))
    }

    fn url(&self) -> String {
        self.url()
    }

    fn key(&self) -> String {
        "k".to_owned()
    }

    fn wait_for_another(&self, _key: &str) {
        self.wait_for_another(0);
    }
}

/// The place of the node on the island.
const INSIDE: usize = 0;

impl Servers for RedisCluster {
    fn start(island: &Island) -> Self {
        let cluster = Self::start_by(1, |place| {
            let (address, nsenter) = match place {
                INSIDE => (island.inside(), island.within()),
                _ => (island.outside(), Vec::new()),
            };
            Self::start_node_at(address, &nsenter, &["--cluster-require-full-coverage", "no"])
        });
        assert!(cluster.nodes()[INSIDE].cli(&["ROLE"]).starts_with("master"));
        cluster
    }

    fn url(&self) -> String {
        self.url()
    }

    fn key(&self) -> String {
        let mut keys = (0..).map(|number| format!("k{number}"));
        keys.find(|key| self.master_of(self.slot(&format!("lock:{key}"))) == INSIDE).unwrap()
    }

    fn wait_for_another(&self, key: &str) {
        let slot = self.slot(&format!("lock:{key}"));
        let outside = 1 - INSIDE;
        eventually("another master", || self.try_master_of(outside, slot).filter(|new| *new != INSIDE));
    }
}

fn manager(url: &str, min_replicas: u32) -> LockManager {
    LockManager::builder().url(url).ttl(TTL).min_replicas(min_replicas).build().wait().unwrap()
}

#[test]
#[ignore = "a part of a test, in a child process"]
fn holder() {
    let Some(arguments) = child::role() else { return };
    let [url, history, key, min_replicas] = &arguments[..] else { panic!("{arguments:?}") };
    let guard = manager(url, min_replicas.parse().unwrap()).lock(key).wait().unwrap();
    let hold = History::open(history).acquired(&guard);
    child::say(&guard.token().get().to_string());
    while !hold.is_lost(&guard) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child::say("lost");
    child::hear();
}

/// A holder that was cut off together with its master, and the next one.
struct CutOff<S> {
    holder: Child,
    token: u64,
    cut: Instant,
    next: LockGuard,
    next_hold: Hold,
    history: History,
    island: Island,
    _servers: S,
    _folder: Folder,
}

impl<S: Servers> CutOff<S> {
    /// So many replicas have to confirm the locks of the holder, and those of the next one. `None` where the test may not create a
    /// network.
    fn new(min_replicas: [u32; 2]) -> Option<Self> {
        let island = Island::new()?;
        let (servers, folder) = (S::start(&island), Folder::new());
        let path = folder.path().join("history");
        let (history, key, replicas) = (History::open(&path), servers.key(), min_replicas[0].to_string());
        let arguments = [&*servers.url(), path.to_str().unwrap(), &key, &replicas];
        let mut holder = Child::start("nsenter".into(), |command| {
            command.args(island.within()).arg(std::env::current_exe().unwrap());
            child::play(command, "cut_off::holder", &arguments);
        });
        let token = holder.said().parse().unwrap();
        let manager = manager(&servers.url(), min_replicas[1]);
        assert!(manager.try_lock(&key).wait().unwrap().is_none());
        island.cut(true);
        let cut = Instant::now();
        servers.wait_for_another(&key);
        println!("another master after {:?}", cut.elapsed());
        let next = manager.lock(&key).timeout(PATIENCE).wait().unwrap();
        println!("the next holder after {:?}", cut.elapsed());
        let next_hold = history.acquired(&next);
        Some(Self { holder, token, cut, next, next_hold, history, island, _servers: servers, _folder: folder })
    }

    /// The hold of the one that was cut off has ended, and the next one unlocks. Returns how long both held the lock.
    fn end(self) -> Duration {
        assert!(!self.next_hold.is_lost(&self.next));
        self.next_hold.released();
        // What the other one has written meanwhile is refused by its token: an older one.
        assert!(self.next.token().get() > self.token);
        self.next.unlock().wait().unwrap();
        let verdict = judge(&self.history.records(), Duration::ZERO);
        assert_eq!(verdict.holds, 2);
        let overlap = longest_overlap(&verdict.violations);
        println!("both for {overlap:?}");
        overlap
    }
}

const NOT_RUN: &str = "not run: this process may not create a network";

#[test]
fn behind_sentinels_the_holder_loses_in_time_if_replicas_confirm() {
    let Some(mut cut_off) = CutOff::<Watched>::new([1, 1]) else { return println!("{NOT_RUN}") };
    cut_off.holder.expect("lost");
    assert_eq!(cut_off.end(), Duration::ZERO);
}

#[test]
fn behind_sentinels_the_holder_goes_on_without_replicas_until_it_hears_of_the_new_master() {
    let Some(mut cut_off) = CutOff::<Watched>::new([0, 0]) else { return println!("{NOT_RUN}") };
    assert!(cut_off.holder.said_within(TTL).is_none(), "its master renews it without end");
    cut_off.island.cut(false);
    let joined = Instant::now();
    cut_off.holder.expect("lost");
    println!("lost {:?} after it was joined again", joined.elapsed());
    // The judge sees it.
    assert!(cut_off.end() > TTL / 2);
}

#[test]
fn in_a_cluster_the_holder_loses_in_time_if_all_replicas_confirm() {
    // The new master has no replica.
    let Some(mut cut_off) = CutOff::<RedisCluster>::new([1, 0]) else { return println!("{NOT_RUN}") };
    cut_off.holder.expect("lost");
    assert_eq!(cut_off.end(), Duration::ZERO);
}

#[test]
fn in_a_cluster_the_holder_is_renewed_without_replicas_for_the_node_timeout_at_most() {
    let Some(mut cut_off) = CutOff::<RedisCluster>::new([0, 0]) else { return println!("{NOT_RUN}") };
    cut_off.holder.expect("lost");
    let lost = cut_off.cut.elapsed();
    println!("lost after {lost:?}");
    assert!(lost < NODE_TIMEOUT + TTL + SLACK, "{lost:?}");
    let overlap = cut_off.end();
    assert!(overlap < NODE_TIMEOUT + TTL / 3 + SLACK, "{overlap:?}");
}
