//! The program of the service: `cargo run [FILE]`.

use std::error::Error;
use std::sync::Arc;

use leasehold::FenceGate;
use leasehold_web::{Settings, Shop, Stock};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| "config.yaml".into());
    let settings = Settings::load(&file)?;
    let stock = Stock::from([("apples", FenceGate::new(100)), ("pears", FenceGate::new(3))]);
    let shop = Shop::open(settings.locks, Arc::new(stock)).await?;
    let listener = TcpListener::bind(settings.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let end = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    shop.serve(listener, end).await
}
