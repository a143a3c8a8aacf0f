//! Very many processes that wait for the slots of one key: the cost of a release, counted on the server.

use std::time::{Duration, Instant};

use leasehold::{LockManager, LockManagerBuilder};
use support::etcd::{Etcd, metric};
use support::redis::Redis;
use support::{PATIENCE, soak};
use tokio::time::timeout;

const SLOTS: u32 = 3;

/// How many wait. A thousand managers in one process keep a processor busy.
fn waiters() -> usize {
    if soak().is_some() { 1000 } else { 250 }
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Messages or events.
    sent: u64,
    /// Scripts, or transactions and ranges.
    requests: u64,
}

/// Waiters take their slots one after another, each with a manager of its own. Returns the messages for each release.
async fn releases(waiters: usize, builder: impl Fn(usize) -> LockManagerBuilder, counts: impl Fn() -> Counts) -> f64 {
    let builder =
        |number| builder(number).ttl(Duration::from_secs(600)).timeout(4 * PATIENCE).drop_wait(Duration::ZERO);
    let holder = builder(waiters).build().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..SLOTS {
        held.push(holder.semaphore("k", SLOTS).await.unwrap());
    }
    let (got, mut order) = tokio::sync::mpsc::unbounded_channel();
    let done = tokio::sync::watch::Sender::new(false);
    let start = Instant::now();
    for number in 0..waiters {
        let (got, mut done) = (got.clone(), done.subscribe());
        // One after another: the opening of a thousand at a time would take longer than a server is waited for.
        let manager = builder(number).build().await.unwrap();
        tokio::spawn(async move {
            let slot = manager.semaphore("k", SLOTS).await.unwrap();
            // Confirmed, so that the requests of this one are all counted.
            slot.unlock().await.unwrap();
            got.send(number).unwrap();
            // Their sessions end when all have had a slot.
            let _ = done.wait_for(|done| *done).await;
            drop(manager);
        });
    }
    let waiting = async {
        while holder.info("k").await.unwrap().unwrap().waiters < waiters {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(4 * PATIENCE, waiting).await.expect("all of them wait");
    println!("{waiters} managers wait after {:?}", start.elapsed());
    // A fixed pause: each has found what it waits for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (before, start) = (counts(), Instant::now());
    let releases = waiters + held.len();
    for slot in held {
        slot.unlock().await.unwrap();
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..waiters {
        let begun = Instant::now();
        timeout(PATIENCE, order.recv()).await.expect("no waiter is woken").unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    let (took, after) = (start.elapsed(), counts());
    done.send_replace(true);
    let each = |before: u64, after: u64| (after - before) as f64 / releases as f64;
    let sent = each(before.sent, after.sent);
    println!(
        "{releases} releases of one of {SLOTS} slots, with {waiters} waiters at first, in {took:?}: {sent:.2} messages and {:.2} requests \
         each, a pause of {slowest:?} at most",
        each(before.requests, after.requests),
    );
    // A waiter that nobody has woken would look after 5 s.
    assert!(slowest < Duration::from_secs(4), "{slowest:?}");
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_wakes_one_waiter_on_redis() {
    let _alone = crate::ALONE.lock().await;
    let redis = Redis::start();
    let counts = || {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let calls = |command: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
        };
        Counts { sent: calls("publish"), requests: calls("evalsha") + calls("eval") }
    };
    let url = redis.url();
    let sent = releases(waiters(), |number| LockManager::builder().url(&url).name(format!("{number}")), counts).await;
    assert!((0.9..2.0).contains(&sent), "{sent:.2} messages a release");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_wakes_few_waiters_on_etcd() {
    let _alone = crate::ALONE.lock().await;
    let etcd = Etcd::start();
    // Managers with separate sessions and watch streams, over a few connections.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap());
    }
    let counts = || Counts {
        sent: metric(etcd.address(), "etcd_debugging_mvcc_events_total", &[]),
        requests: etcd.handled("Txn") + etcd.handled("Range"),
    };
    let builder = |number: usize| LockManager::builder().etcd_client(clients[number % clients.len()].clone());
    let sent = releases(waiters(), builder, counts).await;
    assert!((0.9..3.0).contains(&sent), "{sent:.2} events a release");
}
