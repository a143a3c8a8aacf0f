//! Locks on a real etcd, compared with the same work done with the bare client in the same run: only the ratios matter.
//!
//! `cargo run --release -p leasehold-benches --bin etcd [-- seconds [part…]]` with the parts `one`, `many`, `key`; the server is
//! started here, on a free port.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use leasehold::LockManager;

#[path = "../measure.rs"]
mod measure;

use measure::{Result, Until, median, rate, timed};

#[tokio::main]
async fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(4.0), |argument| argument.parse())?;
    let time = Duration::from_secs_f64(seconds);
    let etcd = support::etcd::Etcd::start();
    println!("etcd on {}, {seconds} s a measurement\n", etcd.endpoint());
    let parts: Vec<_> = std::env::args().skip(2).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted("one") {
        one_by_one(&etcd, time).await?;
    }
    if wanted("many") {
        many_keys(&etcd, time).await?;
    }
    if wanted("key") {
        let them = lock_rpc(&etcd, time).await?;
        for members in [2, 8, 32] {
            one_key(&etcd, time, members, them).await?;
        }
    }
    Ok(())
}

/// An uncontended lock with the bare client: put if absent, on a lease, and delete.
struct Raw {
    client: Client,
    lease: i64,
}

impl Raw {
    async fn connect(etcd: &support::etcd::Etcd) -> Result<Self> {
        let mut client = Client::connect([etcd.endpoint()], None).await?;
        let lease = client.lease_grant(60, None).await?.id();
        Ok(Self { client, lease })
    }

    async fn pair(&mut self, key: &str) -> Result<()> {
        let absent = Compare::version(key, CompareOp::Equal, 0);
        let put = TxnOp::put(key, "me", Some(PutOptions::new().with_lease(self.lease)));
        let answer = self.client.txn(Txn::new().when([absent]).and_then([put])).await?;
        if !answer.succeeded() {
            return Err("the key is not free".into());
        }
        self.client.delete(key, None).await?;
        Ok(())
    }
}

/// One task: the three ways alternate, so that the load of the machine is the same for all.
async fn one_by_one(etcd: &support::etcd::Etcd, time: Duration) -> Result<()> {
    let mut raw = Raw::connect(etcd).await?;
    let manager = LockManager::connect(etcd.url()).await?;
    let (mut pairs, mut unlocks, mut drops) = (Vec::new(), Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < time * 3 {
        for _ in 0..50 {
            pairs.push(timed(raw.pair("raw/k")).await?);
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
    }
    let raw = median(&mut pairs);
    println!("One task, median of {}:", unlocks.len());
    println!("  txn + delete, bare client  {:>8} µs", raw.as_micros());
    for (name, times) in [("lock + unlock().await", &mut unlocks), ("lock + drop", &mut drops)] {
        let median = median(times);
        let ratio = median.as_secs_f64() / raw.as_secs_f64();
        println!("  {name:25}  {:>8} µs   {ratio:.2} of the bare client's", median.as_micros());
    }
    println!();
    Ok(())
}

/// 64 tasks of one process, each on a separate key.
async fn many_keys(etcd: &support::etcd::Etcd, time: Duration) -> Result<()> {
    const TASKS: usize = 64;
    let raw = Raw::connect(etcd).await?;
    let raws = (0..TASKS).map(|n| {
        let mut raw = Raw { client: raw.client.clone(), lease: raw.lease };
        let key = format!("raw/{n}");
        move |until: Arc<Until>| async move {
            while until.goes_on() {
                raw.pair(&key).await?;
                until.count();
            }
            Ok(())
        }
    });
    let raw = rate(time, raws).await?;
    let manager = LockManager::connect(etcd.url()).await?;
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
    let ours = rate(time, ours).await?;
    println!("{TASKS} tasks of one process, a key each, pairs a second:");
    println!("  txn + delete, bare client  {raw:>8.0}");
    println!("  lock + unlock().await      {ours:>8.0}   {:.2} of the bare client's\n", ours / raw);
    Ok(())
}

/// 8 clients with etcd's own lock on one key.
async fn lock_rpc(etcd: &support::etcd::Etcd, time: Duration) -> Result<f64> {
    const CLIENTS: usize = 8;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Raw::connect(etcd).await?);
    }
    let clients = clients.into_iter().map(|Raw { mut client, lease }| {
        move |until: Arc<Until>| async move {
            while until.goes_on() {
                let lock = client.lock("etcd-lock", Some(LockOptions::new().with_lease(lease))).await?;
                until.count();
                client.unlock(lock.key()).await?;
            }
            Ok(())
        }
    });
    let theirs = rate(time, clients).await?;
    println!("One key, handovers a second:");
    println!("  {CLIENTS:>2} clients, etcd's Lock RPC  {theirs:>8.0}");
    Ok(theirs)
}

/// Managers with separate connections and leases, on one key.
async fn one_key(etcd: &support::etcd::Etcd, time: Duration, members: usize, theirs: f64) -> Result<()> {
    let mut managers = Vec::new();
    for member in 0..members {
        // A different timeout for each, so that they do not share a connection.
        managers.push(LockManager::connect(format!("{}?timeout={}ms", etcd.url(), 5000 + member)).await?);
    }
    let managers = managers.into_iter().map(|manager| {
        move |until: Arc<Until>| async move {
            while until.goes_on() {
                let guard = manager.lock("one").await?;
                until.count();
                guard.unlock().await?;
            }
            Ok(())
        }
    });
    let ours = rate(time, managers).await?;
    println!("  {members:>2} managers               {ours:>8.0}   {:.1} times the RPC's", ours / theirs);
    Ok(())
}
