//! A Redis that is away for a while, loses its data, has no memory left, becomes a replica, deletes users, or whose clock jumps.

use std::time::{Duration, Instant};

use leasehold::backend::ErrorKind;
use leasehold::{LockError, LockManager};

use crate::fixture::{Fixture, Held, LONG, REPORTED, SHORT, SLACK};
use crate::server::Server;
use crate::table::Absence::{NoServer, NoTimeOfDay, OfRedis};
use crate::table::{Backend, Cell, Fault, Play};
use support::etcd::Etcd;
use support::eventually;
use support::proxy::Proxy;
use support::redis::Redis;

/// The tolerance beyond a bound of T/3.
const A_RENEWAL: &str = " (T/3) and the time of a renewal";

const A_RECONNECT: &str = " (T/3) and the time to reconnect";

const fn on_redis(number: u32, name: &'static str, etcd: Cell, play: Play) -> Fault {
    Fault { number, name, cells: [Cell::Absent(NoServer), etcd, Cell::Run(play)] }
}

pub(crate) const FAULTS: &[Fault] = &[
    Fault::everywhere(22, "Server stopped for over T: lost before it continues", stopped_for_long),
    Fault::everywhere(23, "Server stopped for less than T/3: no loss", stopped_briefly),
    on_redis(
        24,
        "Killed and restarted empty: loss within T/3 and the time to reconnect, tokens grow",
        Cell::Absent(OfRedis),
        restarted_empty,
    ),
    on_redis(
        24,
        "A replica that lacks the last writes takes over (asynchronous failover): the same",
        Cell::Absent(OfRedis),
        failed_over,
    ),
    on_redis(25, "Killed and restarted, each write on its disk: no loss", Cell::As(20), restarted_with_its_data),
    Fault::on_servers(
        26,
        "All keys are deleted (FLUSHALL): loss within 200 ms (Redis 5: T/3), tokens grow",
        NoServer,
        flushed,
    ),
    on_redis(27, "Scripts are forgotten (SCRIPT FLUSH): not noticed", Cell::Absent(OfRedis), scripts_flushed),
    on_redis(28, "No memory (OOM): acquire fails clearly, renewals and releases continue", Cell::As(21), no_memory),
    on_redis(29, "The master becomes a replica (READONLY): lost in time", Cell::Absent(OfRedis), read_only),
    Fault::on_servers(30, "The user is deleted: a typed error, lost in time", NoServer, user_deleted),
    on_redis(
        30,
        "The user may run no commands any more: a typed error, lost in time",
        Cell::Absent(OfRedis),
        user_without_commands,
    ),
    on_redis(
        31,
        "The server's clock jumps 2 T ahead: loss within T/3, the old token is smaller",
        Cell::Absent(NoTimeOfDay),
        clock_jumped,
    ),
    on_redis(
        32,
        "The subscription is killed while waiting: acquired within 1 s of the release",
        Cell::As(17),
        subscription_killed,
    ),
];

fn stopped_for_long(fixture: &mut Fixture) {
    for round in fixture.rounds(5) {
        let key = format!("k{round}");
        let (holder, waiter) = (fixture.manager(SHORT), fixture.manager(SHORT));
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&waiter, &key);
        fixture.stop_server();
        let start = Instant::now();
        fixture.expect_loss(&held, start, SHORT);
        // A fixed pause: the stop is longer than the TTL.
        std::thread::sleep((SHORT + SHORT / 3).saturating_sub(start.elapsed()));
        assert!(waiting.is_waiting());
        fixture.resume_server();
        let resumed = Instant::now();
        let (next, at) = waiting.got();
        fixture.next(at.saturating_duration_since(resumed));
        assert!(next.token() > held.token());
        drop(held);
        next.unlock();
    }
}

fn stopped_briefly(fixture: &mut Fixture) {
    for _ in fixture.rounds(3) {
        let (holder, waiter) = (fixture.manager(LONG), fixture.manager(LONG));
        let held = fixture.hold(&holder, "k");
        let waiting = fixture.wait_for(&waiter, "k");
        let start = Instant::now();
        fixture.stop_server();
        // A fixed pause: this is how long the server is stopped.
        std::thread::sleep(LONG / 4);
        fixture.resume_server();
        held.lives_on(start, LONG);
        fixture.hand_over(held, &waiting);
    }
}

/// The server loses the hold, and another manager locks at once. The loss follows.
fn forgotten(fixture: &mut Fixture, bound: Duration, words: &'static str, forget: impl Fn(&mut Fixture)) {
    fixture.allow(bound, words);
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let (holder, rival) = (fixture.manager(LONG), fixture.manager(LONG));
        let held = fixture.hold(&holder, &key);
        let start = Instant::now();
        forget(fixture);
        let next = fixture.waiting(rival.lock(&key));
        ends_after(fixture, held, start, bound);
        let (next, at) = next.got();
        fixture.next(at - start);
        next.unlock();
    }
}

/// Asserts that the loss is reported in time.
fn ends_after(fixture: &mut Fixture, held: Held, start: Instant, bound: Duration) {
    fixture.expect_loss(&held, start, bound);
    assert_eq!(held.guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
}

fn restarted_empty(fixture: &mut Fixture) {
    forgotten(fixture, LONG / 3, A_RECONNECT, Fixture::restart_server);
}

fn failed_over(fixture: &mut Fixture) {
    fixture.allow(LONG / 3, A_RECONNECT);
    for round in fixture.rounds(4) {
        let (key, mut master) = (format!("k{round}"), Redis::start());
        fixture.redis().cli(&["REPLICAOF", "127.0.0.1", &master.address().port().to_string()]);
        eventually("the replica is up to date", || {
            fixture.redis().cli(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
        });
        // Later writes do not reach the replica.
        fixture.redis().cli(&["REPLICAOF", "NO", "ONE"]);
        let proxy = Proxy::start(master.address());
        let url = format!("redis://{}", proxy.address());
        let holder = fixture.at(LockManager::builder().url(url), LONG).build().wait().unwrap();
        let rival = fixture.manager(LONG);
        let held = fixture.hold(&holder, &key);
        let start = Instant::now();
        proxy.redirect(fixture.redis().address());
        master.kill();
        let next = fixture.waiting(rival.lock(&key));
        ends_after(fixture, held, start, LONG / 3);
        let (next, at) = next.got();
        fixture.next(at - start);
        next.unlock();
    }
}

fn restarted_with_its_data(fixture: &mut Fixture) {
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    fixture.use_server(Server::Redis(Box::new(redis)));
    for _ in fixture.rounds(3) {
        fixture.restart_without_loss();
    }
}

/// How long it takes at most until a holder knows that others have changed its key, and what is added to the figure.
pub(crate) fn until_a_change_is_known(fixture: &Fixture) -> (Duration, &'static str) {
    if fixture.redis().reports_changes() { (REPORTED, "") } else { (LONG / 3, A_RENEWAL) }
}

fn flushed(fixture: &mut Fixture) {
    match fixture.backend() {
        Backend::Redis(_) => {
            let (bound, words) = until_a_change_is_known(fixture);
            forgotten(fixture, bound, words, |fixture| drop(fixture.redis().cli(&["FLUSHALL"])));
        }
        _ => forgotten(fixture, REPORTED, "", |fixture| {
            fixture.etcd().etcdctl(&["del", "", "--from-key"]);
        }),
    }
}

fn scripts_flushed(fixture: &mut Fixture) {
    let (holder, waiter) = (fixture.manager(SHORT), fixture.manager(SHORT));
    for _ in fixture.rounds(50) {
        let held = fixture.hold(&holder, "k");
        let waiting = fixture.wait_for(&waiter, "k");
        fixture.redis().cli(&["SCRIPT", "FLUSH"]);
        held.guard.renew().wait().unwrap();
        fixture.redis().cli(&["SCRIPT", "FLUSH"]);
        fixture.hand_over(held, &waiting);
    }
    assert_eq!(holder.stats().failed_renewals, 0);
}

fn no_memory(fixture: &mut Fixture) {
    let manager = fixture.manager(SHORT);
    let [first, second] = ["held", "dropped"].map(|key| fixture.hold(&manager, key));
    fixture.redis().cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let start = Instant::now();
    let error = manager.lock("k").wait().unwrap_err();
    assert!(error.code() == "BACKEND" && error.to_string().contains("memory"), "{error}");
    assert!(start.elapsed() < SLACK, "retried for too long: {:?}", start.elapsed());
    first.lives_on(start, SHORT);
    second.drop();
    first.unlock();
    fixture.redis().cli(&["CONFIG", "SET", "maxmemory", "0"]);
    fixture.hold(&manager, "k").unlock();
}

fn read_only(fixture: &mut Fixture) {
    let master = Redis::start();
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let manager = fixture.manager(SHORT);
        let held = fixture.hold(&manager, &key);
        let start = Instant::now();
        fixture.redis().cli(&["REPLICAOF", "127.0.0.1", &master.address().port().to_string()]);
        fixture.expect_loss(&held, start, SHORT);
        fixture.redis().cli(&["REPLICAOF", "NO", "ONE"]);
        let restored = Instant::now();
        let next = fixture.hold(&manager, &key);
        fixture.next(restored.elapsed());
        next.unlock();
    }
}

/// The user of a holder is deleted, while another user waits.
fn turned_out(
    fixture: &mut Fixture,
    holder: &LockManager,
    waiter: &LockManager,
    key: &str,
    turn_out: impl Fn(&Fixture),
) {
    let held = fixture.hold(holder, key);
    let waiting = fixture.wait_for(waiter, key);
    let start = Instant::now();
    turn_out(fixture);
    let error = holder.lock("other").wait().unwrap_err();
    assert!(matches!(error, LockError::Backend { kind: ErrorKind::Denied, .. }), "{error:?}");
    fixture.expect_loss(&held, start, SHORT);
    fixture.next_holder(&waiting, start);
}

const USER: [&str; 8] = ["ACL", "SETUSER", "me", "reset", "on", ">secret", "~*", "&*"];

fn of_user(fixture: &Fixture) -> LockManager {
    fixture.redis().cli(&[&USER[..], &["+@all"]].concat());
    let url = fixture.url().replace("//", "//me:secret@");
    fixture.at(LockManager::builder().url(url), SHORT).build().wait().unwrap()
}

fn user_deleted(fixture: &mut Fixture) {
    if fixture.backend() == Backend::Etcd {
        return etcd_user_deleted(fixture);
    }
    for round in fixture.rounds(4) {
        let (holder, waiter) = (of_user(fixture), fixture.manager(SHORT));
        turned_out(fixture, &holder, &waiter, &format!("k{round}"), |fixture| {
            fixture.redis().cli(&["ACL", "DELUSER", "me"]);
        });
    }
}

fn user_without_commands(fixture: &mut Fixture) {
    for round in fixture.rounds(4) {
        let (holder, waiter) = (of_user(fixture), fixture.manager(SHORT));
        turned_out(fixture, &holder, &waiter, &format!("k{round}"), |fixture| {
            fixture.redis().cli(&["ACL", "SETUSER", "me", "-@all"]);
        });
    }
}

fn etcd_user_deleted(fixture: &mut Fixture) {
    const ROOT: [&str; 2] = ["--user", "root:secret"];
    let etcd = Etcd::start_with(&["--bcrypt-cost=4"]);
    etcd.etcdctl(&["user", "add", "root:secret"]);
    etcd.etcdctl(&["auth", "enable"]);
    let root = |etcd: &Etcd, arguments: &[&str]| drop(etcd.etcdctl(&[&ROOT[..], arguments].concat()));
    root(&etcd, &["role", "add", "locks"]);
    root(&etcd, &["role", "grant-permission", "locks", "--prefix=true", "readwrite", "leasehold/"]);
    let url = etcd.url();
    fixture.use_server(Server::Etcd(Box::new(etcd)));
    let as_user = |fixture: &Fixture, user: &str| {
        let url = url.replace("//", &format!("//{user}:secret@"));
        fixture.at(LockManager::builder().url(url), SHORT).build().wait().unwrap()
    };
    for round in fixture.rounds(4) {
        root(fixture.etcd(), &["user", "add", "me:secret"]);
        root(fixture.etcd(), &["user", "grant-role", "me", "locks"]);
        let (holder, waiter) = (as_user(fixture, "me"), as_user(fixture, "root"));
        turned_out(fixture, &holder, &waiter, &format!("k{round}"), |fixture| {
            root(fixture.etcd(), &["user", "delete", "me"]);
        });
    }
    root(fixture.etcd(), &["auth", "disable"]);
}

fn clock_jumped(fixture: &mut Fixture) {
    fixture.allow(LONG / 3, A_RENEWAL);
    fixture.use_server(Server::Redis(Box::new(Redis::start_with_clock())));
    let mut ahead = Duration::ZERO;
    for round in fixture.rounds(4) {
        let key = format!("k{round}");
        let (holder, waiter) = (fixture.manager(LONG), fixture.manager(LONG));
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&waiter, &key);
        ahead += 2 * LONG;
        fixture.redis().set_clock(ahead);
        let start = Instant::now();
        fixture.expect_loss(&held, start, LONG / 3);
        let (token, _) = fixture.next_holder(&waiting, start);
        assert!(token > held.token());
    }
}

fn subscription_killed(fixture: &mut Fixture) {
    let (holder, waiter) = (fixture.manager(LONG), fixture.manager(LONG));
    for _ in fixture.rounds(20) {
        let held = fixture.hold(&holder, "k");
        let waiting = fixture.wait_for(&waiter, "k");
        fixture.redis().cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let took = fixture.hand_over(held, &waiting);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}
