//! A holder that was paused past its lease writes to Redis too late, and Redis refuses it:
//!
//! ```text
//! cargo run --features redis --example redis_fence -- redis://127.0.0.1:6379
//! ```
//!
//! The token is compared by a script on the server, in one step with the write, so that nobody can come in between.

use std::error::Error;
use std::time::Duration;

use leasehold::{LockManager, RedisFence};
use redis::AsyncCommands;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    let mut redis = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    let (slow, quick) = (LockManager::connect(&url).await?, LockManager::connect(&url).await?);
    let report = RedisFence::new("example:report");

    // A lease that nobody renews: so it would be if this process were stopped.
    let paused = slow.lock("report").ttl(Duration::from_secs(1)).auto_renew(false).await?;
    report.set(&mut redis, paused.token(), "the first, in time").await??;
    println!("the first writes with token {}, and then it is paused", paused.token());

    // Waits until the lease is over.
    let guard = quick.lock("report").await?;
    report.set(&mut redis, guard.token(), "the second").await??;
    println!("the second writes with token {}", guard.token());

    println!("the first wakes up, and goes on where it was");
    match report.set(&mut redis, paused.token(), "the first, too late").await? {
        Ok(()) => return Err("the late write was let in".into()),
        Err(refused) => println!("it is refused: {refused}"),
    }
    let found: Option<String> = redis.get(report.key()).await?;
    println!("on Redis: {found:?}");
    assert_eq!(found.as_deref(), Some("the second"));
    Ok(())
}
