//! An administrator finds the holder of a lock and revokes it: `cargo run --example force_unlock [URL]`.

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

    println!("Held locks:");
    for info in admin.list("import/").await? {
        let holders: Vec<_> = info.holders.iter().map(ToString::to_string).collect();
        // A key is untrusted text, which may contain terminal escape sequences.
        println!("  {:20} {:?}, held by {}", Printable(&info.key).to_string(), info.mode, holders.join(", "));
    }

    // Only this key: the other locks of the same manager stay.
    let eviction = admin.force_unlock("import/customers").key_only().await?;
    println!("force_unlock of the key only, released: {:?}", eviction.released);
    println!("  the holder is notified: {}", stuck.lost().await);
    sleep(Duration::from_millis(50)).await;
    println!("  its other lock is lost: {}", other.is_lost());

    // The whole lease, on etcd with all other locks on it, but without isolated ones.
    let eviction = admin.force_unlock("import/orders").await?;
    println!("force_unlock of the lease, released: {:?} of {} holder(s)", eviction.released, eviction.holders.len());
    println!("  the holder is notified: {}", other.lost().await);
    println!("  its isolated lock is lost: {}", alone.is_lost());

    // The manager recovers: the next lock has a new lease.
    let again = timeout(Duration::from_secs(5), worker.lock("import/customers")).await;
    match again {
        Ok(guard) => println!("the worker locks again, with token {}", guard?.token()),
        Err(_) => println!("the worker cannot lock again"),
    }
    let eviction = admin.force_unlock("import/nobody").await?;
    println!("a free key is not an error, released: {:?}", eviction.released);
    worker.close().await?;
    admin.close().await
}
