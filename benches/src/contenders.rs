//! The contenders, and how each is run.

use std::time::Duration;

use crate::clients::Client;
use crate::clients::bare::{BareEtcd, BareRedis};
use crate::clients::ours::{Dropped, Unlocked, Waited};
use crate::clients::peers::{AsyncRedisLock, DistributedLock, Flock, LockRpc, Rslock, TokioMutex};
use crate::figures::Sample;
use crate::rows::{Row, Store, Work};
use crate::servers::Server;
use crate::{Result, local, pairs, processes, rest};

/// Whose locks are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Contender {
    Bare,
    Unlock,
    Wait,
    Drop,
    Again,
    IsLost,
    /// leasehold on one server, in a row of a cluster.
    OneServer,
    Rslock,
    AsyncRedisLock,
    DistributedLock,
    RedisPy,
    PythonRedisLock,
    LockRpc,
    GoMutex,
    Flock,
    Filelock,
    TokioMutex,
}

impl Contender {
    /// Where its locks are in a row.
    pub fn store(self, row: &Row) -> Store {
        if self == Self::OneServer { Store::Redis } else { row.store }
    }

    /// Its name in a row.
    pub fn name(self, row: &Row) -> &'static str {
        match (self, row.store, row.work) {
            (Self::Bare, _, Work::OneKey { .. }) => "bare client, alone",
            (Self::Bare, ..) => "bare client",
            (Self::Unlock, _, Work::Held { .. } | Work::Waiting { .. }) => "leasehold",
            (Self::Drop, Store::Memory, Work::OneKey { .. }) => "leasehold",
            (Self::Unlock, _, Work::OwnKeys { .. }) => "leasehold, unlock().await",
            (Self::Unlock, _, Work::Processes { .. }) => "leasehold, .await",
            (Self::Unlock, ..) => "leasehold",
            (Self::Wait, ..) => "leasehold, .wait()",
            (Self::Drop, Store::Cluster, _) => "leasehold",
            (Self::Drop, Store::Memory, _) => "leasehold, lock + drop",
            (Self::Drop, ..) => "leasehold, drop",
            (Self::OneServer, ..) => "leasehold, one server",
            (Self::Again, ..) => "leasehold, lock again",
            (Self::IsLost, ..) => "leasehold, is_lost()",
            (Self::Rslock, ..) => "rslock",
            (Self::AsyncRedisLock, ..) => "async-redis-lock",
            (Self::DistributedLock, ..) => "distributed-lock",
            (Self::RedisPy, ..) => "redis-py",
            (Self::PythonRedisLock, ..) => "python-redis-lock",
            (Self::LockRpc, ..) => "etcd's Lock RPC",
            (Self::GoMutex, ..) => "Go's concurrency.Mutex",
            (Self::Flock, ..) => "flock(2)",
            (Self::Filelock, ..) => "Python's filelock",
            (Self::TokioMutex, ..) => "tokio's Mutex",
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::Unlock | Self::Wait | Self::Drop | Self::Again | Self::IsLost | Self::OneServer)
    }

    /// Does the work of a row in this process, which has done nothing else.
    pub async fn measure(self, row: &Row, server: &Server, time: Duration) -> Result<Sample> {
        match (self, row.store) {
            (Self::Bare, Store::Redis) => run::<BareRedis>(alone(row.work), server, time).await,
            (Self::Bare, Store::Etcd) => run::<BareEtcd>(alone(row.work), server, time).await,
            (_, Store::Memory) if row.work == Work::Local => local::measure(self, time).await,
            (Self::Unlock, _) => run::<Unlocked>(row.work, server, time).await,
            (Self::Wait, _) => run::<Waited>(row.work, server, time).await,
            (Self::Drop | Self::OneServer, _) => run::<Dropped>(row.work, server, time).await,
            (Self::Rslock, _) => run::<Rslock>(row.work, server, time).await,
            (Self::AsyncRedisLock, _) => run::<AsyncRedisLock>(row.work, server, time).await,
            (Self::DistributedLock, _) => run::<DistributedLock>(row.work, server, time).await,
            (Self::LockRpc, _) => run::<LockRpc>(row.work, server, time).await,
            (Self::Flock, _) => run::<Flock>(row.work, server, time).await,
            (Self::TokioMutex, _) => run::<TokioMutex>(row.work, server, time).await,
            _ => Err(format!("{self:?} has no part in {}", row.name).into()),
        }
    }
}

/// The bare client has no way to wait: instead of contending for a key it has it for itself.
fn alone(work: Work) -> Work {
    match work {
        Work::OneKey { .. } => Work::OwnKeys { tasks: 1 },
        Work::DisturbedKeys { tasks } => Work::OwnKeys { tasks },
        _ => work,
    }
}

async fn run<C: Client>(work: Work, server: &Server, time: Duration) -> Result<Sample> {
    match work {
        Work::OwnKeys { tasks } => pairs::own_keys::<C>(server, time, tasks).await,
        Work::DisturbedKeys { tasks } => pairs::disturbed_keys::<C>(server, time, tasks).await,
        Work::OneKey { clients, tasks } => pairs::one_key::<C>(server, time, clients, tasks).await,
        Work::Held { locks } => rest::held::<C>(server, locks).await,
        Work::Waiting { clients, tasks, keys } => rest::waiting::<C>(server, clients, tasks, keys).await,
        Work::Processes { .. } => processes::take_turns::<C>(server, time).await,
        Work::Local => Err("needs no client".into()),
    }
}
