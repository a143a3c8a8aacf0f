//! Redis clusters: nodes on free ports, joined by redis-cli.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::ports::free_port;
use crate::redis::Redis;
use crate::replication::request_failover;
use crate::{PATIENCE, eventually};

/// How long a master does not answer before the others replace it.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster. Its nodes are killed when it is dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts three masters, each with a replica.
    pub fn start() -> Self {
        Self::start_with(1, &["--cluster-require-full-coverage", "no"])
    }

    /// Starts three masters, each with so many replicas, with more arguments.
    pub fn start_with(replicas: usize, more: &[&str]) -> Self {
        Self::start_by(replicas, |_| Self::start_node(more))
    }

    /// Starts three masters, each with so many replicas, each node by its place.
    ///
    /// # Panics
    ///
    /// If it does not come up.
    pub fn start_by(replicas: usize, start: impl Fn(usize) -> Redis) -> Self {
        let cluster = Self { nodes: (0..3 * (1 + replicas)).map(start).collect() };
        cluster.join(replicas);
        cluster
    }

    /// Makes a cluster of nodes that belong to none.
    pub fn join(&self, replicas: usize) {
        let addresses = self.nodes.iter().map(|node| node.address().to_string());
        let count = replicas.to_string();
        let arguments = ["--cluster", "create"].into_iter().map(str::to_owned).chain(addresses);
        let arguments: Vec<_> =
            arguments.chain(["--cluster-replicas", &count, "--cluster-yes"].map(str::to_owned)).collect();
        run_cli(&arguments);
        self.wait_until_up();
        if replicas > 0 {
            eventually("the replicas are up to date", || {
                let is_linked = |node: &Redis| {
                    let said = node.cli(&["INFO", "replication"]);
                    said.contains("master_link_status:up") || said.contains("state=online")
                };
                self.nodes.iter().all(is_linked).then_some(())
            });
        }
    }

    /// Starts a node that belongs to no cluster yet.
    pub fn start_node(more: &[&str]) -> Redis {
        Self::start_node_at(Ipv4Addr::LOCALHOST, &[], more)
    }

    /// The same at this address, by nsenter with these arguments if there are any.
    pub fn start_node_at(address: Ipv4Addr, nsenter: &[String], more: &[&str]) -> Redis {
        // Not 10,000 above the other one, where another server may be.
        let (timeout, bus) = (NODE_TIMEOUT.as_millis().to_string(), free_port().to_string());
        let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout, "--cluster-port", &bus];
        Redis::start_at(address, nsenter, &[&own[..], more].concat())
    }

    /// Waits until all nodes that are up know all slots, and agree about whose they are.
    pub fn wait_until_up(&self) {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let is_up = |node: &&Redis| {
                let said = node.cli(&["CLUSTER", "INFO"]);
                said.contains("cluster_state:ok") && said.contains("cluster_slots_ok:16384")
            };
            let up: Vec<_> = self.nodes.iter().filter(|node| node.is_up()).collect();
            let owners: Vec<_> = up.iter().map(|node| owners(&node.cli(&["CLUSTER", "NODES"]))).collect();
            if up.iter().all(is_up) && owners.iter().all(|told| *told == owners[0]) {
                return;
            }
            assert!(Instant::now() < deadline, "the cluster is not up: {owners:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until each node lists all nodes among those of the slots. A replica is listed once the others know that it has received
    /// something.
    pub fn wait_until_listed(&self) {
        let lists = |node: &Redis, other: &Redis| {
            let port = other.address().port().to_string();
            node.cli(&["CLUSTER", "SLOTS"]).lines().any(|line| line == port)
        };
        let all_list = |other: &Redis| self.nodes.iter().all(|node| lists(node, other));
        eventually("all nodes are listed", || self.nodes.iter().all(all_list).then_some(()));
    }

    /// The URL for a manager.
    pub fn url(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| node.address().to_string()).collect();
        format!("redis+cluster://{}", nodes.join(","))
    }

    /// All nodes; the masters are the first three, until one is replaced.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// A node, to kill it or to start it again.
    pub fn node_mut(&mut self, place: usize) -> &mut Redis {
        &mut self.nodes[place]
    }

    /// Adds a node that is up.
    pub fn push(&mut self, node: Redis) {
        self.nodes.push(node);
    }

    /// Removes a node, and kills it.
    pub fn remove(&mut self, place: usize) {
        self.nodes.remove(place);
    }

    /// The slot of a key of redis.
    pub fn slot(&self, key: &str) -> u16 {
        self.nodes.iter().find(|node| node.is_up()).unwrap().cli(&["CLUSTER", "KEYSLOT", key]).parse().unwrap()
    }

    /// The place of the master of a slot, as the first node that is up knows it.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn master_of(&self, slot: u16) -> usize {
        let teller = self.nodes.iter().position(Redis::is_up).unwrap();
        self.try_master_of(teller, slot).unwrap_or_else(|| panic!("no master of {slot}"))
    }

    /// The place of the master of a slot, as this node knows it.
    pub fn try_master_of(&self, teller: usize, slot: u16) -> Option<usize> {
        let said = self.nodes[teller].cli(&["CLUSTER", "NODES"]);
        let serves = |line: &&str| line.contains("master") && ranges(line).any(|range| range.contains(&slot));
        let address = said.lines().find(serves)?.split(' ').nth(1)?.split('@').next()?;
        self.nodes.iter().position(|node| node.address().to_string() == address)
    }

    /// Has a replica take over the slots of its master, among them this one, on request.
    pub fn fail_over(&self, replica: usize, slot: u16) {
        let request = || self.nodes[replica].cli(&["CLUSTER", "FAILOVER"]) == "OK";
        request_failover(request, || (self.try_master_of(replica, slot) == Some(replica)).then_some(()));
    }

    /// The slots of a node, as it knows them.
    pub fn slots_of(&self, place: usize) -> Vec<u16> {
        let said = self.nodes[place].cli(&["CLUSTER", "NODES"]);
        let own = |line: &&str| line.contains("myself,master");
        said.lines().find(own).into_iter().flat_map(ranges).flatten().collect()
    }

    /// The place of a replica of this master, as the replica knows it.
    pub fn replica_of(&self, master: usize) -> Option<usize> {
        let id = self.id(master);
        let follows = |line: &str| line.contains("myself") && line.contains(&format!("slave {id}"));
        self.nodes.iter().position(|node| node.cli(&["CLUSTER", "NODES"]).lines().any(follows))
    }

    /// Begins to move a slot.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)]);
        self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves those keys of a slot that are wanted. Returns how many there were.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, is_wanted: impl Fn(&str) -> bool) -> usize {
        let (host, port) = (self.nodes[to].address().ip().to_string(), self.nodes[to].address().port().to_string());
        let keys = self.nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000"]);
        let wanted: Vec<_> = keys.lines().filter(|key| !key.is_empty() && is_wanted(key)).collect();
        for key in &wanted {
            self.nodes[from].cli(&["MIGRATE", &host, &port, key, "0", "5000", "REPLACE"]);
        }
        wanted.len()
    }

    /// Ends the move of a slot.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let id = self.id(to);
        for node in [to, from] {
            self.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]);
        }
    }

    /// The id of a node.
    pub fn id(&self, place: usize) -> String {
        self.nodes[place].cli(&["CLUSTER", "MYID"])
    }
}

/// Which slots are whose, by the lines of all nodes.
fn owners(nodes: &str) -> Vec<(String, Vec<RangeInclusive<u16>>)> {
    let owner = |line: &str| (line.split(' ').next().unwrap_or_default().to_owned(), ranges(line).collect::<Vec<_>>());
    let mut owners: Vec<_> = nodes.lines().map(owner).filter(|(_, slots)| !slots.is_empty()).collect();
    owners.sort_by(|one, other| one.0.cmp(&other.0));
    owners
}

/// The slots of a node, by its line among all nodes.
fn ranges(line: &str) -> impl Iterator<Item = RangeInclusive<u16>> {
    line.split(' ').skip(8).filter(|range| !range.starts_with('[')).map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().unwrap()..=last.parse().unwrap()
    })
}

/// Runs redis-cli.
///
/// # Panics
///
/// If it fails, with its output.
pub fn run_cli(arguments: &[String]) -> String {
    let output = Command::new("redis-cli").args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run redis-cli: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "redis-cli {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}
