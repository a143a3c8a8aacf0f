//! Locks on a real Redis, compared with the same work done with the bare client, and with other clients' locks, in the same run: only
//! the ratios matter.
//!
//! `cargo run --release -p leasehold-benches --bin redis [-- seconds [part…]]` with the parts `one`, `many`, `key`, `renewal`; the
//! server is started here, on a free port. redis-py takes part if `tests/run.sh --install-only` has installed it into the same target directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::LockManager;
use redis::Script;
use redis::aio::MultiplexedConnection;

#[path = "../measure.rs"]
mod measure;
#[path = "../peers.rs"]
mod peers;

use measure::{Result, Until, median, rate, timed};
use peers::{Peer, RedisPy};
use support::redis::Redis;

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(4.0), |argument| argument.parse())?;
    let time = Duration::from_secs_f64(seconds);
    let server = Redis::start();
    println!("redis on {}, {seconds} s a measurement\n", server.address());
    let parts: Vec<_> = std::env::args().skip(2).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("one") {
        one_by_one(&server, time).await?;
    }
    if wanted("many") {
        many_keys(&server, time).await?;
    }
    if wanted("key") {
        one_key(&server, time).await?;
    }
    if wanted("renewal") {
        renewal(&server).await?;
    }
    Ok(())
}

/// The usual lock of programs: set if absent, and delete if the value is still the holder's.
#[derive(Clone)]
struct Raw {
    connection: MultiplexedConnection,
    release: Script,
}

impl Raw {
    async fn connect(server: &Redis) -> Result<Self> {
        let connection = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
        let text = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
        Ok(Self { connection, release: Script::new(text) })
    }

    async fn pair(&mut self, key: &str) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg("me").arg("NX").arg("PX").arg(30_000);
        if set.query_async::<Option<String>>(&mut self.connection).await?.is_none() {
            return Err("the key is not free".into());
        }
        self.release.key(key).arg("me").invoke_async::<i64>(&mut self.connection).await?;
        Ok(())
    }
}

/// One task: the ways alternate, so that the load of the machine is the same for all but redis-py.
async fn one_by_one(server: &Redis, time: Duration) -> Result<()> {
    let mut raw = Raw::connect(server).await?;
    let manager = LockManager::connect(server.url()).await?;
    let (mut pairs, mut unlocks, mut drops) = (Vec::new(), Vec::new(), Vec::new());
    let mut peers = Peer::all(&server.url()).await?.map(|peer| (peer, Vec::new()));
    let start = Instant::now();
    while start.elapsed() < time * 5 {
        for _ in 0..50 {
            pairs.push(timed(raw.pair("raw:k")).await?);
        }
        for _ in 0..50 {
            unlocks.push(timed(async { Ok(manager.lock("unlocked").await?.unlock().await?) }).await?);
        }
        for _ in 0..50 {
            let dropped = timed(async {
                drop(manager.lock("dropped").await?);
                Ok(())
            });
            drops.push(dropped.await?);
        }
        for (peer, times) in &mut peers {
            for _ in 0..50 {
                times.push(timed(async { peer.lock("peer:k").await?.release().await }).await?);
            }
        }
    }
    let python = RedisPy::run(&server.url(), 1, 1, true, time).await?;
    let raw = median(&mut pairs);
    println!("One task, median of {}:", unlocks.len());
    println!("  SET NX + EVALSHA, bare client  {:>8} µs", raw.as_micros());
    let mut medians = vec![("lock + unlock().await", median(&mut unlocks)), ("lock + drop", median(&mut drops))];
    medians.extend(peers.iter_mut().map(|(peer, times)| (peer.name(), median(times))));
    medians.extend(python.map(|python| ("redis-py", python.median)));
    for (name, median) in medians {
        let ratio = median.as_secs_f64() / raw.as_secs_f64();
        println!("  {name:29}  {:>8} µs   {ratio:.2} of the bare client's", median.as_micros());
    }
    println!();
    Ok(())
}

/// 64 tasks of one process, each on a separate key.
async fn many_keys(server: &Redis, time: Duration) -> Result<()> {
    const TASKS: usize = 64;
    let raw = Raw::connect(server).await?;
    let raws = (0..TASKS).map(|n| {
        let mut raw = raw.clone();
        let key = format!("raw:{n}");
        move |until: Arc<Until>| async move {
            while until.goes_on() {
                raw.pair(&key).await?;
                until.count();
            }
            Ok(())
        }
    });
    let raw = rate(time, raws).await?;
    let manager = LockManager::connect(server.url()).await?;
    let ours = (0..TASKS).map(|n| {
        let manager = manager.clone();
        move |until: Arc<Until>| async move {
            let handle = manager.handle(format!("many/{n}"))?;
            while until.goes_on() {
                handle.lock().await?.unlock().await?;
                until.count();
            }
            Ok(())
        }
    });
    let mut rates = vec![("lock + unlock().await", rate(time, ours).await?)];
    for peer in Peer::all(&server.url()).await? {
        let name = peer.name();
        let tasks = (0..TASKS).map(|n| {
            let (peer, key) = (peer.clone(), format!("peer:{n}"));
            move |until: Arc<Until>| async move {
                while until.goes_on() {
                    peer.lock(&key).await?.release().await?;
                    until.count();
                }
                Ok(())
            }
        });
        rates.push((name, rate(time, tasks).await?));
    }
    let python = RedisPy::run(&server.url(), 1, TASKS, true, time).await?;
    rates.extend(python.map(|python| ("redis-py, in threads", python.pairs_a_second)));
    println!("{TASKS} tasks of one process, a key each, pairs a second:");
    println!("  SET NX + EVALSHA, bare client  {raw:>8.0}");
    show(rates, raw);
    Ok(())
}

fn show(rates: Vec<(&str, f64)>, raw: f64) {
    for (name, rate) in rates {
        println!("  {name:29}  {rate:>8.0}   {:.2} of the bare client's", rate / raw);
    }
    println!();
}

/// 8 managers with separate connections on one key, and one bare client without contention.
async fn one_key(server: &Redis, time: Duration) -> Result<()> {
    const MEMBERS: usize = 8;
    let mut raw = Raw::connect(server).await?;
    let alone = move |until: Arc<Until>| async move {
        while until.goes_on() {
            raw.pair("raw:alone").await?;
            until.count();
        }
        Ok(())
    };
    let bare = rate(time, std::iter::once(alone)).await?;
    // The last holder: without a queue, mostly the one that has just released the lock.
    let last = Arc::new(AtomicUsize::new(MEMBERS));
    let mut managers = Vec::new();
    for _ in 0..MEMBERS {
        // A separate client for each, so that they do not share connections.
        managers.push(LockManager::builder().redis_client(redis::Client::open(server.url())?).build().await?);
    }
    let managers = managers.into_iter().enumerate().map(|(member, manager)| {
        let last = last.clone();
        move |until: Arc<Until>| async move {
            while until.goes_on() {
                let guard = manager.lock("one").await?;
                if last.swap(member, Ordering::Relaxed) != member {
                    until.count();
                }
                guard.unlock().await?;
            }
            Ok(())
        }
    });
    let mut rates = vec![("leasehold", rate(time, managers).await?)];
    let mut peers: [Vec<Peer>; 2] = Default::default();
    for _ in 0..MEMBERS {
        for (members, peer) in peers.iter_mut().zip(Peer::all(&server.url()).await?) {
            members.push(peer);
        }
    }
    for members in peers {
        let name = members[0].name();
        let members = members.into_iter().enumerate().map(|(member, peer)| {
            let last = last.clone();
            move |until: Arc<Until>| async move {
                while until.goes_on() {
                    let held = peer.lock("peer:one").await?;
                    if last.swap(member, Ordering::Relaxed) != member {
                        until.count();
                    }
                    held.release().await?;
                }
                Ok(())
            }
        });
        rates.push((name, rate(time, members).await?));
    }
    let python = RedisPy::run(&server.url(), MEMBERS, 1, false, time).await?;
    rates.extend(python.map(|python| ("redis-py", python.changes_a_second)));
    println!(
        "{MEMBERS} processes' worth on one key, handovers to another one a second (without a queue, most return to the same one):"
    );
    println!("  bare client, alone, in turn    {bare:>8.0}");
    show(rates, bare);
    Ok(())
}

/// 10,000 held locks: the cost of one renewal of all of them at the server.
async fn renewal(server: &Redis) -> Result<()> {
    const HOLDS: usize = 10_000;
    let manager = LockManager::connect(server.url()).await?;
    let handles =
        (0..HOLDS).map(|n| manager.handle(format!("held/{n}"))).collect::<std::result::Result<Vec<_>, _>>()?;
    let guards = futures::future::try_join_all(handles.iter().map(|handle| handle.lock().into_future())).await?;
    server.cli(&["CONFIG", "RESETSTAT"]);
    let start = Instant::now();
    guards[0].renew().await?;
    let took = start.elapsed();
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap_or("no calls").trim();
    println!("{HOLDS} held locks renewed in {took:?}: {calls}");
    drop(guards);
    manager.close().await?;
    Ok(())
}
