//! Redis refuses the late write of a holder that was paused past its lease:
//!
//! ```text
//! cargo run --features redis --example redis_fence -- redis://127.0.0.1:6379
//! ```
//!
//! A script on the server compares the token and writes the value in one step.

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

    // A lease that is not renewed, as if this process were stopped.
    let paused = slow.lock("report").ttl(Duration::from_secs(1)).auto_renew(false).await?;
    report.set(&mut redis, paused.token(), "the first, in time").await??;
    println!("the first writes with token {}, and then it is paused", paused.token());

    // Waits until the lease has ended.
    let guard = quick.lock("report").await?;
    report.set(&mut redis, guard.token(), "the second").await??;
    println!("the second writes with token {}", guard.token());

    println!("the first resumes where it was paused");
    match report.set(&mut redis, paused.token(), "the first, too late").await? {
        Ok(()) => return Err("the late write was admitted".into()),
        Err(refused) => println!("it is refused: {refused}"),
    }
    let found: Option<String> = redis.get(report.key()).await?;
    println!("on Redis: {found:?}");
    assert_eq!(found.as_deref(), Some("the second"));
    Ok(())
}
