//! Redis clusters: shards without their replicas, and other servers at the addresses of nodes that are dead.

use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Loss};
use support::clusters::RedisCluster;
use support::redis::Redis;
use support::{eventually, lost_since};

use super::clusters::{connect, keys_at, lock, slot_of, stay};

/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);

#[test]
fn replicas_of_one_shard_that_are_down_end_the_holds_of_that_shard_alone() {
    let cluster = RedisCluster::start();
    let ttl = Duration::from_secs(3);
    let manager = LockManager::builder().url(cluster.url()).ttl(ttl).min_replicas(1).build().wait().unwrap();
    let keys: Vec<_> = (0..3).map(|place| keys_at(&cluster, place, 3)).collect();
    let hold = |place: usize| {
        let replica = &cluster.nodes()[cluster.replica_of(place).unwrap()];
        let guards = keys[place][..2].iter().map(|key| {
            let guard = lock(&manager, key);
            assert_eq!(replica.keys(&format!("lock:{key}")).len(), 1, "the replica has it when it is granted");
            guard
        });
        guards.collect::<Vec<_>>()
    };
    let ended = hold(0);
    let kept: Vec<_> = [hold(1), hold(2)].into_iter().flatten().collect();
    let all = || ended.iter().chain(&kept);
    stay(all(), ttl + ttl / 2);
    assert_eq!(manager.stats().failed_renewals, 0);

    let replica = &cluster.nodes()[cluster.replica_of(0).unwrap()];
    replica.process().stop();
    let stopped = Instant::now();
    let (cause, after) = lost_since(&ended[0], stopped);
    assert_eq!(cause, Loss::Unreachable);
    assert!(after < ttl + SLACK, "{after:?}");
    eventually("all of the shard", || ended.iter().all(LockGuard::is_lost).then_some(()));
    stay(&kept, 2 * ttl);
    let error = manager.try_lock(&keys[0][2]).wait().unwrap_err();
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    drop(manager.try_lock(&keys[1][2]).wait().unwrap().expect("the other shards grant locks"));

    replica.process().resume();
    for key in &keys[0] {
        eventually("the shard grants locks again", || manager.try_lock(key).wait().ok()?.map(drop));
    }
    stay(&kept, ttl / 2);
}

/// A server that has nothing to do with the cluster, at the address of one of its nodes.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    Alone,
    /// It wants a password.
    Closed,
    /// Of another cluster, which has all slots.
    Node,
}

impl Stranger {
    /// Calls this for each, all at a time.
    fn each(test: impl Fn(Self) + Sync) {
        std::thread::scope(|scope| {
            for stranger in [Self::Alone, Self::Closed, Self::Node] {
                let test = &test;
                scope.spawn(move || test(stranger));
            }
        });
    }

    fn start(self, cluster: &RedisCluster, place: usize) -> Redis {
        let port = cluster.nodes()[place].address().port().to_string();
        // The replica of the node would take over the data of whatever is at that address.
        let arguments = ["--port", &port, "--rename-command", "PSYNC", "", "--rename-command", "SYNC", ""];
        match self {
            Self::Alone => Redis::start_with(&arguments),
            Self::Closed => Redis::start_with(&[&arguments[..], &["--requirepass", "secret"]].concat()),
            Self::Node => {
                let node = RedisCluster::start_node(&arguments);
                node.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
                eventually("it serves all slots", || {
                    node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
                });
                node
            }
        }
    }

    /// Asserts that no manager has written anything there.
    fn assert_unused(self, server: &Redis) {
        let login = if matches!(self, Self::Closed) { &["-a", "secret", "--no-auth-warning"][..] } else { &[] };
        assert_eq!(server.cli(&[login, &["DBSIZE"]].concat()), "0", "{self:?} was asked for locks");
    }
}

#[test]
fn another_server_at_the_address_of_a_dead_master_ends_no_hold_that_its_replica_has() {
    Stranger::each(|stranger| {
        let mut cluster = RedisCluster::start();
        let ttl = Duration::from_secs(9);
        let manager = connect(&cluster, ttl);
        let keys: Vec<_> = (0..3).flat_map(|place| keys_at(&cluster, place, 3)).collect();
        let guards: Vec<_> = keys.iter().map(|key| lock(&manager, key)).collect();
        let slot = slot_of(&cluster, &keys[0]);
        let replica = &cluster.nodes()[cluster.replica_of(0).unwrap()];
        eventually("they are replicated", || {
            keys[..3].iter().all(|key| !replica.keys(&format!("lock:{key}")).is_empty()).then_some(())
        });
        cluster.node_mut(0).kill();
        let started = stranger.start(&cluster, 0);
        eventually("a new master", || cluster.try_master_of(1, slot).filter(|new| *new != 0));
        stay(&guards, ttl + ttl / 2);
        // In the same slot.
        drop(lock(&manager, &format!("{{lock:{}}}", keys[0])));
        assert_eq!(manager.stats().lost, 0, "{stranger:?}");
        stranger.assert_unused(&started);
    });
}

#[test]
fn another_server_at_the_address_of_a_dead_shard_costs_the_holds_of_the_others_nothing() {
    Stranger::each(|stranger| {
        let mut cluster = RedisCluster::start_with(0, &["--cluster-require-full-coverage", "no"]);
        let ttl = Duration::from_secs(3);
        let manager = connect(&cluster, ttl);
        let dead = lock(&manager, &keys_at(&cluster, 0, 1)[0]);
        let kept: Vec<_> =
            (1..3).flat_map(|place| keys_at(&cluster, place, 3)).map(|key| lock(&manager, &key)).collect();
        cluster.node_mut(0).kill();
        let killed = Instant::now();
        let started = stranger.start(&cluster, 0);
        let (cause, after) = lost_since(&dead, killed);
        assert_eq!(cause, Loss::Unreachable, "{stranger:?}");
        assert!(after < ttl + SLACK, "{after:?}");
        stay(&kept, 2 * ttl);
        assert_eq!(manager.stats().lost, 1, "{stranger:?}");
        let error = manager.lock(dead.key()).timeout(Duration::from_millis(500)).wait().unwrap_err();
        println!("{error}");
        stranger.assert_unused(&started);
    });
}

#[test]
fn the_map_of_another_cluster_is_not_believed_while_the_nodes_hang() {
    let mut cluster = RedisCluster::start_with(0, &["--cluster-require-full-coverage", "no"]);
    let ttl = Duration::from_secs(20);
    let manager = connect(&cluster, ttl);
    let kept: Vec<_> = (1..3).flat_map(|place| keys_at(&cluster, place, 3)).map(|key| lock(&manager, &key)).collect();
    let free = keys_at(&cluster, 1, 4).remove(3);
    cluster.node_mut(0).kill();
    // The only server that answers is one of those that the manager was told of.
    let stranger = Stranger::Node.start(&cluster, 0);
    let nodes = &cluster.nodes()[1..];
    nodes.iter().for_each(|node| node.process().stop());
    stay(&kept, Duration::from_secs(4));
    nodes.iter().for_each(|node| node.process().resume());
    drop(lock(&manager, &free));
    stay(&kept, Duration::from_secs(2));
    assert_eq!(manager.stats().lost, 0);
    Stranger::Node.assert_unused(&stranger);
}

#[test]
fn a_cluster_that_was_set_up_anew_is_found_again() {
    let mut cluster = RedisCluster::start_with(0, &[]);
    let manager = connect(&cluster, Duration::from_secs(3));
    let guard = lock(&manager, "k");
    for place in 0..3 {
        let node = cluster.node_mut(place);
        node.kill();
        std::fs::remove_file(node.folder().join("nodes.conf")).unwrap();
        node.restart();
    }
    cluster.join(0);
    let started = Instant::now();
    lost_since(&guard, started);
    drop(lock(&manager, "k"));
    println!("found after {:?}", started.elapsed());
}
