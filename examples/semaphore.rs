//! A semaphore: at most three downloads at a time, over all processes: `cargo run --example semaphore [URL]`.
//!
//! Each download takes one of three slots of a key, in the order of the requests. Two managers stand for two processes.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leasehold::LockManager;
use tokio::task::JoinSet;

const SLOTS: u32 = 3;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://semaphore".into());
    let managers = [LockManager::connect(&url).await?, LockManager::connect(&url).await?];
    let (active, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut downloads = JoinSet::new();
    for number in 0..12 {
        let (manager, active, most) = (managers[number % 2].clone(), active.clone(), most.clone());
        downloads.spawn(async move {
            let slot = manager.semaphore("downloads", SLOTS).value(format!("file {number}")).await?;
            most.fetch_max(active.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Stands for the work.
            tokio::time::sleep(Duration::from_millis(30)).await;
            active.fetch_sub(1, Ordering::SeqCst);
            slot.unlock().await
        });
    }
    while let Some(downloaded) = downloads.join_next().await {
        downloaded??;
        if let Some(info) = managers[0].info("downloads").await? {
            let files: Vec<_> = info.values.into_iter().flatten().collect();
            println!("{} of {SLOTS} slots: {}; {} wait", files.len(), files.join(", "), info.waiters);
        }
    }
    assert!(most.load(Ordering::SeqCst) <= SLOTS);
    Ok(())
}
