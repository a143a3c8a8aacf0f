//! Settings from a file, and over them the environment: `cargo run --features config --example configured [FILE]`.
//!
//! Without an argument the file is `examples/config.yaml`, which has the locks in memory. The same program on a server:
//!
//! ```text
//! SHOP_LOCKS_BACKEND=etcd SHOP_LOCKS_ENDPOINTS=127.0.0.1:2379 cargo run --features config,etcd --example configured
//! ```

use leasehold::{Config, LockManager};

#[tokio::main]
async fn main() -> leasehold::Result<()> {
    let beside_this = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config.yaml");
    let file = std::env::args().nth(1).unwrap_or_else(|| beside_this.into());
    // Defaults, over them the section `locks` of the file, over that SHOP_LOCKS_TTL and so on. A file that is not there is a
    // warning in the log; a field that is unknown, or a wrong value, is an error that names it.
    let config = Config::load(&file, "locks", "SHOP")?;
    // Shows no password.
    println!("{config:#?}");

    let manager = LockManager::from_config(config).await?;
    println!("the server answers within {:.1?}", manager.ping().await?);
    let guard = manager.lock("configured").await?;
    println!("locked for {:.1?}", guard.remaining());
    guard.unlock().await?;
    manager.close().await
}
