//! leasehold.

use std::sync::atomic::{AtomicU64, Ordering};

use leasehold::{LockGuard, LockManager};
use tokio::task::block_in_place;

use super::{Client, Lock};
use crate::Result;
use crate::rows::Store;
use crate::servers::Server;

const PREFIX: &str = "benchmark/";

/// Releases locks with `unlock().await`.
pub struct Unlocked(LockManager);

/// Blocks its thread.
pub struct Waited(LockManager);

/// Releases locks by dropping their guards.
pub struct Dropped(LockManager);

/// Managers with equal settings share a connection, so each has another timeout.
async fn connect(server: &Server) -> Result<LockManager> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    if server.store == Store::Memory {
        return Ok(LockManager::memory());
    }
    if server.store == Store::File {
        return Ok(LockManager::builder().url(server.url()).prefix(PREFIX).build().await?);
    }
    let timeout = 5000 + NUMBER.fetch_add(1, Ordering::Relaxed);
    let url = format!("{}?timeout={timeout}ms", server.url());
    Ok(LockManager::builder().url(url).prefix(PREFIX).build().await?)
}

impl Client for Unlocked {
    type Lock = UnlockedLock;
    const PREFIX: &str = PREFIX;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(connect(server).await?))
    }

    async fn lock(&self, key: &str) -> Result<UnlockedLock> {
        Ok(UnlockedLock(self.0.handle(key)?))
    }
}

impl Client for Waited {
    type Lock = WaitedLock;
    const PREFIX: &str = PREFIX;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(connect(server).await?))
    }

    async fn lock(&self, key: &str) -> Result<WaitedLock> {
        Ok(WaitedLock(self.0.handle(key)?))
    }
}

impl Client for Dropped {
    type Lock = DroppedLock;
    const PREFIX: &str = PREFIX;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(connect(server).await?))
    }

    async fn lock(&self, key: &str) -> Result<DroppedLock> {
        Ok(DroppedLock(self.0.handle(key)?))
    }
}

pub struct UnlockedLock(leasehold::Lock);

impl Lock for UnlockedLock {
    type Held = LockGuard;

    async fn acquire(&mut self) -> Result<LockGuard> {
        Ok(self.0.lock().await?)
    }

    async fn release(&mut self, held: LockGuard) -> Result<()> {
        Ok(held.unlock().await?)
    }
}

pub struct WaitedLock(leasehold::Lock);

impl Lock for WaitedLock {
    type Held = LockGuard;

    async fn acquire(&mut self) -> Result<LockGuard> {
        Ok(block_in_place(|| self.0.lock().wait())?)
    }

    async fn release(&mut self, held: LockGuard) -> Result<()> {
        Ok(block_in_place(|| held.unlock().wait())?)
    }
}

pub struct DroppedLock(leasehold::Lock);

impl Lock for DroppedLock {
    type Held = LockGuard;

    async fn acquire(&mut self) -> Result<LockGuard> {
        Ok(self.0.lock().await?)
    }

    async fn release(&mut self, held: LockGuard) -> Result<()> {
        drop(held);
        Ok(())
    }
}
