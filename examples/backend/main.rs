//! A custom backend, in map.rs: `cargo run --example backend`.

mod map;

use leasehold::LockManager;

use map::Link;

#[tokio::main]
async fn main() -> leasehold::Result<()> {
    let (one, other) = Link::pair();
    let one = LockManager::builder().backend(one).build().await?;
    let other = LockManager::builder().backend(other).build().await?;

    let guard = one.lock("report").await?;
    println!("one holds {} with token {}", guard.key(), guard.token());
    assert!(other.try_lock("report").await?.is_none(), "the lock is exclusive");
    guard.unlock().await?;
    println!("then the other, with token {}", other.lock("report").await?.token());
    Ok(())
}
