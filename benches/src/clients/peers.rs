//! Other locks, with their default settings.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_redis_lock::{Locker, Options};
use distributed_lock_core::{DistributedLock as _, LockHandle, LockProvider};
use distributed_lock_redis::{RedisDistributedLock, RedisLockHandle, RedisLockProvider};
use etcd_client::LockOptions;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Client, Lock};
use crate::Result;
use crate::servers::Server;

/// flock(2), by the standard library: whoever waits for it blocks a thread.
pub struct Flock(PathBuf);

impl Client for Flock {
    type Lock = FlockKey;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(server.address.clone().into()))
    }

    async fn lock(&self, key: &str) -> Result<FlockKey> {
        Ok(FlockKey(File::create(self.0.join(key))?))
    }
}

pub struct FlockKey(File);

impl Lock for FlockKey {
    type Held = ();

    async fn acquire(&mut self) -> Result<()> {
        Ok(self.0.lock()?)
    }

    async fn release(&mut self, _held: ()) -> Result<()> {
        Ok(self.0.unlock()?)
    }
}

/// The crate rslock. It does not renew locks.
pub struct Rslock(rslock::LockManager);

impl Client for Rslock {
    type Lock = RslockKey;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(rslock::LockManager::new(vec![server.url()])))
    }

    async fn lock(&self, key: &str) -> Result<RslockKey> {
        Ok(RslockKey(self.0.clone(), key.to_owned()))
    }
}

pub struct RslockKey(rslock::LockManager, String);

impl Lock for RslockKey {
    type Held = rslock::LockGuard;

    async fn acquire(&mut self) -> Result<Self::Held> {
        Ok(self.0.acquire(&*self.1, Duration::from_secs(30)).await?)
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        held.release().await;
        Ok(())
    }
}

/// The crate async-redis-lock. Its TTL is 3 s, and its waiters would give up after a time.
pub struct AsyncRedisLock(Locker);

impl Client for AsyncRedisLock {
    type Lock = AsyncRedisKey;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(Locker::from_redis_url(&server.url()).await?))
    }

    async fn lock(&self, key: &str) -> Result<AsyncRedisKey> {
        Ok(AsyncRedisKey(self.0.clone(), Options::new().timeout(None), key.to_owned()))
    }
}

pub struct AsyncRedisKey(Locker, Options, String);

impl Lock for AsyncRedisKey {
    type Held = async_redis_lock::Lock;

    async fn acquire(&mut self) -> Result<Self::Held> {
        Ok(self.0.acquire_with_options(&self.1, &*self.2).await?)
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        Ok(held.release().await?)
    }
}

/// The crate distributed-lock: this is its part for Redis. It cannot wait, so it is asked again and again.
pub struct DistributedLock(RedisLockProvider);

impl Client for DistributedLock {
    type Lock = RedisDistributedLock;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(RedisLockProvider::new(server.url()).await?))
    }

    async fn lock(&self, key: &str) -> Result<RedisDistributedLock> {
        Ok(self.0.create_lock(key))
    }
}

impl Lock for RedisDistributedLock {
    type Held = RedisLockHandle;

    async fn acquire(&mut self) -> Result<Self::Held> {
        loop {
            if let Some(held) = self.try_acquire().await? {
                return Ok(held);
            }
        }
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        Ok(LockHandle::release(held).await?)
    }
}

/// etcd's own lock. Each task is a session.
pub struct LockRpc(etcd_client::Client);

impl Client for LockRpc {
    type Lock = LockRpcKey;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(etcd_client::Client::connect([&server.address], None).await?))
    }

    async fn lock(&self, key: &str) -> Result<LockRpcKey> {
        let mut client = self.0.clone();
        let lease = client.lease_grant(60, None).await?.id();
        Ok(LockRpcKey { client, options: LockOptions::new().with_lease(lease), key: key.to_owned() })
    }
}

pub struct LockRpcKey {
    client: etcd_client::Client,
    options: LockOptions,
    key: String,
}

impl Lock for LockRpcKey {
    /// The name of the claim.
    type Held = Vec<u8>;

    async fn acquire(&mut self) -> Result<Self::Held> {
        let lock = self.client.lock(&*self.key, Some(self.options.clone())).await?;
        Ok(lock.key().to_vec())
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        self.client.unlock(held).await?;
        Ok(())
    }
}

/// tokio's mutex, for one key.
pub struct TokioMutex(Arc<Mutex<()>>);

impl Client for TokioMutex {
    type Lock = Arc<Mutex<()>>;

    async fn connect(_: &Server) -> Result<Self> {
        Ok(Self(Arc::default()))
    }

    async fn lock(&self, _: &str) -> Result<Self::Lock> {
        Ok(self.0.clone())
    }
}

impl Lock for Arc<Mutex<()>> {
    type Held = OwnedMutexGuard<()>;

    async fn acquire(&mut self) -> Result<Self::Held> {
        Ok(self.clone().lock_owned().await)
    }

    async fn release(&mut self, held: Self::Held) -> Result<()> {
        drop(held);
        Ok(())
    }
}
