//! An etcd whose members are killed, stopped or cut off, that removes leases and claims, or that has no space left.

use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, KeyValue, SortOrder, SortTarget};
use leasehold::LockManager;

use crate::fixture::{Fixture, LONG, REPORTED, SHORT, SLACK, Waiting};
use crate::redis::until_a_change_is_known;
use crate::server::Server;
use crate::table::Absence::{NoServer, OfEtcd};
use crate::table::{Backend, Cell, Fault, Play};
use support::crowd::Crowd;
use support::etcd::{Cluster, Etcd};
use support::eventually;
use support::grpc::Grpc;
use support::proxy::Proxy;

/// etcd's default election timeout.
const ELECTION: Duration = Duration::from_secs(1);

const fn on_etcd(number: u32, name: &'static str, play: Play, redis: Cell) -> Fault {
    Fault { number, name, cells: [Cell::Absent(NoServer), Cell::Run(play), redis] }
}

pub(crate) const FAULTS: &[Fault] = &[
    on_etcd(
        9,
        "Leader of 3 killed again and again, 8 clients: progress within 10 s",
        leader_killed,
        Cell::Absent(OfEtcd),
    ),
    on_etcd(
        10,
        "Leader of 3 stopped for 3 election timeouts, 8 clients: progress within 10 s",
        leader_stopped,
        Cell::Absent(OfEtcd),
    ),
    on_etcd(
        10,
        "Leader stopped for 6 s of T = 10 s with a renewal in its socket, then cut off: lost in time",
        deposed,
        Cell::Absent(OfEtcd),
    ),
    on_etcd(
        11,
        "The client's own member stopped for over T = 12 s: it moves on, no loss",
        member_stopped,
        Cell::Absent(OfEtcd),
    ),
    on_etcd(
        12,
        "Holder cut off with the minority (T = 5 s): lost before the majority's waiter gets the lock",
        minority,
        Cell::Absent(OfEtcd),
    ),
    Fault::everywhere(13, "The lease is revoked: loss within 200 ms", revoked),
    Fault::everywhere(14, "Only the claim is deleted: loss within 200 ms (Redis 5, files: T/3)", deleted),
    on_etcd(
        15,
        "A waiter's lease (on Redis: its place in the queue) is removed: it queues again",
        waiter_revoked,
        Cell::Run(waiter_removed),
    ),
    on_etcd(
        16,
        "Compaction while the waiter's watch is down: acquired within 1 s of the release",
        compacted,
        Cell::Absent(OfEtcd),
    ),
    on_etcd(17, "The watch stream alone falls silent: acquired within 6 s", silent_watch, Cell::As(32)),
    on_etcd(18, "1 s asked for, 2 s granted: remaining() shows it", granted, Cell::Absent(OfEtcd)),
    on_etcd(19, "The auth token expires during the hold (T = 6 s): no loss", token_expired, Cell::Absent(OfEtcd)),
    on_etcd(20, "The only member restarts within T: no loss", restarted, Cell::As(25)),
    on_etcd(20, "The only member is away for longer than T: lost in time", away, Cell::As(22)),
    on_etcd(21, "NOSPACE alarm: acquire fails clearly, renewals and releases continue", no_space, Cell::As(28)),
];

fn use_cluster(fixture: &mut Fixture) {
    fixture.use_server(Server::Cluster(Box::new(Cluster::start())));
}

/// Eight clients; consecutive ones prefer different members.
fn crowd(fixture: &Fixture) -> Crowd {
    let ttl = Duration::from_secs(5);
    let manager = |number: usize| {
        let url = fixture.cluster().url_from(number % 3);
        fixture.at(LockManager::builder().url(url), ttl).build().wait().unwrap()
    };
    Crowd::start(fixture.history(), (0..8).map(manager))
}

fn leader_killed(fixture: &mut Fixture) {
    use_cluster(fixture);
    let (crowd, start) = (crowd(fixture), Instant::now());
    let mut first = true;
    while std::mem::take(&mut first) || (fixture.is_full() && start.elapsed() < Duration::from_secs(60)) {
        crowd.progress();
        let leader = fixture.cluster().leader();
        fixture.cluster_mut().members[leader].kill();
        let took = crowd.progress();
        assert!(took < Duration::from_secs(10), "{took:?}");
        fixture.next(took);
        fixture.cluster_mut().members[leader].restart();
    }
    crowd.finish();
}

fn leader_stopped(fixture: &mut Fixture) {
    use_cluster(fixture);
    let crowd = crowd(fixture);
    for _ in fixture.rounds(5) {
        crowd.progress();
        let leader = fixture.cluster().leader();
        fixture.cluster().members[leader].process().stop();
        let stopped = Instant::now();
        let took = crowd.progress();
        assert!(took < Duration::from_secs(10), "{took:?}");
        fixture.next(took);
        // A fixed pause: what the fault says.
        std::thread::sleep((3 * ELECTION).saturating_sub(stopped.elapsed()));
        fixture.cluster().members[leader].process().resume();
        crowd.progress();
    }
    crowd.finish();
}

/// A manager with these members; it uses the first one while that answers.
fn manager_at(fixture: &Fixture, url: String, ttl: Duration) -> LockManager {
    fixture.at(LockManager::builder().url(url), ttl).build().wait().unwrap()
}

fn deposed(fixture: &mut Fixture) {
    const TTL: Duration = Duration::from_secs(10);
    use_cluster(fixture);
    for round in fixture.rounds(3) {
        let (key, leader) = (format!("k{round}"), fixture.cluster().leader());
        let (old, other) = (&fixture.cluster().members[leader], &fixture.cluster().members[(leader + 1) % 3]);
        let proxy = Proxy::start(old.address());
        let holder = manager_at(fixture, format!("etcd://{}", proxy.address()), TTL);
        let rival = manager_at(fixture, other.url(), TTL);
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&rival, &key);
        let renewed = holder.stats().renewals;
        eventually("a renewal", || (holder.stats().renewals > renewed).then_some(()));
        old.process().stop();
        let stopped = Instant::now();
        fixture.cluster().peers.isolate(leader);
        // The next renewals go into the stop, which is as long as the fault says.
        std::thread::sleep(Duration::from_secs(6));
        let answered = proxy.answered();
        old.process().resume();
        eventually("the old leader answers", || (proxy.answered() > answered).then_some(()));
        proxy.cut();
        let lost = held.lost();
        let (next, at) = waiting.got();
        fixture.cluster().peers.heal();
        proxy.heal();
        next.unlock();
        drop((held, holder, rival));
        fixture.loss(lost - stopped);
        fixture.next(at - stopped);
    }
}

fn member_stopped(fixture: &mut Fixture) {
    const TTL: Duration = Duration::from_secs(12);
    use_cluster(fixture);
    for round in fixture.rounds(2) {
        let (key, leader) = (format!("k{round}"), fixture.cluster().leader());
        let stopped = (leader + 1) % 3;
        let url = fixture.cluster().url_from(stopped);
        let (holder, rival) = (manager_at(fixture, url.clone(), TTL), manager_at(fixture, url, TTL));
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&rival, &key);
        fixture.cluster().members[stopped].process().stop();
        let start = Instant::now();
        eventually("the old deadline has passed", || (start.elapsed() > TTL + ELECTION).then_some(()));
        assert!(!held.guard.is_lost() && waiting.is_waiting());
        fixture.hand_over(held, &waiting);
        fixture.cluster().members[stopped].process().resume();
    }
}

fn minority(fixture: &mut Fixture) {
    const TTL: Duration = Duration::from_secs(5);
    use_cluster(fixture);
    for round in fixture.rounds(4) {
        let (key, leader) = (format!("k{round}"), fixture.cluster().leader());
        // With a follower, and with the leader.
        let alone = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        let members = &fixture.cluster().members;
        // The elections may take longer than a short lease lasts.
        let rival = manager_at(fixture, members[(alone + 1) % 3].url(), Duration::from_secs(60));
        let holder = manager_at(fixture, members[alone].url(), TTL);
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&rival, &key);
        fixture.cluster().peers.isolate(alone);
        let start = Instant::now();
        let lost = held.lost();
        assert!(lost - start < TTL + SLACK, "{:?}", lost - start);
        let (next, at) = waiting.got();
        fixture.cluster().peers.heal();
        fixture.loss(lost - start);
        fixture.next(at - start);
        eventually("the minority has rejoined", || holder.ping().wait().ok());
        next.unlock();
    }
}

/// An administrator's connection.
struct Admin {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn new(etcd: &Etcd) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(Client::connect([etcd.endpoint()], None)).unwrap();
        Self { client, runtime }
    }

    /// The claims of a key, the oldest first.
    fn claims(&self, key: &str) -> Vec<KeyValue> {
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let directory = format!("leasehold/{key}/");
        self.runtime.block_on(self.client.kv_client().get(directory, Some(options))).unwrap().take_kvs()
    }

    fn revoke(&self, claim: &KeyValue) {
        self.runtime.block_on(self.client.lease_client().revoke(claim.lease())).unwrap();
    }

    fn delete(&self, claim: &KeyValue) {
        self.runtime.block_on(self.client.kv_client().delete(claim.key(), None)).unwrap();
    }
}

fn revoked(fixture: &mut Fixture) {
    match fixture.backend() {
        Backend::Memory => taken(fixture, REPORTED, "", |fixture, key| drop(fixture.store().revoke(key))),
        Backend::Etcd => {
            let admin = Admin::new(fixture.etcd());
            taken(fixture, REPORTED, "", |_, key| admin.revoke(&admin.claims(key)[0]));
        }
        // Redis has no leases of several holds: an administrator removes one hold.
        Backend::Redis(_) | Backend::File => {
            let admin = fixture.manager(LONG);
            taken(fixture, REPORTED, "", |_, key| drop(admin.force_unlock(key).wait().unwrap()));
        }
    }
}

fn deleted(fixture: &mut Fixture) {
    match fixture.backend() {
        Backend::Memory => taken(fixture, REPORTED, "", |fixture, key| drop(fixture.store().steal(key))),
        Backend::Etcd => {
            let admin = Admin::new(fixture.etcd());
            taken(fixture, REPORTED, "", |_, key| admin.delete(&admin.claims(key)[0]));
        }
        Backend::Redis(_) => {
            let (bound, words) = until_a_change_is_known(fixture);
            taken(fixture, bound, words, |fixture, key| drop(fixture.redis().cli(&["DEL", &format!("lock:{key}")])));
        }
        Backend::File => {
            let remove =
                |fixture: &Fixture, key: &str| std::fs::remove_file(fixture.locks().join("k").join(key)).unwrap();
            taken(fixture, LONG / 3, " (T/3, the next renewal)", remove);
        }
    }
}

/// A hold is removed while another manager waits.
fn taken(fixture: &mut Fixture, bound: Duration, words: &'static str, take: impl Fn(&Fixture, &str)) {
    fixture.allow(bound, words);
    for round in fixture.rounds(20) {
        let key = format!("k{round}");
        let (holder, rival) = (fixture.manager(LONG), fixture.manager(LONG));
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&rival, &key);
        // A hold of any age, watched already or not yet.
        std::thread::sleep(Duration::from_millis(rand::random_range(0..150)));
        let start = Instant::now();
        take(fixture, &key);
        fixture.expect_loss(&held, start, bound);
        let (token, _) = fixture.next_holder(&waiting, start);
        assert!(token > held.token());
        assert_eq!(held.guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
    }
}

fn waiter_revoked(fixture: &mut Fixture) {
    let admin = Admin::new(fixture.etcd());
    waiter_taken(fixture, |_, key| {
        let old = admin.claims(key).remove(1);
        admin.revoke(&old);
        eventually("it queues again", || admin.claims(key).get(1).filter(|new| new.lease() != old.lease()).map(drop));
    });
}

fn waiter_removed(fixture: &mut Fixture) {
    waiter_taken(fixture, |fixture, key| {
        let [queue] = &fixture.redis().keys(&format!("*%q2:lock:{key}"))[..] else { panic!("not one queue") };
        fixture.redis().cli(&["DEL", queue]);
        eventually("it queues again", || (!fixture.redis().keys(queue).is_empty()).then_some(()));
    });
}

/// The waiter's claim on the server is removed. Afterwards the holder unlocks.
fn waiter_taken(fixture: &mut Fixture, take: impl Fn(&Fixture, &str)) {
    let (holder, waiter) = (fixture.manager(LONG), fixture.manager(LONG));
    for round in fixture.rounds(10) {
        let key = format!("k{round}");
        let held = fixture.hold(&holder, &key);
        let waiting = fixture.wait_for(&waiter, &key);
        take(fixture, &key);
        assert!(waiting.is_waiting());
        fixture.hand_over(held, &waiting);
    }
}

fn compacted(fixture: &mut Fixture) {
    let holder = fixture.manager(LONG);
    let (wire, waiter) = fixture.behind(3 * LONG, Duration::from_secs(5));
    for round in fixture.rounds(6) {
        let held = fixture.hold(&holder, "k");
        let waiting = fixture.wait_for(&waiter, "k");
        wire.proxy().refuse(true);
        wire.proxy().reset_all();
        fixture.etcd().etcdctl(&["put", "something", "else"]);
        let late = round % 2 == 0;
        let mut held = Some(held);
        if let Some(held) = held.take_if(|_| !late) {
            held.unlock();
        }
        fixture.etcd().compact();
        fixture.etcd().etcdctl(&["del", "something"]);
        wire.heal();
        // The waiter finds the release once it is connected again.
        eventually("the connection is up", || waiter.ping().wait().ok());
        let released = Instant::now();
        if let Some(held) = held {
            held.unlock();
        }
        let (next, at) = waiting.got();
        let took = at.saturating_duration_since(released);
        assert!(took < Duration::from_secs(1), "{took:?}");
        fixture.next(took);
        next.unlock();
    }
}

fn silent_watch(fixture: &mut Fixture) {
    let proxy = Grpc::start(fixture.etcd().address());
    let ttl = Duration::from_secs(60);
    let holder = fixture.manager(ttl);
    let waiter = manager_at(fixture, format!("etcd://{}", proxy.address()), ttl);
    // Each waiter checks at different times, and the latest check is in time as well.
    let keys: Vec<_> = (0..fixture.many(24, 4)).map(|number| format!("k{number}")).collect();
    let held: Vec<_> = keys.iter().map(|key| fixture.hold(&holder, key)).collect();
    let waiting: Vec<Waiting> = keys.iter().map(|key| fixture.wait_for(&waiter, key)).collect();
    proxy.silence("/etcdserverpb.Watch/Watch");
    let released = Instant::now();
    held.into_iter().for_each(|held| held.unlock());
    for waiting in waiting {
        let (next, at) = waiting.got();
        assert!(at - released < Duration::from_secs(6), "{:?}", at - released);
        fixture.next(at - released);
        next.unlock();
    }
    // Its whole watch stream is silent: it ends while its proxy exists.
    waiter.close().wait().unwrap();
}

fn granted(fixture: &mut Fixture) {
    let manager = fixture.manager(Duration::from_secs(1));
    let held = fixture.hold(&manager, "k");
    let remaining = held.guard.remaining();
    assert!(remaining > Duration::from_millis(1200) && remaining < Duration::from_secs(2), "{remaining:?}");
    // A fixed pause: longer than the requested TTL.
    std::thread::sleep(Duration::from_millis(1300));
    assert!(!held.guard.is_lost());
    held.unlock();
}

fn token_expired(fixture: &mut Fixture) {
    const TTL: Duration = Duration::from_secs(6);
    // The server invalidates a token that was not used for a second.
    let etcd = Etcd::start_with(&["--auth-token-ttl=1", "--bcrypt-cost=4"]);
    etcd.etcdctl(&["user", "add", "root:secret"]);
    etcd.etcdctl(&["auth", "enable"]);
    let url = etcd.url().replace("//", "//root:secret@");
    fixture.use_server(Server::Etcd(Box::new(etcd)));
    let (holder, waiter) = (manager_at(fixture, url.clone(), TTL), manager_at(fixture, url, TTL));
    for _ in fixture.rounds(3) {
        let held = fixture.hold(&holder, "k");
        let waiting = fixture.wait_for(&waiter, "k");
        let renewed = holder.stats().renewals;
        eventually("two renewals, each with a new token", || (holder.stats().renewals >= renewed + 2).then_some(()));
        assert!(!held.guard.is_lost());
        fixture.hand_over(held, &waiting);
    }
    assert_eq!(holder.stats().failed_renewals, 0);
    drop((holder, waiter));
    fixture.etcd().etcdctl(&["--user", "root:secret", "auth", "disable"]);
}

fn restarted(fixture: &mut Fixture) {
    for _ in fixture.rounds(3) {
        fixture.restart_without_loss();
    }
}

fn away(fixture: &mut Fixture) {
    for _ in fixture.rounds(3) {
        let (holder, waiter) = (fixture.manager(SHORT), fixture.manager(SHORT));
        let held = fixture.hold(&holder, "k");
        let waiting = fixture.wait_for(&waiter, "k");
        fixture.kill_server();
        let start = Instant::now();
        fixture.expect_loss(&held, start, SHORT);
        fixture.restart_server();
        let (token, _) = fixture.next_holder(&waiting, start);
        assert!(token > held.token());
    }
}

fn no_space(fixture: &mut Fixture) {
    fixture.use_server(Server::Etcd(Box::new(Etcd::start_with(&["--quota-backend-bytes=500000"]))));
    let manager = fixture.manager(SHORT);
    let held = ["held", "dropped"].map(|key| fixture.hold(&manager, key));
    let value = "x".repeat(100_000);
    eventually("the server is full", || {
        fixture.etcd().try_etcdctl(&["put", "filler", &value]).err().filter(|error| error.contains("space exceeded"))
    });
    let start = Instant::now();
    let errors = [manager.lock("k").wait(), manager.lock("k").isolated().wait()].map(Result::unwrap_err);
    assert!(errors.iter().all(|error| error.code() == "BACKEND" && error.to_string().contains("space exceeded")));
    assert!(start.elapsed() < SLACK, "retried for too long: {:?}", start.elapsed());
    eventually("the first deadline has passed", || (start.elapsed() > 2 * SHORT).then_some(()));
    assert!(held.iter().all(|held| !held.guard.is_lost()));
    let [first, second] = held;
    second.drop();
    first.unlock();
    fixture.etcd().etcdctl(&["del", "filler"]);
    fixture.etcd().compact();
    fixture.etcd().etcdctl(&["defrag"]);
    fixture.etcd().etcdctl(&["alarm", "disarm"]);
    fixture.hold(&manager, "k").unlock();
}
