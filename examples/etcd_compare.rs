//! etcd refuses the late transaction of a holder that was paused past its lease:
//!
//! ```text
//! cargo run --features etcd --example etcd_compare -- etcd://127.0.0.1:2379
//! ```
//!
//! The data is on the etcd cluster that also has the locks. A transaction can therefore have the condition that this hold still
//! exists, and no token has to be stored.

use std::error::Error;
use std::time::Duration;

use etcd_client::{Client, Compare, Txn, TxnOp};
use leasehold::LockManager;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "etcd://127.0.0.1:2379".into());
    // This example supports only URLs with one endpoint and no options.
    let mut etcd = Client::connect([url.trim_start_matches("etcd://")], None).await?;
    let (slow, quick) = (LockManager::connect(&url).await?, LockManager::connect(&url).await?);

    // A lease that is not renewed, as if this process were stopped.
    let paused = slow.lock("report").ttl(Duration::from_secs(2)).auto_renew(false).await?;
    println!("the first has the lock, prepares its transaction, and is paused");
    let prepared = write(paused.etcd_compare()?, "the first, too late");

    // Waits until the lease has ended.
    let guard = quick.lock("report").await?;
    let written = etcd.txn(write(guard.etcd_compare()?, "the second")).await?.succeeded();
    println!("the second has the lock and writes: {written}");
    assert!(written, "the lock is held");

    println!("the first resumes, and sends its transaction");
    let written = etcd.txn(prepared).await?.succeeded();
    println!("etcd writes it: {written}");
    assert!(!written, "the first has lost the lock");
    if let Err(error) = paused.etcd_compare() {
        println!("a check would have shown it: {error}");
    }

    let found = etcd.get("example/report", None).await?;
    println!("on etcd: {:?}", found.kvs().first().map(|kv| String::from_utf8_lossy(kv.value())));
    Ok(())
}

fn write(held: Compare, text: &str) -> Txn {
    Txn::new().when([held]).and_then([TxnOp::put("example/report", text, None)])
}
