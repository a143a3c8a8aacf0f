//! Findings by what servers say.

use std::time::Duration;

use super::super::options::Node;
use super::facts::{Need, Refusal, Role, Sentinel, Server, Slots, Tried};
use super::judge::{self, Purpose};
use super::together;
use crate::backend::examination::{RoundTrips, judge_ttl};
use crate::backend::{BackendError, ErrorKind};
use crate::finding::{Finding, Findings, Level, assert_only};

const PURPOSE: Purpose =
    Purpose { ttl: Duration::from_secs(30), min_replicas: 0, fails_over: false, has_account: true };

/// The `INFO` of a server as it should be, with these lines before others of the same name.
fn info(first: &str) -> String {
    format!(
        "{first}\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\nmaxmemory:0\r\nused_memory:1000\r\n\
         maxmemory_policy:noeviction\r\naof_enabled:1\r\nrdb_last_bgsave_status:ok\r\nconnected_clients:3\r\nmaxclients:10000\r\n"
    )
}

fn sound() -> Server {
    let options = [
        ("timeout", "0"),
        ("save", ""),
        ("appendfsync", "always"),
        ("min-replicas-to-write", "0"),
        ("min-replicas-max-lag", "10"),
    ];
    Server {
        at: "a:1".into(),
        info: info(""),
        config: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        round_trips: RoundTrips::of(vec![Duration::from_micros(100); 10]),
        ahead: Some((-20, Duration::from_micros(50))),
        tried: vec![tried("get", Need::Locks, None)],
        ..Server::default()
    }
}

fn tried(command: &'static str, need: Need, refusal: Option<Refusal>) -> Tried {
    Tried { command, scope: Some("~lock:*".into()), need, refusal }
}

fn saying(line: &str) -> Server {
    Server { info: info(line), ..sound() }
}

fn with(option: &str, value: &str) -> Server {
    let mut server = sound();
    server.config.insert(option.into(), value.into());
    server
}

fn trying(command: &'static str, need: Need, refusal: Refusal) -> Server {
    Server { tried: vec![tried(command, need, Some(refusal))], ..sound() }
}

fn judged(server: &Server, purpose: Purpose) -> Vec<Finding> {
    let mut findings = Findings::of("a:1");
    judge::server(server, purpose, &mut findings);
    together::clock(server, &mut findings);
    findings.faults()
}

#[test]
fn each_fault_of_a_server_is_found_and_nothing_else() {
    use Level::{Note, Wrong};
    assert_eq!(judged(&sound(), PURPOSE), []);
    let none = Server {
        tried: ["get", "set", "del", "time", "type", "scan", "eval"]
            .map(|name| tried(name, Need::Locks, Some(Refusal::Command)))
            .into(),
        ..sound()
    };
    assert_only(&judged(&none, PURPOSE), "rights", Wrong, "lacks 7 rights ACL SETUSER <user> +del +eval +get");
    let failure = |kind| Some(BackendError::new(kind, "no answer"));
    for (server, check, level, text) in [
        (saying("redis_version:5.0.14"), "version", Note, "6.0"),
        (saying("role:slave"), "role", Wrong, "replica"),
        (saying("loading:1"), "loading", Wrong, "loading"),
        (saying("maxmemory_policy:allkeys-lru"), "eviction", Note, "without maxmemory"),
        (saying("maxmemory_policy:volatile-ttl\r\nmaxmemory:1000000"), "eviction", Wrong, "volatile-ttl, 0 of 1 MiB"),
        (saying("maxmemory:1000000\r\nused_memory:950000"), "eviction", Note, "Raise maxmemory"),
        (saying("aof_enabled:0"), "persistence", Note, "none"),
        (Server { info: info("aof_enabled:0"), ..with("save", "3600 1") }, "persistence", Note, "snapshots only"),
        (saying("rdb_last_bgsave_status:err"), "persistence", Wrong, "failed"),
        (saying("aof_last_write_status:err"), "persistence", Wrong, "failed"),
        (saying("connected_clients:9990"), "connections", Wrong, "9990 of 10000"),
        (saying("connected_clients:9500"), "connections", Note, "maxclients"),
        (with("timeout", "5"), "timeout", Wrong, "5 s"),
        (with("min-replicas-to-write", "1"), "min-replicas-to-write", Wrong, "refuses"),
        (Server { config: [].into(), ..sound() }, "configuration", Note, "+config|get"),
        (trying("evalsha", Need::Locks, Refusal::Command), "rights", Wrong, "ACL SETUSER <user> +evalsha"),
        (trying("get", Need::Locks, Refusal::Scope), "rights", Wrong, "~lock:*"),
        (trying("role", Need::Less("slower"), Refusal::Command), "rights", Note, "+role: slower"),
        (trying("zadd", Need::Locks, Refusal::Unknown), "commands", Wrong, "lacks ZADD"),
        (Server { ahead: Some((60_000_000, Duration::from_micros(50))), ..sound() }, "clock", Wrong, "60.0s ahead of"),
        (Server { ahead: Some((-900_000, Duration::from_micros(50))), ..sound() }, "clock", Note, "900.0ms behind"),
        (Server { round_trips: RoundTrips::of(vec![Duration::from_secs(2)]), ..sound() }, "round trip", Note, "2.0s"),
        (Server { failure: failure(ErrorKind::Unreachable), ..sound() }, "connection", Wrong, "server runs"),
        (Server { failure: failure(ErrorKind::Denied), ..sound() }, "connection", Wrong, "password"),
    ] {
        assert_only(&judged(&server, PURPOSE), check, level, text);
    }
    for server in [
        saying("valkey_version:8.1.1"),
        saying("maxmemory:1000000"),
        with("timeout", "300"),
        Server { ahead: Some((60_000_000, Duration::from_secs(60))), ..sound() },
        Server { ahead: None, round_trips: None, ..sound() },
    ] {
        assert_eq!(judged(&server, PURPOSE), [], "{server:?}");
    }
    let nobody = Purpose { has_account: false, ..PURPOSE };
    assert_only(&judged(&sound(), nobody), "account", Note, "docs/security.md");
}

#[test]
fn replicas_have_to_be_as_many_as_are_needed() {
    use Level::{Note, Wrong};
    let slave = |number: u32, state: &str| {
        format!("slave{number}:ip=10.0.0.{number},port=6379,state={state},offset=1,lag=0\r\n")
    };
    let two = slave(0, "online") + &slave(1, "online");
    let watched = Purpose { fails_over: true, ..PURPOSE };
    let confirmed = Purpose { min_replicas: 1, ..watched };
    let mut good = saying(&two);
    good.config.insert("min-replicas-to-write".into(), "1".into());
    assert_eq!(good.replicas()[1], (Node::named("10.0.0.1", 6379), true));
    assert_eq!(judged(&good, confirmed), []);
    let of = |lines: &str| Server { info: info(lines), ..good.clone() };
    assert_only(&judged(&good, watched), "replicas", Note, "?min_replicas=1");
    assert_only(&judged(&good, Purpose { min_replicas: 3, ..watched }), "replicas", Wrong, "lower min_replicas");
    assert_only(&judged(&of(&slave(0, "online")), confirmed), "replicas", Note, "second replica");
    assert_only(&judged(&of(&(slave(0, "online") + &slave(1, "wait_bgsave"))), confirmed), "replicas", Wrong, "1 of 2");
    let unguarded = Server { config: sound().config, ..good.clone() };
    assert_only(&judged(&unguarded, confirmed), "min-replicas-to-write", Note, "cut off");
    let old = of(&format!("redis_version:6.0.16\r\n{two}"));
    assert_only(&judged(&old, confirmed), "min-replicas-to-write", Note, "6.2");
    let alone = judged(&Server { config: [("timeout".to_owned(), "0".to_owned())].into(), ..sound() }, watched);
    assert_only(&alone, "replicas", Wrong, "nothing takes over");

    let replica = |lines: &str| Server { role: Role::Replica, ..of(lines) };
    assert_eq!(judged(&replica("role:slave\r\nmaster_link_status:up"), confirmed), []);
    assert_only(&judged(&replica("role:slave\r\nmaster_link_status:down"), confirmed), "role", Wrong, "masterauth");
    assert_only(&judged(&replica("role:master"), confirmed), "role", Wrong, "named as a replica");
    for odd in ["slave0:ip=a b,port=1,state=online", "slave0:", "slaveX:ip=a,port=1", "slave_expires_tracked_keys:0"] {
        assert!(saying(odd).replicas().iter().all(|(node, _)| node.is_none()), "{odd}");
    }
}

#[test]
fn clocks_are_compared_as_far_as_they_are_known() {
    let at = |ahead, within| Server { ahead: Some((ahead, Duration::from_micros(within))), ..sound() };
    for (servers, expected) in [
        (vec![at(0, 10), at(1000, 10)], None),
        (vec![at(0, 10)], None),
        (vec![at(-400_000, 10), at(400_000, 10)], Some(Level::Note)),
        (vec![at(0, 10), at(5_000_000, 10), at(100, 10)], Some(Level::Wrong)),
        (vec![at(0, 3_000_000), at(5_000_000, 3_000_000)], None),
    ] {
        let mut findings = Findings::of("all");
        together::clocks(&servers, &mut findings);
        assert_eq!(findings.faults().first().map(|finding| finding.level), expected, "{servers:?}");
    }
}

fn sentinel(fields: &[(&str, &str)], master: &str) -> Sentinel {
    let all = [("flags", "master"), ("config-epoch", "3"), ("quorum", "2"), ("failover-timeout", "10000")];
    let all = all.iter().chain([&("down-after-milliseconds", "1000")]).chain(fields);
    let fields = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sentinel { at: "s:1".into(), fields, master: Node::named(master, 6379), ..Sentinel::default() }
}

#[test]
fn sentinels_have_to_be_able_to_replace_the_master() {
    use Level::{Note, Wrong};
    let one = |sentinel: &Sentinel| {
        let mut findings = Findings::of("s:1");
        together::sentinel(sentinel, &mut findings);
        findings.faults()
    };
    let all = |sentinels: &[Sentinel]| {
        let mut findings = Findings::of("all");
        together::sentinels(sentinels, &mut findings);
        findings.faults()
    };
    let good = || sentinel(&[], "m");
    let dead = || Sentinel { failure: Some(BackendError::new(ErrorKind::Unreachable, "gone")), ..Sentinel::default() };
    assert_eq!((one(&good()), all(&[good(), good(), good()])), (vec![], vec![]));
    assert_only(&one(&dead()), "connection", Wrong, "gone");
    assert_only(&one(&sentinel(&[("flags", "s_down,master")], "m")), "master", Wrong, "s_down");
    assert_only(&one(&sentinel(&[("failover-timeout", "180000")], "m")), "failover-timeout", Note, "180 s");
    assert_eq!(all(&[good(), good(), dead()]), []);
    assert_only(&all(&[good(), dead(), dead()]), "sentinels", Wrong, "1 of 3");
    assert_only(&all(&[good(), good()]), "sentinels", Note, "Run three");
    assert_only(&all(&vec![sentinel(&[("quorum", "4")], "m"); 3]), "sentinels", Wrong, "quorum 4");
    assert_only(&all(&[good(), good(), sentinel(&[], "other")]), "agreement", Wrong, "m:6379 and other:6379");
}

#[test]
fn a_cluster_needs_all_slots_and_a_majority() {
    use Level::{Note, Wrong};
    let judged = |masters, served, coverage| {
        let mut findings = Findings::of("all");
        let servers = [with("cluster-require-full-coverage", coverage)];
        together::slots(&Slots { masters, served }, &servers, &mut findings);
        findings.faults()
    };
    assert_eq!(judged(3, 16384, "no"), []);
    assert_only(&judged(3, 16383, "no"), "slots", Wrong, "16383");
    assert_only(&judged(2, 16384, "no"), "slots", Note, "three masters");
    assert_only(&judged(3, 16384, "yes"), "full coverage", Note, "a shard that is down");
}

#[test]
fn the_ttl_has_to_outlive_a_failover() {
    let ttl = |demands: &[_], ttl: u64| {
        let mut findings = Findings::of("all");
        let least = judge_ttl(Duration::from_secs(ttl), demands, true, &mut findings);
        (least.map(|least| least.as_secs()), findings.faults().pop())
    };
    let sentinels = [sentinel(&[], "m"), sentinel(&[("down-after-milliseconds", "30000")], "m")];
    assert_eq!(ttl(&[together::demand_of_sentinels(&sentinels[..1]).unwrap()], 6), (Some(6), None));
    let (least, fault) = ttl(&[together::demand_of_sentinels(&sentinels).unwrap()], 30);
    assert_only(&[fault.unwrap()], "ttl", Level::Wrong, "?ttl=50s");
    assert_eq!(least, Some(50));
    let cluster = together::demand_of_cluster(&[with("cluster-node-timeout", "2000")]);
    assert_eq!(ttl(&[cluster], 8), (Some(8), None));
    assert_eq!(ttl(&[together::demand_of_cluster(&[sound()])], 30), (Some(27), None), "by the default");
    let slow = Server { round_trips: RoundTrips::of(vec![Duration::from_millis(2500)]), ..sound() };
    assert_eq!(ttl(&[together::demands_of_round_trips(&[slow]).unwrap()], 50), (Some(50), None));
    assert_eq!(ttl(&[], 1), (None, None));
}
