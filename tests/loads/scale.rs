//! Many locks and many waiters on one etcd: their cost, counted on the server.

use std::future::IntoFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};
use futures::stream::{FuturesUnordered, StreamExt};
use leasehold::{LockGuard, LockManager, Loss, Mode};
use support::etcd::{Etcd, metric};
use support::proxy::Proxy;
use support::{PATIENCE, soak};
use tokio::time::timeout;

/// The processor time that some processes have used.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // User and system time are the 14th and 15th field; the name, the second, is in parentheses. A tick is 10 ms.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// Requests that the server has begun, by kind.
#[derive(Clone, Copy, Debug)]
struct Requests {
    ranges: u64,
    txns: u64,
    /// Streams, one for each renewal.
    keep_alives: u64,
    lease_questions: u64,
    watch_streams: u64,
}

impl Requests {
    fn of(etcd: &Etcd) -> Self {
        let started =
            |method: &str| metric(etcd.address(), "grpc_server_started_total", &[&format!("grpc_method=\"{method}\"")]);
        Self {
            ranges: started("Range"),
            txns: started("Txn"),
            keep_alives: started("LeaseKeepAlive"),
            lease_questions: started("LeaseTimeToLive"),
            watch_streams: started("Watch"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            ranges: self.ranges - before.ranges,
            txns: self.txns - before.txns,
            keep_alives: self.keep_alives - before.keep_alives,
            lease_questions: self.lease_questions - before.lease_questions,
            watch_streams: self.watch_streams - before.watch_streams,
        }
    }
}

fn watchers(etcd: &Etcd) -> u64 {
    metric(etcd.address(), "etcd_debugging_mvcc_watcher_total", &[])
}

async fn until(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    // A thousand operations take long on a busy machine.
    let patience = 4 * PATIENCE;
    let deadline = Instant::now() + patience;
    while !probe().await {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Acquires `count` locks, a hundred at a time.
async fn take(manager: &LockManager, count: usize) -> Vec<LockGuard> {
    let mut guards = Vec::new();
    let mut requests = FuturesUnordered::new();
    for n in 0..count {
        requests.push(tokio::spawn(manager.lock(format!("{n:05}")).into_future()));
        if requests.len() == 100 {
            guards.push(requests.next().await.unwrap().unwrap().unwrap());
        }
    }
    while let Some(guard) = requests.next().await {
        guards.push(guard.unwrap().unwrap());
    }
    guards
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_locks_cost_one_renewal() {
    let _alone = crate::ALONE.lock().await;
    const LOCKS: usize = 10_000;
    const TTL: Duration = Duration::from_secs(12);
    let etcd = Etcd::start();
    let proxy = Proxy::start(etcd.address());
    let url = format!("etcd://{}?timeout=20s", proxy.address());
    let manager = LockManager::builder().url(url).ttl(TTL).build().await.unwrap();
    let admin = LockManager::builder().url(format!("{}?timeout=20s", etcd.url())).build().await.unwrap();
    let start = Instant::now();
    let mut guards = take(&manager, LOCKS).await;
    println!("{LOCKS} locks in {:?}", start.elapsed());
    until("each has its watch, and the session too", async || watchers(&etcd) > LOCKS as u64).await;
    println!("all watched {:?} after the beginning", start.elapsed());

    let start = Instant::now();
    let listed = manager.list("").await.unwrap();
    println!("the holder's own list in {:?}", start.elapsed());
    assert!(listed.len() == LOCKS && listed.iter().all(|info| info.token.is_some()));

    // Idle. A fixed pause: a TTL, in which nothing but renewals is sent.
    let (before, renewed) = (Requests::of(&etcd), manager.stats().renewals);
    let (client_cpu, server_cpu, start) = (cpu(std::process::id()), cpu(etcd.process().id()), Instant::now());
    tokio::time::sleep(TTL).await;
    let took = start.elapsed();
    let (idle, renewals) = (Requests::of(&etcd).since(before), manager.stats().renewals - renewed);
    println!(
        "idle for {took:?}: {renewals} renewals, {idle:?}; processor time {:?} here, {:?} at the server",
        cpu(std::process::id()) - client_cpu,
        cpu(etcd.process().id()) - server_cpu
    );
    assert!((2..=4).contains(&renewals), "{renewals}");
    // One more may be in flight at either end, and one be retried.
    assert!(idle.keep_alives <= renewals + 2 && idle.ranges <= renewals + 2, "{idle:?}");
    assert_eq!((idle.txns, idle.lease_questions, idle.watch_streams), (0, 0, 0));

    // A claim that is deleted is noticed among ten thousand.
    let victim = guards.swap_remove(LOCKS / 2);
    let start = Instant::now();
    admin.force_unlock(victim.key()).key_only().await.unwrap();
    assert_eq!(timeout(PATIENCE, victim.lost()).await.unwrap(), Loss::Revoked);
    println!("a deleted claim is notified after {:?}", start.elapsed());

    // The same on a new connection, for what happened while there was none.
    let victim = guards.swap_remove(LOCKS / 3);
    proxy.refuse(true);
    proxy.reset_all();
    admin.force_unlock(victim.key()).key_only().await.unwrap();
    let before = Requests::of(&etcd);
    let (client_cpu, server_cpu) = (cpu(std::process::id()), cpu(etcd.process().id()));
    proxy.refuse(false);
    let start = Instant::now();
    assert_eq!(timeout(PATIENCE, victim.lost()).await.unwrap(), Loss::Revoked);
    println!("a claim deleted meanwhile is notified {:?} after the reconnect", start.elapsed());
    until("all watches stand again", async || watchers(&etcd) >= LOCKS as u64 - 1).await;
    println!(
        "watched again after {:?}: {:?}; processor time {:?} here, {:?} at the server",
        start.elapsed(),
        Requests::of(&etcd).since(before),
        cpu(std::process::id()) - client_cpu,
        cpu(etcd.process().id()) - server_cpu
    );
    assert!(guards.iter().all(|guard| !guard.is_lost()));
    assert_eq!(manager.stats().held, LOCKS as u64 - 2);

    // All at once, as an administrator can.
    let start = Instant::now();
    let eviction = admin.force_unlock(guards[0].key()).await.unwrap();
    println!("force_unlock of all: {:?}", start.elapsed());
    assert_eq!((eviction.holders.len(), eviction.released.len()), (1, LOCKS - 2));
    let start = Instant::now();
    for guard in &guards {
        assert_eq!(timeout(PATIENCE, guard.lost()).await.unwrap(), Loss::Revoked);
    }
    println!("all notified {:?} later", start.elapsed());
    drop(guards);
    let again = take(&manager, 100).await;
    let start = Instant::now();
    drop(again);
    until("all released", async || admin.list("").await.unwrap().is_empty()).await;
    println!("a hundred released in {:?}", start.elapsed());
}

/// The number of the waiter that has written a claim, by its name there.
fn waiter(metadata: &[u8]) -> usize {
    let text = std::str::from_utf8(metadata).unwrap();
    let number = text.split_once("\"waiter ").and_then(|(_, rest)| rest.split_once('"'));
    number.unwrap().0.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_are_woken_one_at_a_time_and_in_order() {
    let _alone = crate::ALONE.lock().await;
    // A thousand managers in one process keep a processor busy.
    let waiters = if soak().is_some() { 1000 } else { 200 };
    let etcd = Etcd::start();
    // Managers with separate sessions and watch streams, over a few connections.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect([etcd.endpoint()], None).await.unwrap());
    }
    let holder = LockManager::connect(etcd.url()).await.unwrap();
    let held = holder.lock("k").await.unwrap();
    let (got, mut order) = tokio::sync::mpsc::unbounded_channel();
    let done = tokio::sync::watch::Sender::new(false);
    let start = Instant::now();
    for n in 0..waiters {
        let builder =
            LockManager::builder().etcd_client(clients[n % clients.len()].clone()).name(format!("waiter {n}"));
        let builder = builder.ttl(Duration::from_secs(600)).timeout(PATIENCE).drop_wait(Duration::ZERO);
        let (got, mut done) = (got.clone(), done.subscribe());
        tokio::spawn(async move {
            let manager = builder.build().await.unwrap();
            let guard = manager.lock("k").await.unwrap();
            got.send((n, guard.token())).unwrap();
            // Confirmed, so that the requests of this one are all counted.
            guard.unlock().await.unwrap();
            // Their sessions end when all have had the lock.
            let _ = done.wait_for(|done| *done).await;
            drop(manager);
        });
    }
    let mut queue = Vec::new();
    until("all of them wait", async || {
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let found = clients[0].get("leasehold/k/", Some(options)).await.unwrap();
        queue = found.kvs().iter().skip(1).map(|claim| waiter(claim.value())).collect();
        queue.len() == waiters
    })
    .await;
    println!("{waiters} managers wait after {:?}", start.elapsed());
    until("each has its watches", async || watchers(&etcd) >= 2 * waiters as u64).await;

    // A fixed pause, in which they wait.
    let (before, start) = (Requests::of(&etcd), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let idle = Requests::of(&etcd).since(before);
    println!("waiting for {:?}: {idle:?}", start.elapsed());
    assert!(idle.txns as usize <= waiters / 2, "{idle:?}");
    assert!(idle.ranges as usize <= 2 * waiters, "{idle:?}");
    assert!(order.try_recv().is_err());

    let (client_cpu, server_cpu) = (cpu(std::process::id()), cpu(etcd.process().id()));
    let (before, start) = (Requests::of(&etcd), Instant::now());
    held.unlock().await.unwrap();
    let mut last = None;
    for expected in queue {
        let (n, token) = timeout(PATIENCE, order.recv()).await.expect("no waiter is woken").unwrap();
        assert_eq!(n, expected, "out of order");
        assert!(last < Some(token), "tokens grow");
        last = Some(token);
    }
    let took = start.elapsed();
    let used = Requests::of(&etcd).since(before);
    println!(
        "{waiters} handovers in {took:?}, {:?} each: {used:?}; processor time {:?} here, {:?} at the server",
        took / u32::try_from(waiters).unwrap(),
        cpu(std::process::id()) - client_cpu,
        cpu(etcd.process().id()) - server_cpu
    );
    // A check and a release each; if each release woke two, it would be half as much again.
    assert!((used.txns as usize) < waiters * 5 / 2, "{used:?}");
    assert!((used.ranges as usize) < waiters / 4 + took.as_secs() as usize * waiters / 4, "{used:?}");
    done.send_replace(true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managers_waiters_for_many_keys_look_together() {
    const KEYS: usize = 600;
    let _alone = crate::ALONE.lock().await;
    let etcd = Etcd::start();
    let (holder, waiter) = (LockManager::connect(etcd.url()), LockManager::connect(etcd.url()));
    let (holder, waiter) = (holder.await.unwrap(), waiter.await.unwrap());
    let mut held = take(&holder, KEYS).await;
    let mut waiting: Vec<_> = held.iter().map(|guard| tokio::spawn(waiter.lock(guard.key()).into_future())).collect();
    // A watch for each hold, for each claim ahead, and for the sessions.
    until("all of them wait", async || watchers(&etcd) as usize >= 2 * KEYS + 2).await;
    // Each has found the claim ahead, once its watch had been established.
    let mut asked = 0;
    until("none asks for itself any more", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = std::mem::replace(&mut asked, Requests::of(&etcd).ranges);
        asked - before < 20
    })
    .await;
    // A fixed pause, in which each waiter looks at least once.
    let before = Requests::of(&etcd);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let idle = Requests::of(&etcd).since(before);
    println!("{KEYS} waiters for 6 s: {idle:?}");
    assert!(idle.txns >= 6 && ((idle.txns + idle.ranges) as usize) < KEYS / 2, "{idle:?}");
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    held.swap_remove(KEYS / 2).unlock().await.unwrap();
    timeout(PATIENCE, waiting.swap_remove(KEYS / 2)).await.unwrap().unwrap().unwrap().unlock().await.unwrap();
}

/// Puts claims of `count` locks on the server, by `leases` leases.
async fn fill(client: &mut Client, count: usize, leases: usize) {
    let mut ids = Vec::new();
    for _ in 0..leases {
        ids.push(client.lease_grant(600, None).await.unwrap().id());
    }
    let put = |n: usize| {
        let lease = ids[n % leases];
        let value = format!(
            r#"{{"v":1,"name":"crowd","host":"h","pid":{n},"manager":"m","mode":"exclusive","asked_at":1700000000000}}"#
        );
        TxnOp::put(format!("leasehold/{n:06}/{lease:x}-{n:x}"), value, Some(PutOptions::new().with_lease(lease)))
    };
    let numbers: Vec<usize> = (0..count).collect();
    for batch in numbers.chunks(3600) {
        // The server takes 128 operations, which it counts along the deepest branch only.
        let nested = batch
            .chunks(60)
            .map(|few| TxnOp::txn(Txn::new().and_then(few.iter().map(|&n| put(n)).collect::<Vec<_>>())));
        client.txn(Txn::new().and_then(nested.collect::<Vec<_>>())).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_through_any_number_of_locks_page_by_page() {
    let _alone = crate::ALONE.lock().await;
    let count = if soak().is_some() { 100_000 } else { 20_000 };
    let etcd = Etcd::start();
    let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();
    let start = Instant::now();
    fill(&mut client, count, 3).await;
    println!("{count} locks put in {:?}", start.elapsed());
    let manager = LockManager::connect(format!("{}?timeout=60s", etcd.url())).await.unwrap();
    let before = Requests::of(&etcd);
    let start = Instant::now();
    let listed = manager.list("").await.unwrap();
    let used = Requests::of(&etcd).since(before);
    println!("{count} locks listed in {:?}: {used:?}", start.elapsed());
    assert_eq!(listed.len(), count);
    for (n, info) in listed.iter().enumerate() {
        assert_eq!((info.key.as_str(), info.mode, info.waiters), (format!("{n:06}").as_str(), Mode::Exclusive, 0));
        assert_eq!((info.holders.len(), info.holders[0].pid, info.foreign), (1, n as u32, false));
        assert!(info.remaining.is_some() && info.since.is_some());
    }
    // No answer has more than a thousand keys, and no lease is requested twice.
    assert!(used.ranges as usize <= count / 1000 + 1, "{used:?}");
    assert!(used.lease_questions <= 3, "{used:?}");
    assert_eq!(manager.list("0001").await.unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_continues_although_the_history_is_compacted() {
    let _alone = crate::ALONE.lock().await;
    const COUNT: usize = 10_000;
    let etcd = Etcd::start();
    let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();
    fill(&mut client, COUNT, 1).await;
    let manager = LockManager::connect(etcd.url()).await.unwrap();
    static ENDED: AtomicBool = AtomicBool::new(false);
    let compacting = tokio::spawn(async move {
        let mut count = 0;
        while !ENDED.load(Ordering::SeqCst) {
            let revision = client.put("elsewhere", "", None).await.unwrap().header().unwrap().revision();
            client.compact(revision, None).await.unwrap();
            count += 1;
        }
        count
    });
    for _ in 0..3 {
        let start = Instant::now();
        let listed = manager.list("").await.unwrap();
        println!("listed in {:?}", start.elapsed());
        let keys: Vec<_> = listed.iter().map(|info| info.key.clone()).collect();
        assert_eq!(keys, (0..COUNT).map(|n| format!("{n:06}")).collect::<Vec<_>>());
        assert!(listed.iter().all(|info| info.holders.len() == 1 && info.waiters == 0));
    }
    ENDED.store(true, Ordering::SeqCst);
    let compactions = compacting.await.unwrap();
    println!("{compactions} compactions meanwhile");
    assert!(compactions > 10);
}

/// The shortest of a few tries of a key that is not free.
async fn fastest_try(manager: &LockManager, key: &str) -> Duration {
    let mut fastest = Duration::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        assert!(manager.try_lock(key).await.unwrap().is_none());
        fastest = fastest.min(start.elapsed());
    }
    fastest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_does_not_read_the_queue() {
    let _alone = crate::ALONE.lock().await;
    let etcd = Etcd::start();
    let manager = LockManager::connect(etcd.url()).await.unwrap();
    let mut client = Client::connect([etcd.endpoint()], None).await.unwrap();
    let claim = |key: &str, n: usize| TxnOp::put(format!("leasehold/{key}/{n:016x}"), vec![b'x'; 200], None);
    client.txn(Txn::new().and_then([claim("few", 0)])).await.unwrap();
    for hundred in 0..20 {
        let claims: Vec<_> = (0..100).map(|n| claim("many", 100 * hundred + n)).collect();
        client.txn(Txn::new().and_then(claims)).await.unwrap();
    }
    let (few, many) = (fastest_try(&manager, "few").await, fastest_try(&manager, "many").await);
    println!("a try of a key with one claim {few:?}, with 2,000 {many:?}");
    assert!(many < 2 * few, "{few:?} and {many:?}");
    // The blocking claim was deleted, and another one blocks; then none does.
    client.delete(format!("leasehold/many/{:016x}", 0), None).await.unwrap();
    assert!(manager.try_lock("many").await.unwrap().is_none());
    client.delete("leasehold/many/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    let guard = manager.try_lock("many").await.unwrap().expect("it is free");
    assert!(manager.try_lock("few").await.unwrap().is_none());
    guard.unlock().await.unwrap();
}
