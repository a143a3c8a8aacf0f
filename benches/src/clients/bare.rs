//! The least that a lock costs with the bare client: without a queue, a fence, renewals, or a notice of a loss.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use redis::Script;
use redis::aio::MultiplexedConnection;

use super::{Client, Lock};
use crate::Result;
use crate::servers::Server;

/// The usual lock of programs on Redis: set if absent, and delete if the value is still the holder's.
pub struct BareRedis(MultiplexedConnection);

impl Client for BareRedis {
    type Lock = RedisKey;

    async fn connect(server: &Server) -> Result<Self> {
        Ok(Self(redis::Client::open(server.url())?.get_multiplexed_async_connection().await?))
    }

    async fn lock(&self, key: &str) -> Result<RedisKey> {
        let text = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
        Ok(RedisKey { connection: self.0.clone(), release: Script::new(text), key: key.to_owned() })
    }
}

pub struct RedisKey {
    connection: MultiplexedConnection,
    release: Script,
    key: String,
}

impl Lock for RedisKey {
    type Held = ();

    async fn acquire(&mut self) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(&self.key).arg("me").arg("NX").arg("PX").arg(30_000);
        let answer: Option<String> = set.query_async(&mut self.connection).await?;
        Ok(answer.map(drop).ok_or("the key is not free")?)
    }

    async fn release(&mut self, (): ()) -> Result<()> {
        self.release.key(&self.key).arg("me").invoke_async::<i64>(&mut self.connection).await?;
        Ok(())
    }
}

/// A lock on etcd: put if absent, on a lease, and delete.
pub struct BareEtcd {
    client: etcd_client::Client,
    lease: i64,
}

impl Client for BareEtcd {
    type Lock = EtcdKey;

    async fn connect(server: &Server) -> Result<Self> {
        let mut client = etcd_client::Client::connect([&server.address], None).await?;
        let lease = client.lease_grant(60, None).await?.id();
        Ok(Self { client, lease })
    }

    async fn lock(&self, key: &str) -> Result<EtcdKey> {
        Ok(EtcdKey { client: self.client.clone(), lease: self.lease, key: key.to_owned() })
    }
}

pub struct EtcdKey {
    client: etcd_client::Client,
    lease: i64,
    key: String,
}

impl Lock for EtcdKey {
    type Held = ();

    async fn acquire(&mut self) -> Result<()> {
        let absent = Compare::version(&*self.key, CompareOp::Equal, 0);
        let put = TxnOp::put(&*self.key, "me", Some(PutOptions::new().with_lease(self.lease)));
        let answer = self.client.txn(Txn::new().when([absent]).and_then([put])).await?;
        if answer.succeeded() { Ok(()) } else { Err("the key is not free".into()) }
    }

    async fn release(&mut self, (): ()) -> Result<()> {
        self.client.delete(&*self.key, None).await?;
        Ok(())
    }
}
