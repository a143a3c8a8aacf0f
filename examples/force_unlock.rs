//! An administrator finds out who holds a lock and takes it away: `cargo run --example force_unlock [URL]`.

use std::time::Duration;

use leasehold::{LockManager, Printable};
use tokio::time::{sleep, timeout};

#[tokio::main]
async fn main() -> leasehold::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://force_unlock".into());
    let worker = LockManager::builder().url(&url).name("worker").build().await?;
    let admin = LockManager::builder().url(&url).name("admin").build().await?;

    let stuck = worker.lock("import/customers").await?;
    let other = worker.lock("import/orders").await?;
    let alone = worker.lock("import/invoices").isolated().await?;

    println!("What is locked:");
    for info in admin.list("import/").await? {
        let holders: Vec<_> = info.holders.iter().map(ToString::to_string).collect();
        // Anybody may have named a key so that it moves a terminal's cursor.
        println!("  {:20} {:?}, held by {}", Printable(&info.key).to_string(), info.mode, holders.join(", "));
    }

    // Just this one: the others of the same manager stay.
    let eviction = admin.force_unlock("import/customers").key_only().await?;
    println!("force_unlock of the key only: {:?}", eviction.released);
    println!("  the holder hears: {}", stuck.lost().await);
    sleep(Duration::from_millis(50)).await;
    println!("  its other lock is lost: {}", other.is_lost());

    // The whole lease, and with it whatever else the holder has on it; not what it holds in isolation.
    let eviction = admin.force_unlock("import/orders").await?;
    println!("force_unlock of the lease: {:?} of {} holder(s)", eviction.released, eviction.holders.len());
    println!("  the holder hears: {}", other.lost().await);
    println!("  its isolated lock is lost: {}", alone.is_lost());

    // The manager recovers by itself: the next lock has a new lease.
    let again = timeout(Duration::from_secs(5), worker.lock("import/customers")).await;
    match again {
        Ok(guard) => println!("the worker locks again, with token {}", guard?.token()),
        Err(_) => println!("the worker cannot lock again"),
    }
    let eviction = admin.force_unlock("import/nobody").await?;
    println!("a free key is no error: {:?}", eviction.released);
    worker.close().await?;
    admin.close().await
}
