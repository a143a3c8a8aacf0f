//! A program for Unix that releases its locks on ^C and SIGTERM. By default these signals end a process at once, and its locks stay until their
//! TTL ends.
//!
//! ```sh
//! cargo run --example shutdown                        # in memory
//! cargo run --features etcd --example shutdown -- etcd://127.0.0.1:2379
//! ```

use std::time::Duration;

use leasehold::{LockError, LockManager};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".into());
    let manager = LockManager::connect(url).await?;
    let mut terminate = signal(SignalKind::terminate())?;

    let guard = manager.lock("reports/nightly").await?;
    println!("working; ^C or SIGTERM ends it early");
    let work = async {
        for part in 1..=3 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            println!("part {part} of 3 is done");
        }
    };
    tokio::select! {
        done = guard.run(work) => done?,
        _ = tokio::signal::ctrl_c() => println!("interrupted"),
        _ = terminate.recv() => println!("terminated"),
    }
    // Waits for the server's confirmation; dropping the guard and the manager would do as well.
    match guard.unlock().await {
        Err(LockError::Expired { .. }) => println!("the lock was lost before"),
        released => released?,
    }
    manager.close().await?;
    Ok(())
}
