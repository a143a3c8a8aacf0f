//! What `leasehold doctor` finds: nothing wrong with servers as they should be, and each fault of others.

use std::time::Duration;

use leasehold::doctor::{Level, examine};
use support::clusters::RedisCluster;
use support::doctor::{assert_found, report, wrong};
use support::redis::Redis;
use support::sentinels::Watched;

/// Makes the documented account, with these rights as well, and returns the URL with it.
fn account(servers: &[&Redis], more: &[&str], url: &str) -> String {
    let documented = include_str!("../../docs/security.md");
    let user = documented.lines().find(|line| line.starts_with("ACL SETUSER locker")).unwrap();
    let words: Vec<_> = user.split(' ').chain(more.iter().copied()).collect();
    for server in servers {
        server.cli(&["ACL", "DELUSER", "locker"]);
        server.cli(&words);
    }
    url.replace("//", "//locker:PASSWORD@")
}

#[test]
fn a_sound_server_is_found_sound_and_nothing_is_left_there() {
    let redis = Redis::start_with(&["--appendonly", "yes"]);
    let report = report(&redis.url());
    assert!(report.level() < Level::Wrong);
    let level = |check| report.findings.iter().find(|finding| finding.check == check).map(|finding| finding.level);
    for check in [
        "version",
        "role",
        "eviction",
        "persistence",
        "connections",
        "timeout",
        "round trip",
        "clock",
        "rights",
        "locks",
        "ttl",
    ] {
        assert_eq!(level(check), Some(Level::Ok), "{check}");
    }
    assert_eq!(report.findings.last().unwrap().check, "ttl");
    let left: Vec<_> =
        redis.keys("*").into_iter().filter(|key| !key.contains("%clock:") && !key.contains("%lives:")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(wrong(&redis.unix_url()).is_empty());
}

#[test]
fn what_the_server_is_set_to_do_is_found() {
    let redis = Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--timeout", "5"]);
    let found = wrong(&redis.url());
    assert_found(&found, "eviction", &["allkeys-lru", "100 MiB", "noeviction"]);
    assert_found(&found, "timeout", &["5 s", "timeout 0"]);
    assert_eq!(found.len(), 2, "{found:#?}");
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(&["CONFIG", "SET", "timeout", "0"]);
    assert!(wrong(&redis.url()).is_empty());
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_found(&wrong(&redis.url()), "min-replicas-to-write", &["refuses all writes"]);
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    assert_found(&wrong(&format!("{}?min_replicas=1", redis.url())), "replicas", &["0 of 0", "no lock is granted"]);
    redis.cli(&["CONFIG", "SET", "maxclients", "12"]);
    assert_found(&wrong(&redis.url()), "connections", &["of 12 used"]);
}

#[test]
fn a_replica_is_no_server_for_locks() {
    let redis = Redis::start();
    let replica = redis.start_replica();
    let found = wrong(&replica.url());
    assert_found(&found, "role", &["a replica", "Name the master"]);
    assert_found(&found, "locks", &["READONLY"]);
    assert!(wrong(&redis.url()).is_empty());
}

#[test]
fn the_rights_that_an_account_lacks_are_named() {
    let redis = Redis::start();
    let url = |more: &[&str]| account(&[&redis], more, &redis.url());
    assert!(wrong(&url(&[])).is_empty());
    for (more, missing) in [
        (&["-evalsha"][..], "+evalsha"),
        (&["-zrevrange"], "+zrevrange"),
        (&["-publish"], "+publish"),
        (&["-subscribe"], "+subscribe"),
        (&["resetkeys", "~lock:*"], "~{*}%*:lock:*"),
        (&["resetkeys", "~{*}%*:lock:*"], "~lock:*"),
        (&["resetchannels"], "&lock:%wake:*"),
    ] {
        let found = wrong(&url(more));
        assert_found(&found, "rights", &["ACL SETUSER <user> ", missing]);
        let rights = found.iter().filter(|finding| finding.starts_with("rights"));
        assert!(rights.clone().all(|finding| finding.matches(['+', '~', '&']).count() == 2 * missing.matches(['+', '~', '&']).count()), "{found:#?}");
        assert!(found.iter().all(|finding| !finding.contains("PASSWORD")), "{found:#?}");
    }
    let other = account(&[&redis], &[], &format!("{}?prefix=jobs:", redis.url()));
    assert_found(&wrong(&other), "rights", &["~jobs:*", "~{*}%*:jobs:*", "&jobs:%wake:*"]);
}

#[test]
fn a_clock_that_is_ahead_is_found() {
    let redis = Redis::start_with_clock();
    redis.set_clock(Duration::from_secs(60));
    assert_found(&wrong(&redis.url()), "clock ", &["s ahead of this machine's", "NTP"]);
}

#[test]
fn servers_that_cannot_be_asked_are_found_in_time_and_no_password_is_shown() {
    let mut redis = Redis::start_with(&["--requirepass", "right-secret"]);
    let url = |password: &str| redis.url().replace("//", &format!("//:{password}@"));
    let (right, bad) = (url("right-secret"), url("wr0ng-secret"));
    assert!(wrong(&right).is_empty());
    for (url, text) in [(bad, "Check the user and the password"), (redis.url(), "NOAUTH")] {
        let found = wrong(&url);
        assert_found(&found, "connection", &[text]);
        assert!(found.iter().all(|finding| !finding.contains("secret")), "{found:#?}");
    }
    redis.process().stop();
    assert_found(&wrong(&right), "connection", &["did not answer", "Check that the server runs"]);
    redis.process().resume();
    redis.kill();
    assert_found(&wrong(&right), "connection", &["refused", "Check that the server runs"]);
    // A URL that makes no sense is no finding.
    assert!(examine("redis://host/path").wait().is_err());
}

#[test]
fn each_node_of_a_cluster_is_examined() {
    let mut cluster = RedisCluster::start();
    let nodes: Vec<_> = cluster.nodes().iter().collect();
    let rights = ["+cluster|slots", "+cluster|myid", "+asking"];
    let url = account(&nodes, &rights, &cluster.url());
    let sound = report(&format!("{}?min_replicas=1", cluster.url()));
    assert!(sound.level() < Level::Wrong);
    assert_eq!(sound.minimum_ttl, Some(Duration::from_secs(8)), "1.5 × (2 s + 3 s), rounded up");
    assert!(wrong(&url).is_empty());

    // What an account lacks at one node only, a replica even.
    cluster.wait_until_listed();
    let replica = &cluster.nodes()[4];
    replica.cli(&["ACL", "SETUSER", "locker", "-zadd"]);
    let found = wrong(&url);
    assert_found(&found, "rights", &["+zadd", &replica.address().to_string()]);
    assert_eq!(found.len(), 1, "{found:#?}");
    replica.cli(&["ACL", "DELUSER", "locker"]);
    assert_found(&wrong(&url), "connection", &[&replica.address().to_string(), "password"]);

    let dead = cluster.nodes()[5].address().to_string();
    cluster.node_mut(5).kill();
    assert_found(&wrong(&cluster.url()), "connection", &[&dead]);
    assert_found(&wrong(&format!("{}?ttl=2s", cluster.url())), "ttl", &["at least 8s", "cluster-node-timeout"]);
    let node = cluster.nodes()[0].url();
    assert_found(&wrong(&node), "connection", &["redis+cluster://"]);
}

#[test]
fn sentinels_and_what_they_watch_are_examined() {
    let mut watched = Watched::start();
    let sound = report(&watched.url());
    assert!(sound.level() < Level::Wrong);
    assert_eq!(sound.minimum_ttl, Some(Duration::from_secs(6)), "1.5 × (1 s + 3 s)");
    let notes: Vec<_> =
        sound.findings.iter().filter(|finding| finding.level == Level::Note).map(|it| it.check).collect();
    assert!(notes.contains(&"replicas") && notes.contains(&"min-replicas-to-write"), "{notes:?}");

    // Accounts are not replicated.
    let master = watched.master().unwrap();
    let all: Vec<_> = watched.servers.iter().collect();
    let url = account(&all, &["+role"], &watched.url());
    assert!(wrong(&url).is_empty());
    let replica = &watched.servers[(master + 1) % 3];
    replica.cli(&["ACL", "DELUSER", "locker"]);
    assert_found(&wrong(&url), "connection", &[&replica.address().to_string(), "password"]);

    assert_found(&wrong(&watched.url().replace("/main", "/other")), "connection", &["watches no master named"]);
    let dead = watched.sentinels[1].host();
    watched.sentinels[1].kill();
    assert_found(&wrong(&watched.url()), "connection", &[&format!("sentinel {dead}")]);
    watched.sentinels[2].kill();
    assert_found(&wrong(&watched.url()), "sentinels", &["1 of 3 answer"]);
}

#[test]
fn a_lock_that_disappears_is_a_finding_and_a_long_ttl_is_not_tried() {
    let redis = Redis::start();
    let url = format!("{}?ttl=1d&max_hold=1s", redis.url());
    let examined = std::thread::spawn(move || examine(&url).wait().unwrap());
    let mut longest = 0;
    while !examined.is_finished() {
        for key in redis.keys("lock:leasehold-doctor-*") {
            longest = longest.max(redis.cli(&["PTTL", &key]).parse::<i64>().unwrap());
        }
    }
    let report = examined.join().unwrap();
    assert!(report.level() < Level::Wrong, "{report:?}");
    assert!(longest <= 10_000, "{longest} ms");
    // As on a server that evicts keys, or is flushed.
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                redis.cli(&["FLUSHALL"]);
            }
        });
        // An examination may pass between two of them.
        let is_found = || wrong(&redis.url()).iter().any(|finding| finding.starts_with("locks ")).then_some(());
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| support::eventually("a loss", is_found)));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        found.unwrap();
    });
}
