//! Options from a file, overridden by the environment: `cargo run --features config --example configured [FILE]`.
//!
//! Without an argument the file is `examples/config.yaml`, with locks in memory. The same program on a server:
//!
//! ```text
//! SHOP_LOCKS_BACKEND=etcd SHOP_LOCKS_ENDPOINTS=127.0.0.1:2379 cargo run --features config,etcd --example configured
//! ```

use leasehold::{Config, LockManager};

#[tokio::main]
async fn main() -> leasehold::Result<()> {
    let beside_this = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config.yaml");
    let file = std::env::args().nth(1).unwrap_or_else(|| beside_this.into());
    // SHOP_LOCKS_TTL and so on override the section `locks` of the file, which overrides the defaults. A missing file is logged as a
    // warning; an unknown field or an invalid value is an error that names it.
    let config = Config::load(&file, "locks", "SHOP")?;
    // `Debug` does not show the password.
    println!("{config:#?}");

    let manager = LockManager::from_config(config).await?;
    println!("the server answered within {:.1?}", manager.ping().await?);
    let guard = manager.lock("configured").await?;
    println!("locked for {:.1?}", guard.remaining());
    guard.unlock().await?;
    manager.close().await
}
