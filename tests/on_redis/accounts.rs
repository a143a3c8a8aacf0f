//! Accounts at the nodes of a cluster.

use std::time::Duration;

use leasehold::backend::ErrorKind;
use leasehold::{LockError, LockManager, Result};
use support::clusters::RedisCluster;

use super::clusters::{lock, slot_of, stay};

const TTL: Duration = Duration::from_secs(2);

/// What the documentation adds in a cluster.
const OF_CLUSTERS: [&str; 3] = ["+cluster|slots", "+cluster|myid", "+asking"];

/// Gives the documented account these rights as well.
fn allow(cluster: &RedisCluster, more: &[&str]) {
    let documented = include_str!("../../docs/security.md");
    let user = documented.lines().find(|line| line.starts_with("ACL SETUSER locker")).unwrap();
    let words: Vec<_> = user.split(' ').chain(more.iter().copied()).collect();
    for node in cluster.nodes() {
        node.cli(&["ACL", "DELUSER", "locker"]);
        node.cli(&words);
    }
}

fn connect(cluster: &RedisCluster) -> Result<LockManager> {
    let url = cluster.url().replace("//", "//locker:PASSWORD@");
    LockManager::builder().url(url).ttl(TTL).build().wait()
}

#[test]
fn an_account_with_the_documented_rights_keeps_locks_while_their_slots_move() {
    let cluster = RedisCluster::start_with(0, &[]);
    allow(&cluster, &OF_CLUSTERS);
    let (manager, other) = (connect(&cluster).unwrap(), connect(&cluster).unwrap());
    let guard = lock(&manager, "{s}a");
    let slot = slot_of(&cluster, "{s}a");
    let from = cluster.master_of(slot);
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to);
    cluster.move_keys(slot, from, to, |_| true);
    stay([&guard], 2 * TTL);
    cluster.end_move(slot, from, to);
    stay([&guard], TTL);
    assert_eq!(other.list("").wait().unwrap().len(), 1);
    guard.unlock().wait().unwrap();
    drop(lock(&other, "{s}a"));
}

#[test]
fn a_right_that_only_clusters_need_is_named_at_connect_if_it_is_missing() {
    let cluster = RedisCluster::start_with(0, &[]);
    for missing in OF_CLUSTERS {
        let rights: Vec<_> = OF_CLUSTERS.into_iter().filter(|right| *right != missing).collect();
        allow(&cluster, &rights);
        let error = connect(&cluster).unwrap_err();
        println!("{error}");
        assert!(matches!(error, LockError::Backend { kind: ErrorKind::Denied, .. }), "{missing}: {error:?}");
        assert!(error.to_string().contains(&missing[1..]), "{missing}: {error}");
    }
}
