//! Redis clusters: nodes on free ports, joined by redis-cli.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::ports::free_port;
use crate::redis::Redis;
use crate::{PATIENCE, eventually};

/// How long a master does not answer before the others replace it.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster. Its nodes are killed when it is dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts three masters, each with a replica. A master that does not answer for two seconds is replaced.
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
        Self::start_node_by(more, Redis::start_with)
    }

    /// The same, by this function of its arguments.
    pub fn start_node_by(more: &[&str], start: impl Fn(&[&str]) -> Redis) -> Redis {
        let timeout = NODE_TIMEOUT.as_millis().to_string();
        let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", &timeout];
        // Not 10,000 above the other one, where another server may be.
        let bus = free_port().to_string();
        let own = [&own[..], &["--cluster-port", &bus]].concat();
        start(&[&own[..], more].concat())
    }

    /// Waits until all nodes that are up know all slots.
    pub fn wait_until_up(&self) {
        let deadline = std::time::Instant::now() + 2 * PATIENCE;
        loop {
            let is_up = |node: &Redis| {
                let said = node.cli(&["CLUSTER", "INFO"]);
                said.contains("cluster_state:ok") && said.contains("cluster_slots_ok:16384")
            };
            if self.nodes.iter().filter(|node| node.is_up()).all(is_up) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "the cluster is not up");
            std::thread::sleep(Duration::from_millis(20));
        }
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
        let serves = |line: &&str| {
            line.contains("master")
                && line.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    (first.parse().unwrap()..=last.parse::<u16>().unwrap()).contains(&slot)
                })
        };
        let address = said.lines().find(serves)?.split(' ').nth(1)?.split('@').next()?;
        self.nodes.iter().position(|node| node.address().to_string() == address)
    }

    /// The id of a node.
    pub fn id(&self, place: usize) -> String {
        self.nodes[place].cli(&["CLUSTER", "MYID"])
    }
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
