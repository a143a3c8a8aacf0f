//! A cluster of three masters with a replica each, every node in an island.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use support::clusters::{NODE_TIMEOUT, RedisCluster};
use support::eventually;
use support::history::now;
use support::island::Island;
use support::redis::Redis;

use super::clients::{Pace, name};
use super::judgement::{Fault, Kind, after};
use super::{SLACK, Servers, pause};

/// At least 1.5 × (node timeout + 3 s).
const TTL: Duration = Duration::from_secs(8);

/// About how many slots move at a time.
const SLOTS: usize = 24;

pub(super) struct Nodes {
    cluster: RedisCluster,
    islands: Vec<Island>,
    keys: Vec<String>,
    /// The slot of each lock.
    slots: BTreeMap<String, u16>,
    /// The replica of the server that has suffered last.
    replica: usize,
}

impl Nodes {
    pub(super) fn start() -> Self {
        let islands = Island::several(6);
        let more = ["--cluster-require-full-coverage", "no"];
        let cluster = RedisCluster::start_by(1, |place| match islands.get(place) {
            Some(island) => RedisCluster::start_node_at(island.inside(), &island.within(), &more),
            None => RedisCluster::start_node(&more),
        });
        let slot = |key: &String| cluster.slot(&format!("lock:{key}"));
        let key = |(master, replicas, pace)| {
            let mut names = (0..).map(|number| name(replicas, pace, number));
            names.find(|key| cluster.master_of(slot(key)) == master).unwrap()
        };
        let paces = (0..2).flat_map(|replicas| [(replicas, Pace::Fast), (replicas, Pace::Slow)]);
        let wanted = paces.flat_map(|(replicas, pace)| (0..3).map(move |master| (master, replicas, pace)));
        let keys: Vec<_> = wanted.map(key).collect();
        let slots = keys.iter().map(|key| (key.clone(), slot(key))).collect();
        Self { cluster, islands, keys, slots, replica: 0 }
    }

    /// The locks of a server.
    fn keys_of(&self, server: usize) -> Vec<String> {
        let slots = self.cluster.slots_of(server);
        self.keys.iter().filter(|key| slots.contains(&self.slots[*key])).cloned().collect()
    }

    /// Whether the replica has become the master of a slot.
    fn has_taken_over(&self, slot: u16) -> bool {
        self.cluster.try_master_of(self.replica, slot) == Some(self.replica)
    }

    fn wait_for_another(&self, slot: u16) -> u64 {
        eventually("another master", || self.has_taken_over(slot).then(now))
    }

    /// Moves slots of a server to another one, those of some locks among them.
    fn move_slots(&self, from: usize, keys: &[String], rng: &mut StdRng) {
        let others: Vec<_> =
            (0..6).filter(|place| *place != from && !self.cluster.slots_of(*place).is_empty()).collect();
        let to = *others.choose(rng).unwrap();
        let count = rng.random_range(1..=keys.len());
        let moving: Vec<u16> = keys.sample(rng, count).map(|key| self.slots[key]).collect();
        let others = self.cluster.slots_of(from);
        let others: Vec<u16> = others.sample(rng, SLOTS).copied().filter(|slot| !moving.contains(slot)).collect();
        for slot in moving.iter().chain(&others) {
            self.cluster.begin_move(*slot, from, to);
            while self.cluster.move_keys(*slot, from, to, |_| true) > 0 {}
            self.cluster.end_move(*slot, from, to);
        }
    }
}

/// The id of a node that has slots, and the slots, by its line among all nodes.
fn served(line: &str) -> Option<(String, String)> {
    let mut words = line.splitn(9, ' ');
    Some((words.next()?.to_owned(), words.nth(7)?.to_owned()))
}

impl Servers for Nodes {
    const KINDS: &'static [Kind] = &[Kind::Killed, Kind::Stopped, Kind::CutOff, Kind::Requested, Kind::Moved];

    fn url(&self) -> String {
        self.cluster.url()
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    fn keys(&self) -> &[String] {
        &self.keys
    }

    fn islands(&self) -> &[Island] {
        &self.islands
    }

    fn play(&mut self, kind: Kind, rng: &mut StdRng) -> Fault {
        let slot = self.slots[self.keys.choose(rng).unwrap()];
        let server = self.cluster.master_of(slot);
        self.replica = self.cluster.replica_of(server).unwrap();
        let keys = self.keys_of(server);
        let mut fault = Fault { kind, server, keys, began: now(), replaced: None, ended: 0, sound: 0 };
        match kind {
            Kind::Killed => {
                self.cluster.node_mut(server).kill();
                fault.replaced = Some(self.wait_for_another(slot));
                pause(rng, 0, 2000);
                self.cluster.node_mut(server).restart();
            }
            Kind::Stopped => {
                let process = self.cluster.nodes()[server].process();
                process.stop();
                // A failover takes about four seconds.
                let end = Instant::now() + Duration::from_millis(rng.random_range(1000..7000));
                while Instant::now() < end {
                    fault.replaced = fault.replaced.or_else(|| self.has_taken_over(slot).then(now));
                    std::thread::sleep(Duration::from_millis(10));
                }
                process.resume();
            }
            Kind::CutOff => {
                self.islands[server].cut(true);
                fault.replaced = Some(self.wait_for_another(slot));
                pause(rng, 0, 8000);
                self.islands[server].cut(false);
            }
            Kind::Requested => {
                self.cluster.fail_over(self.replica, slot);
                fault.replaced = Some(now());
            }
            Kind::Moved => self.move_slots(server, &fault.keys, rng),
        }
        fault.ended = now();
        fault
    }

    fn is_replaced(&self, fault: &Fault) -> bool {
        fault.keys.iter().any(|key| fault.kind != Kind::Moved && self.has_taken_over(self.slots[key]))
    }

    fn are_sound(&self) -> bool {
        let nodes = self.cluster.nodes();
        let is_linked = |node: &Redis| {
            let said = node.cli(&["INFO", "replication"]);
            said.contains("state=online") || said.contains("master_link_status:up")
        };
        let views: Vec<_> = nodes.iter().map(|node| node.cli(&["CLUSTER", "NODES"])).collect();
        // Slots that move are in brackets.
        let troubles = ["fail", "handshake", "noaddr", "disconnected", "["];
        let is_calm = |view: &String| !troubles.iter().any(|trouble| view.contains(trouble));
        let slots = |view: &String| view.lines().filter_map(served).collect::<BTreeSet<_>>();
        let agree = views.windows(2).all(|pair| slots(&pair[0]) == slots(&pair[1]));
        agree && views.iter().all(is_calm) && nodes.iter().all(is_linked)
    }

    fn overlaps_end(&self, fault: &Fault, min_replicas: u32) -> Option<u64> {
        if min_replicas > 0 {
            return None;
        }
        match fault.kind {
            // By the next renewal, a hold that was not replicated is lost.
            Kind::Killed | Kind::Stopped => Some(after(fault.replaced?.max(fault.ended), TTL / 3 + SLACK)),
            // For so long the old master grants and renews.
            Kind::CutOff => Some(after(fault.began, NODE_TIMEOUT + TTL + SLACK)),
            Kind::Requested | Kind::Moved => None,
        }
    }

    fn may_lose(&self, fault: &Fault) -> bool {
        !matches!(fault.kind, Kind::Requested | Kind::Moved)
    }
}
