//! A long job that lets others in between its steps: `cargo run --example progress [URL]`.
//!
//! A reindexing of many minutes holds a lock that short jobs need as well. It works in steps, and after each one looks whether another
//! waits for the lock: then it writes down how far it has come, and releases the lock. It is served again after the others.

use std::error::Error;
use std::time::Duration;

use futures::FutureExt;
use leasehold::LockManager;
use tokio::time::sleep;

const STEPS: u32 = 40;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://progress".into());
    let (long, short) = (LockManager::connect(&url).await?, LockManager::connect(&url).await?);
    let reindexing = tokio::spawn(reindex(long));
    for number in 1..=3 {
        sleep(Duration::from_millis(100)).await;
        let guard = short.lock("index").timeout(Duration::from_secs(10)).await?;
        println!("short job {number}, with token {}", guard.token());
        guard.unlock().await?;
    }
    let holds = reindexing.await??;
    println!("the index is complete, after {holds} holds");
    assert!(holds > 1, "the long job has let others in");
    Ok(())
}

/// Returns how often it has had the lock.
async fn reindex(manager: LockManager) -> leasehold::Result<u32> {
    // In a database, written with the fencing token.
    let (mut done, mut holds) = (0, 0);
    while done < STEPS {
        let guard = manager.lock("index").value(format!("{done} of {STEPS} steps")).await?;
        holds += 1;
        let mut wanted = guard.wanted();
        while done < STEPS && !guard.is_lost() {
            sleep(Duration::from_millis(50)).await;
            done += 1;
            if (&mut wanted).now_or_never().is_some() {
                println!("  {done} steps are done, and another waits");
                break;
            }
        }
        guard.unlock().await?;
    }
    Ok(holds)
}
