//! What `leasehold doctor` finds: nothing wrong with servers as they should be, and each fault of others.

use std::time::Duration;

use leasehold::doctor::Level;
use support::doctor::{assert_found, found, report, wrong};
use support::etcd::{Cluster, Etcd};
use support::eventually;

#[test]
fn a_sound_server_is_found_sound_and_nothing_is_left_there() {
    let etcd = Etcd::start();
    let report = report(&etcd.url());
    assert!(report.level() < Level::Wrong);
    let level = |check| report.findings.iter().find(|finding| finding.check == check).map(|finding| finding.level);
    let sound =
        ["version", "leader", "database", "round trip", "alarms", "compaction", "transactions", "shortest lease"];
    for check in sound.into_iter().chain(["rights", "locks", "ttl"]) {
        assert_eq!(level(check), Some(Level::Ok), "{check}");
    }
    let database = report.findings.iter().find(|finding| finding.check == "database").unwrap();
    assert!(database.found.ends_with(" of 2048 MiB"), "{database:?}");
    assert_eq!((level("members"), level("account")), (Some(Level::Note), Some(Level::Note)));
    assert_eq!(report.findings.last().unwrap().check, "ttl");
    eventually("nothing is left", || (etcd.keys("").is_empty() && etcd.leases().is_empty()).then_some(()));
}

#[test]
fn a_full_database_is_found() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=500000"]);
    let value = "x".repeat(100_000);
    eventually("the server is full", || {
        etcd.try_etcdctl(&["put", "filler", &value]).err().filter(|error| error.contains("space exceeded"))
    });
    let found = wrong(&etcd.url());
    assert_found(&found, "alarms", &["NOSPACE", "disarm"]);
    assert_found(&found, "locks", &["space exceeded"]);
    assert!(found.iter().all(|finding| !finding.starts_with("rights")), "{found:#?}");
}

#[test]
fn a_limit_of_operations_is_found_by_trying() {
    let few = Etcd::start_with(&["--max-txn-ops", "3"]);
    let found_there = wrong(&few.url());
    assert_found(&found_there, "transactions", &["3 operations", "--max-txn-ops"]);
    assert_found(&found_there, "locks", &["--max-txn-ops"]);
    let fewer = Etcd::start_with(&["--max-txn-ops", "10"]);
    assert!(wrong(&fewer.url()).is_empty());
    assert_found(&found(&fewer.url(), Level::Note), "transactions", &["10 operations"]);
}

#[test]
fn a_long_election_timeout_demands_a_longer_ttl() {
    let etcd = Etcd::start_with(&["--heartbeat-interval=500", "--election-timeout=5000"]);
    let found = wrong(&format!("{}?ttl=3s", etcd.url()));
    assert_found(&found, "ttl", &["at least 8s", "shortest lease"]);
}

#[test]
fn the_rights_that_a_user_lacks_are_named() {
    let etcd = Etcd::start_with(&["--bcrypt-cost=4"]);
    for words in [
        &["user", "add", "root:secret"][..],
        &["user", "add", "joe:joes-secret"],
        &["role", "add", "locks"],
        &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "p/"],
        &["role", "grant-permission", "locks", "--prefix=true", "read", "seen/"],
        &["user", "grant-role", "joe", "locks"],
        &["auth", "enable"],
    ] {
        etcd.etcdctl(words);
    }
    let url = |account: &str, prefix: &str| format!("etcd://{account}@{}?prefix={prefix}", etcd.endpoint());
    assert!(wrong(&url("joe:joes-secret", "p/")).is_empty());
    let seen = wrong(&url("joe:joes-secret", "seen/"));
    assert_found(&seen, "rights", &["write a claim", "permission denied", "readwrite \"seen/\""]);
    assert!(!seen.iter().any(|finding| finding.contains("read the claims of a lock,")), "{seen:#?}");
    assert_found(&wrong(&url("joe:joes-secret", "other/")), "rights", &["list locks"]);
    assert_found(&wrong(&url("joe:wr0ng-secret", "p/")), "connection", &["authentication failed", "password"]);
    let nobody = wrong(&format!("{}?prefix=p/", etcd.url()));
    assert_found(&nobody, "rights", &["user name is empty", "Name a user and a password in the URL"]);
    let notes = found(&format!("{}?prefix=p/", etcd.url()), Level::Note);
    assert!(!notes.iter().any(|note| note.contains("authentication is off")), "{notes:#?}");
    for finding in seen.iter().chain(&nobody) {
        assert!(!finding.contains("secret"), "{finding}");
    }
}

#[test]
fn each_member_of_a_cluster_is_examined() {
    let mut cluster = Cluster::<3>::start();
    let sound = report(&cluster.url());
    assert!(sound.level() < Level::Wrong);
    assert_eq!(sound.minimum_ttl, Some(Duration::from_secs(10)));
    assert_found(&found(&cluster.members[1].url(), Level::Note), "members", &["Name all members"]);
    assert_found(&wrong(&format!("{}?ttl=5s", cluster.url())), "ttl", &["at least 10s", "election"]);
    let dead = (cluster.leader() + 1) % 3;
    let address = cluster.members[dead].endpoint();
    cluster.members[dead].process().stop();
    assert_found(&wrong(&cluster.url()), "connection", &[&address, "did not answer"]);
    cluster.members[dead].process().resume();
    cluster.members[dead].kill();
    assert_found(&wrong(&cluster.url()), "connection", &[&address]);
    cluster.members[(dead + 1) % 3].kill();
    let found = wrong(&cluster.url());
    assert!(found.len() >= 3, "no majority: {found:#?}");

    let other = Etcd::start();
    let mixed = format!("etcd://{},{}", other.endpoint(), Etcd::shared().endpoint());
    assert_found(&wrong(&mixed), "cluster", &["2 clusters"]);
}
