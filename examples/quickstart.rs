//! A tour in a few seconds, with locks in memory: `cargo run --example quickstart`.
//!
//! With a URL it does the same on a server, for example:
//! `cargo run --features etcd --example quickstart -- etcd://127.0.0.1:2379`.

use std::time::Duration;

use leasehold::{LockGuard, LockManager};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://quickstart".into());
    let manager = LockManager::connect(&url).await?;

    println!("1. A guard holds the lock until it is dropped.");
    let guard = manager.lock("orders/42").await?;
    println!("   locked {:?}, fencing token {}, certain for {:.1?}", guard.key(), guard.token(), guard.remaining());

    println!("2. The same task can lock it again.");
    let nested = manager.lock("orders/42").await?;
    println!("   depth {}", nested.depth());
    drop(nested);

    println!("3. Another task cannot: it tries once, or waits with a timeout.");
    let other = tokio::spawn({
        let manager = manager.clone();
        async move {
            let tried = manager.try_lock("orders/42").await?;
            println!("   try_lock: {}", if tried.is_some() { "acquired" } else { "busy" });
            let waited = manager.lock("orders/42").timeout(Duration::from_millis(200)).await;
            println!("   with a timeout: {}", waited.map_or_else(|error| error.to_string(), |_| "acquired".into()));
            Ok::<_, leasehold::LockError>(())
        }
    });
    other.await??;

    println!("4. A waiting task acquires it when the guard is dropped.");
    let waiter = tokio::spawn({
        let manager = manager.clone();
        async move { manager.lock("orders/42").await.map(|guard| guard.token()) }
    });
    sleep(Duration::from_millis(100)).await;
    drop(guard);
    println!("   the next token is greater: {}", waiter.await??);

    println!("5. Readers share a lock.");
    let readers = [manager.lock("prices").shared(), manager.lock("prices").shared()];
    let [one, two] = readers.map(|reader| tokio::spawn(reader.into_future()));
    let (one, two) = (one.await??, two.await??);
    let info = manager.info("prices").await?;
    println!("   {:?} and {:?}; the server says {:?}", one.mode(), two.mode(), info.map(|info| info.mode));
    drop((one, two));

    println!("6. A loss is reported in the middle of the work.");
    let guard = manager.lock("nightly-report").await?;
    let admin = LockManager::connect(&url).await?;
    let evictor = tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        admin.force_unlock("nightly-report").await
    });
    tokio::select! {
        // With `biased`, the loss takes precedence if both are ready.
        biased;
        cause = guard.lost() => println!("   stopped working: {cause}"),
        () = long_work(&guard) => println!("   done"),
    }
    let eviction = evictor.await??;
    println!("   an administrator revoked it: {:?}", eviction.released);
    println!(
        "   unlock reports it: {}",
        guard.unlock().await.map_or_else(|error| error.to_string(), |()| "released".into())
    );
    Ok(())
}

async fn long_work(guard: &LockGuard) {
    for step in 1.. {
        println!("   working, step {step}, lost: {}", guard.is_lost());
        sleep(Duration::from_millis(100)).await;
    }
}
