//! A master that sentinels watch: failovers, masters that were deposed and are back, and sentinels that are wrong.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager, Loss};
use support::crowd::Crowd;
use support::folder::Folder;
use support::history::{History, Hold};
use support::redis::Redis;
use support::replication::wait_for_replica;
use support::sentinels::{NAME, Sentinel, Watched};
use support::{PATIENCE, eventually, in_the_background, lost};

/// At least 1.5 × (down-after + 3 s).
const TTL: Duration = Duration::from_secs(6);
/// The limit for what takes a second, on a busy machine.
const SOON: Duration = Duration::from_secs(4);

fn connect(url: &str) -> LockManager {
    LockManager::builder().url(url).ttl(TTL).build().wait().unwrap()
}

/// Managers that share no connection, since each names the sentinels in another way.
fn separate(watched: &Watched) -> Vec<String> {
    let hosts: Vec<_> = watched.sentinels.iter().map(Sentinel::host).collect();
    let lists = [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 2], &[0, 1, 2]];
    let url = |list: &&[usize]| {
        let list: Vec<_> = list.iter().map(|index| &*hosts[*index]).collect();
        format!("redis+sentinel://{}/{NAME}", list.join(","))
    };
    lists.iter().map(url).collect()
}

fn role(server: &Redis) -> String {
    server.cli(&["ROLE"]).lines().next().unwrap_or_default().to_owned()
}

fn major_version(server: &Redis) -> u32 {
    let info = server.cli(&["INFO", "server"]);
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
    version.split('.').next().unwrap().parse().unwrap()
}

/// Checks for a while that the hold is not lost, and that the waiter does not get the lock.
fn stays<T>(guard: &LockGuard, hold: &Hold, waiting: &std::sync::mpsc::Receiver<T>, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        assert!(!hold.is_lost(guard), "after {:?}", start.elapsed());
        assert!(matches!(waiting.try_recv(), Err(TryRecvError::Empty)), "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn masters_that_are_killed_and_come_back_let_no_two_in() {
    let mut watched = Watched::start();
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    let manager = |url: &String| LockManager::builder().url(url).ttl(TTL).min_replicas(1).build().wait().unwrap();
    let urls = separate(&watched);
    // They wait while no replica follows the new master yet.
    let crowd = Crowd::start(&history, urls.iter().chain(&urls[..1]).map(manager));
    // A minute of failovers.
    let kills = if std::env::var_os("LEASEHOLD_ALL").is_some() { 6 } else { 1 };
    for _ in 0..kills {
        crowd.progress();
        // On a busy machine the sentinels may have replaced the new one once more.
        let old = watched.master().unwrap();
        watched.servers[old].kill();
        let killed = Instant::now();
        watched.wait_for_another(old);
        let named = killed.elapsed();
        let granted = named + crowd.progress();
        println!("named after {named:?}, the first grant after {granted:?}");
        assert!(granted - named < SOON, "{:?}", granted - named);
        // It says that it is the master, until the sentinels make it a replica.
        watched.servers[old].restart();
        eventually("the old master is a replica", || (role(&watched.servers[old]) == "slave").then_some(()));
        watched.wait_until_known();
    }
    let holds = crowd.finish();
    println!("{holds} holds");
    history.assert_clean(50);
}

#[test]
fn a_hold_moves_to_the_new_master_though_the_old_one_is_back_and_takes_writes() {
    let watched = Watched::start();
    let folder = Folder::new();
    let history = History::open(folder.path().join("history"));
    let (holder, other) = (connect(&watched.url()), connect(&separate(&watched)[0]));
    let guard = holder.lock("k").wait().unwrap();
    let hold = history.acquired(&guard);
    let waiting = in_the_background(other.lock("k"));
    eventually("the waiter is in the queue", || (holder.info("k").wait().ok()??.waiters == 1).then_some(()));

    watched.servers[0].process().stop();
    let stopped = Instant::now();
    let new = watched.wait_for_another(0);
    println!("deposed after {:?}", stopped.elapsed());
    watched.servers[0].process().resume();
    assert_eq!(role(&watched.servers[0]), "master");
    // A client that takes its word gets there what others get from the new master.
    let credulous = connect(&watched.servers[0].url());
    let _twice = credulous.try_lock("twice").wait().unwrap().expect("it grants locks");
    drop(other.lock("twice").timeout(SOON).wait().unwrap());
    // Longer than it takes for what the old master alone has renewed to end on the new one.
    stays(&guard, &hold, &waiting, 2 * TTL);
    let left: u64 = watched.servers[new].cli(&["PTTL", "lock:k"]).parse().unwrap();
    assert!(left > TTL.as_millis() as u64 / 2, "{left}");
    assert_eq!(holder.stats().lost, 0);

    hold.released();
    guard.unlock().wait().unwrap();
    let released = Instant::now();
    let (next, at) = waiting.recv_timeout(PATIENCE).unwrap();
    let hold = history.acquired(&next);
    assert!(at.saturating_duration_since(released) < SOON);
    hold.released();
    next.unlock().wait().unwrap();
    history.assert_clean(2);
}

#[test]
fn a_hold_that_no_replica_has_is_lost_at_the_failover_and_not_granted_if_replicas_confirm() {
    let mut watched = Watched::start();
    let holder = connect(&watched.url());
    let careful = LockManager::builder().url(watched.url()).ttl(TTL).min_replicas(1).build().wait().unwrap();
    watched.servers[1..].iter().for_each(|replica| replica.process().stop());
    // What they have not read yet is gone as well.
    watched.servers[0].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    let guard = holder.lock("k").wait().unwrap();
    let error = careful.try_lock("other").wait().unwrap_err();
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    watched.servers[0].kill();
    watched.servers[1..].iter().for_each(|replica| replica.process().resume());
    let new = watched.wait_for_another(0);
    let named = Instant::now();
    assert!(watched.servers[new].keys("lock:k").is_empty());
    let (loss, at) = lost(&guard);
    println!("{loss:?} {:?} after the new master was named", at.saturating_duration_since(named));
    assert_eq!(loss, Loss::Revoked);
    assert!(at.saturating_duration_since(named) < SOON);
    let next = holder.lock("k").timeout(SOON).wait().unwrap();
    assert!(next.token() > guard.token());
}

#[test]
fn nothing_is_locked_at_an_old_master_that_is_back() {
    let mut watched = Watched::start();
    let manager = connect(&watched.url());
    let guard = manager.lock("held").wait().unwrap();
    watched.servers[0].kill();
    let new = watched.wait_for_another(0);
    watched.servers[0].restart();
    let mut rounds = 0;
    while role(&watched.servers[0]) == "master" {
        // Connections that break while the old one may be taken for the master.
        for kind in ["normal", "pubsub"] {
            watched.servers[new].cli(&["CLIENT", "KILL", "TYPE", kind]);
        }
        let late = connect(&separate(&watched)[rounds % 3]);
        for (manager, key) in [(&manager, "mine"), (&late, "late")] {
            manager.lock(key).timeout(SOON).wait().unwrap().unlock().wait().unwrap();
        }
        let clock = watched.servers[0].keys("*");
        assert!(clock.is_empty() || role(&watched.servers[0]) != "master", "{clock:?}");
        rounds += 1;
    }
    println!("{rounds} rounds until it is a replica");
    assert!(rounds > 0 && !guard.is_lost());
    guard.unlock().wait().unwrap();
}

/// A sentinel that has not heard of the last failover, and never will.
struct Stale {
    port: u16,
}

impl Stale {
    /// Names this master, and these other sentinels.
    fn start(master: u16, others: Vec<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let others = others.clone();
                std::thread::spawn(move || serve(client, master, &others));
            }
        });
        Self { port }
    }
}

fn serve(client: TcpStream, master: u16, others: &[u16]) {
    let (mut reader, mut writer) = (BufReader::new(client.try_clone().unwrap()), client);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim().to_owned())
    };
    let list = |words: &[String]| {
        let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        words
    };
    loop {
        let Some(count) = line().and_then(|line| line.strip_prefix('*')?.parse::<usize>().ok()) else { return };
        let words: Option<Vec<_>> = (0..count).map(|_| line().and_then(|_| line())).collect();
        let Some(words) = words else { return };
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let answer = match words.get(1).map(|word| word.to_uppercase()).as_deref() {
            Some("MYID") => format!("${}\r\n{}\r\n", 40, "5".repeat(40)),
            Some("MASTER") => {
                let count = others.len().to_string();
                format!("*4\r\n{}", list(&text(&["config-epoch", "0", "num-other-sentinels", &count])))
            }
            Some("GET-MASTER-ADDR-BY-NAME") => {
                format!("*2\r\n{}", list(&text(&["127.0.0.1", &master.to_string()])))
            }
            Some("SENTINELS") => {
                let other = |port: &u16| {
                    let fields = text(&["ip", "127.0.0.1", "port", &port.to_string(), "runid", &format!("{port:040}")]);
                    format!("*6\r\n{}", list(&fields))
                };
                format!("*{}\r\n{}", others.len(), others.iter().map(other).collect::<String>())
            }
            _ => "+OK\r\n".to_owned(),
        };
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn port(host: &str) -> u16 {
    host.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn a_stale_sentinel_is_not_believed() {
    let mut watched = Watched::start();
    watched.servers[0].kill();
    watched.wait_for_another(0);
    watched.servers[0].restart();
    let others = watched.sentinels.iter().map(|sentinel| port(&sentinel.host())).collect();
    let stale = Stale::start(watched.servers[0].address().port(), others);
    // Alone in the URL: the others are learned from it.
    let alone = connect(&format!("redis+sentinel://127.0.0.1:{}/{NAME}", stale.port));
    let hosts: Vec<_> = watched.sentinels.iter().map(Sentinel::host).collect();
    let first = connect(&format!("redis+sentinel://127.0.0.1:{},{}/{NAME}", stale.port, hosts.join(",")));
    let mut rounds = 0;
    while role(&watched.servers[0]) == "master" {
        for (manager, key) in [(&alone, "alone"), (&first, "first")] {
            manager.lock(key).timeout(SOON).wait().unwrap().unlock().wait().unwrap();
        }
        let keys = watched.servers[0].keys("*");
        assert!(keys.is_empty() || role(&watched.servers[0]) != "master", "{keys:?}");
        rounds += 1;
    }
    assert!(rounds > 0);
}

#[test]
fn sentinels_that_were_set_up_anew_are_believed_after_a_while() {
    let mut watched = Watched::start();
    let manager = connect(&watched.url());
    let guard = manager.lock("k").wait().unwrap();
    // Twice, so that their epochs begin below the one that was seen last.
    for _ in 0..2 {
        watched.fail_over(&watched.sentinels[0]);
        watched.wait_until_known();
    }
    let present = watched.master().unwrap();
    // All at once: each would hear the epoch of those before.
    watched.sentinels.iter_mut().for_each(Sentinel::kill);
    // ⚠ What they published last reaches a replica a moment later. A new one that hears it counts a dead one for good, and its epoch.
    let replicas = watched.servers.iter().enumerate().filter(|(index, _)| *index != present);
    replicas.for_each(|(_, replica)| wait_for_replica(&watched.servers[present], replica));
    for sentinel in &mut watched.sentinels {
        sentinel.start_anew(&watched.servers[present]);
    }
    assert_eq!(watched.sentinels[0].field("config-epoch").as_deref(), Some("0"));
    watched.wait_until_known();
    // They have to say so for ten seconds.
    let start = Instant::now();
    eventually("they are believed", || (start.elapsed() > Duration::from_secs(13)).then_some(()));
    assert!(!guard.is_lost());
    watched.servers[present].kill();
    watched.wait_for_another(present);
    manager.lock("another").timeout(2 * SOON).wait().unwrap().unlock().wait().unwrap();
    assert!(!guard.is_lost());
    guard.unlock().wait().unwrap();
}

#[test]
fn without_sentinels_nothing_is_lost_and_a_manager_finds_them_again() {
    let mut watched = Watched::start();
    let manager = connect(&watched.url());
    let guard = manager.lock("k").wait().unwrap();
    watched.sentinels.iter_mut().for_each(Sentinel::kill);
    let start = Instant::now();
    let error = LockManager::connect(&separate(&watched)[0]).wait().unwrap_err();
    println!("{error} after {:?}", start.elapsed());
    assert_eq!(error.code(), "BACKEND");
    watched.servers[0].cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    manager.lock("meanwhile").timeout(SOON).wait().unwrap().unlock().wait().unwrap();
    watched.sentinels.iter_mut().for_each(Sentinel::restart);
    watched.wait_until_known();
    watched.servers[0].process().stop();
    watched.wait_for_another(0);
    manager.lock("later").timeout(2 * SOON).wait().unwrap().unlock().wait().unwrap();
    assert!(!guard.is_lost());
    guard.unlock().wait().unwrap();
}

#[test]
fn what_is_wrong_with_the_sentinels_is_named() {
    let server = Redis::start();
    let open = Sentinel::start(Ipv4Addr::LOCALHOST, &server, "");
    let closed = Sentinel::start(Ipv4Addr::LOCALHOST, &server, "requirepass s3cret");
    let of = |url: String| LockManager::connect(url).wait().unwrap_err();
    let error = of(format!("redis+sentinel://{}/other", open.host()));
    assert_eq!(error.code(), "INVALID_CONFIG");
    assert!(error.to_string().contains("\"other\""), "{error}");
    for account in ["", "?sentinel_password=hunter2", "?sentinel_username=me&sentinel_password=hunter2"] {
        let error = of(format!("redis+sentinel://:s3cret@{}/{NAME}{account}", closed.host()));
        println!("{error}");
        assert_eq!(error.code(), "BACKEND");
        assert!(error.to_string().contains("sentinel_password"), "{error}");
        assert!(!support::all_texts(&error).contains("hunter2"), "{error}");
    }
    LockManager::connect(format!("redis+sentinel://{}/{NAME}?sentinel_password=s3cret", closed.host())).wait().unwrap();
    // By the permissions of the documentation.
    if major_version(&server) >= 7 {
        let may = ["master", "sentinels", "get-master-addr-by-name", "myid"].map(|name| format!("+sentinel|{name}"));
        let user = format!("user small on >pass -@all {}", may.join(" "));
        let small = Sentinel::start(Ipv4Addr::LOCALHOST, &server, &format!("{user}\nrequirepass s3cret"));
        let account = "sentinel_username=small&sentinel_password=pass";
        LockManager::connect(format!("redis+sentinel://{}/{NAME}?{account}", small.host())).wait().unwrap();
    }
    let error = of(format!("redis+sentinel://127.0.0.1:{}/{NAME}", support::ports::free_port()));
    assert_eq!(error.code(), "BACKEND");
}

#[test]
fn a_server_of_another_kind_is_refused_and_its_scheme_named() {
    let (server, node) = (Redis::start(), Redis::start_with(&["--cluster-enabled", "yes"]));
    let sentinel = Sentinel::start(Ipv4Addr::LOCALHOST, &server, "");
    for (url, scheme) in [
        (format!("redis://{}", sentinel.host()), "redis+sentinel://"),
        (format!("redis://{}", node.address()), "redis+cluster://"),
        (format!("redis+sentinel://{}/{NAME}", server.address()), "redis://"),
        (format!("redis+sentinel://{}/{NAME}", node.address()), "redis+cluster://"),
        (format!("redis+cluster://{}", server.address()), "redis://"),
        (format!("redis+cluster://{}", sentinel.host()), "redis+sentinel://"),
    ] {
        let error = LockManager::connect(&url).wait().unwrap_err();
        println!("{error}");
        assert_eq!(error.code(), "INVALID_CONFIG", "{url}: {error}");
        assert!(error.to_string().contains(scheme), "{url}: {error}");
    }
}

#[test]
fn an_idle_manager_asks_each_sentinel_two_things_a_second() {
    let watched = Watched::start();
    let count = || watched.sentinels.iter().map(Sentinel::commands).collect::<Vec<_>>();
    let pause = Duration::from_secs(10);
    let measure = || {
        let before = count();
        std::thread::sleep(pause);
        let served = before.iter().zip(count()).map(|(before, after)| after - before);
        served.map(|served| served as f64 / pause.as_secs_f64()).collect::<Vec<_>>()
    };
    let alone = measure();
    // By other names than they have for each other; without ids they would be taken for others.
    let has_ids = watched.sentinels[0].try_run::<String>(&["SENTINEL", "MYID"]).is_ok();
    let url = if has_ids { watched.url().replace("127.0.0.1", "localhost") } else { watched.url() };
    let managers: Vec<_> = (0..3).map(|_| connect(&url)).collect();
    let watching = measure();
    drop(managers);
    for (alone, watching) in alone.iter().zip(&watching) {
        println!("{alone} without, {watching} with");
        assert!(watching - alone < 3.0, "{alone} {watching}");
    }
}

#[test]
fn a_hold_goes_on_at_a_server_whose_clock_is_ahead_and_tokens_grow() {
    let ahead = Duration::from_secs(5);
    let ttl = TTL + 2 * ahead;
    let watched = Watched::start_with(&[], |more| {
        let replica = Redis::start_with_clock_and(more);
        replica.set_clock(ahead);
        replica
    });
    let manager = LockManager::builder().url(watched.url()).ttl(ttl).build().wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    let mut last = guard.token();
    let mut next = || {
        let other = manager.lock("other").timeout(2 * SOON).wait().unwrap();
        assert!(other.token() > last, "{} after {last}", other.token());
        last = other.token();
    };
    // To a clock that is ahead, and back.
    for new in [1, 0] {
        let old = watched.master().unwrap();
        let expire: i64 = watched.servers[old].cli(&["PTTL", "lock:k"]).parse().unwrap();
        let found = watched.fail_over(&watched.sentinels[0]);
        let left: i64 = watched.servers[found].cli(&["PTTL", "lock:k"]).parse().unwrap();
        println!("{expire} ms at the old master, {left} at the new one");
        // Before, the TTL of a new key was replicated, not its end.
        if (old, new) == (0, 1) && major_version(&watched.servers[0]) >= 7 {
            assert!(expire - left > 3_000, "it ends earlier by the difference of the clocks: {expire} {left}");
        }
        next();
        eventually("it was renewed at once", || {
            let left: u128 = watched.servers[found].cli(&["PTTL", "lock:k"]).parse().unwrap_or(0);
            (left > (ttl - TTL / 2).as_millis()).then_some(())
        });
        watched.wait_until_known();
        next();
        if found != 0 && new == 1 {
            // The one with the right clock is preferred from now on.
            for (index, server) in watched.servers.iter().enumerate() {
                server.cli(&["CONFIG", "SET", "replica-priority", if index == 0 { "1" } else { "200" }]);
            }
            eventually("the priority is known", || {
                let listed: Vec<std::collections::HashMap<String, String>> =
                    watched.sentinels[0].try_run(&["SENTINEL", "REPLICAS", NAME]).ok()?;
                listed.iter().any(|replica| replica["slave-priority"] == "1").then_some(())
            });
        }
    }
    assert!(!guard.is_lost());
    guard.unlock().wait().unwrap();
}
