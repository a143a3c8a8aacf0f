//! Holds the lock "job", and reports its loss and the cause at once.
//!
//! `cargo run --example lost_lock` revokes the lock after a second. On a server, revoke it by hand:
//!
//! ```text
//! cargo run --features etcd --example lost_lock -- etcd://127.0.0.1:2379
//! etcdctl get leasehold/job/ --prefix --keys-only     # the claim: leasehold/job/<lease>-<number>
//! etcdctl lease revoke <lease>                        # or: etcdctl del leasehold/job/ --prefix
//! ```

use std::time::Duration;

use leasehold::{FencingToken, LockGuard, LockManager};
use tokio::time::sleep;

const IN_MEMORY: &str = "memory://lost_lock";

#[tokio::main]
async fn main() -> leasehold::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| IN_MEMORY.into());
    let manager = LockManager::connect(&url).await?;
    let guard = manager.lock("job").await?;
    println!("holding job, certain for {:.1?}, token {}", guard.remaining(), guard.token());
    if url == IN_MEMORY {
        revoke_soon(LockManager::connect(&url).await?);
    } else if url.starts_with("etcd") {
        println!("to see its lease:  etcdctl get leasehold/job/ --prefix --keys-only");
        println!("                   which prints leasehold/job/<lease>-<number>");
        println!("to revoke it:      etcdctl lease revoke <lease>");
    }
    tokio::select! {
        biased;
        cause = guard.lost() => println!("lost job: {cause} ({cause:?})"),
        _ = tokio::signal::ctrl_c() => println!("interrupted, releasing"),
        () = work(&guard) => {}
    }
    match guard.unlock().await {
        Ok(()) => println!("released job"),
        Err(error) => println!("not released: {error}"),
    }
    Ok(())
}

async fn work(guard: &LockGuard) {
    loop {
        sleep(Duration::from_millis(500)).await;
        write_report(guard.token());
    }
}

/// Stands for a write to a resource, which refuses the token of an outdated holder.
fn write_report(_token: FencingToken) {}

fn revoke_soon(admin: LockManager) {
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        match admin.force_unlock("job").await {
            Ok(eviction) => println!("force-unlocked {:?}", eviction.released),
            Err(error) => println!("not force-unlocked: {error}"),
        }
    });
}
