//! A holder that was paused past its lease sends a transaction to etcd too late, and etcd refuses it:
//!
//! ```text
//! cargo run --features etcd --example etcd_compare -- etcd://127.0.0.1:2379
//! ```
//!
//! What is written is on the etcd that has the locks as well. So a transaction can have the condition that the lock is still held,
//! by the very hold that it was made under, and no token has to be kept anywhere.

use std::error::Error;
use std::time::Duration;

use etcd_client::{Client, Compare, Txn, TxnOp};
use leasehold::LockManager;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "etcd://127.0.0.1:2379".into());
    // One endpoint, without options, is all that this example knows of URLs.
    let mut etcd = Client::connect([url.trim_start_matches("etcd://")], None).await?;
    let (slow, quick) = (LockManager::connect(&url).await?, LockManager::connect(&url).await?);

    // A lease that nobody renews: so it would be if this process were stopped.
    let paused = slow.lock("report").ttl(Duration::from_secs(2)).auto_renew(false).await?;
    println!("the first has the lock, prepares its transaction, and is paused");
    let prepared = write(paused.etcd_compare()?, "the first, too late");

    // Waits until the lease is over.
    let guard = quick.lock("report").await?;
    let written = etcd.txn(write(guard.etcd_compare()?, "the second")).await?.succeeded();
    println!("the second has the lock and writes: {written}");
    assert!(written, "the lock is held");

    println!("the first wakes up, and sends what it has prepared");
    let written = etcd.txn(prepared).await?.succeeded();
    println!("etcd writes it: {written}");
    assert!(!written, "the lock is another's");
    if let Err(error) = paused.etcd_compare() {
        println!("had it looked, it would have known: {error}");
    }

    let found = etcd.get("example/report", None).await?;
    println!("on etcd: {:?}", found.kvs().first().map(|kv| String::from_utf8_lossy(kv.value())));
    Ok(())
}

fn write(held: Compare, text: &str) -> Txn {
    Txn::new().when([held]).and_then([TxnOp::put("example/report", text, None)])
}
