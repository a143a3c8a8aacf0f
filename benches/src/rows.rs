//! What is measured: the rows, each with its contenders, of which the first is the one that the others are compared with.

use crate::contenders::Contender::{self, *};

/// Where the locks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Redis,
    Cluster,
    Etcd,
    /// A directory of this machine.
    File,
    Memory,
}

/// What the contenders of a row do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Tasks of one client lock and unlock, each a key that no other task uses.
    OwnKeys { tasks: usize },
    /// The same, while one key has a tombstone and another one a waiter of another client.
    DisturbedKeys { tasks: usize },
    /// Tasks of one client or more lock and unlock the same key; what counts is how often the lock changes to another task.
    OneKey { clients: usize, tasks: usize },
    /// Processes lock and unlock the same key; what counts is how often the lock changes to another process.
    Processes { processes: usize },
    /// One task in one process, without a server: each contender does what its name says.
    Local,
    /// One client holds locks, and nothing else happens.
    Held { locks: usize },
    /// Tasks wait for keys that another client holds, and nothing else happens.
    Waiting { clients: usize, tasks: usize, keys: usize },
}

impl Work {
    /// Whether it has no rate.
    pub fn is_at_rest(self) -> bool {
        matches!(self, Self::Held { .. } | Self::Waiting { .. })
    }
}

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub store: Store,
    pub work: Work,
    pub contenders: &'static [Contender],
}

impl Row {
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }

    const fn redis(name: &'static str, title: &'static str, work: Work, contenders: &'static [Contender]) -> Self {
        Self { name, title, store: Store::Redis, work, contenders }
    }

    const fn cluster(name: &'static str, title: &'static str, work: Work, contenders: &'static [Contender]) -> Self {
        Self { name, title, store: Store::Cluster, work, contenders }
    }

    const fn etcd(name: &'static str, title: &'static str, work: Work, contenders: &'static [Contender]) -> Self {
        Self { name, title, store: Store::Etcd, work, contenders }
    }

    const fn file(name: &'static str, title: &'static str, work: Work, contenders: &'static [Contender]) -> Self {
        Self { name, title, store: Store::File, work, contenders }
    }

    const fn memory(name: &'static str, title: &'static str, work: Work, contenders: &'static [Contender]) -> Self {
        Self { name, title, store: Store::Memory, work, contenders }
    }
}

const fn one_key(clients: usize, tasks: usize) -> Work {
    Work::OneKey { clients, tasks }
}

const REDIS: &[Contender] = &[Bare, Unlock, Drop, Rslock, AsyncRedisLock, DistributedLock, RedisPy, PythonRedisLock];
const REDIS_CONTENDED: &[Contender] =
    &[Bare, Unlock, Rslock, AsyncRedisLock, DistributedLock, RedisPy, PythonRedisLock];
/// Without Python, which has no tasks, and would need a thousand threads.
const REDIS_TASKS: &[Contender] = &[Bare, Unlock, Rslock, AsyncRedisLock, DistributedLock];
const REDIS_HELD: &[Contender] = &[Bare, Unlock, Rslock, AsyncRedisLock, DistributedLock];
/// Without async-redis-lock, whose renewals, one a second for each lock, time out.
const REDIS_HELD_MANY: &[Contender] = &[Bare, Unlock, Rslock, DistributedLock];
const REDIS_WAITING: &[Contender] = &[Unlock, Rslock, AsyncRedisLock];
const CLUSTER: &[Contender] = &[OneServer, Drop];
const FILE: &[Contender] = &[Flock, Unlock, Drop, Filelock];
const FILE_CONTENDED: &[Contender] = &[Flock, Wait, Unlock, Filelock];
const ETCD: &[Contender] = &[Bare, Unlock, Drop, LockRpc, GoMutex];
const ETCD_CONTENDED: &[Contender] = &[Bare, Unlock, LockRpc, GoMutex];

pub const ROWS: &[Row] = &[
    Row::redis("redis-one", "Redis: one task", Work::OwnKeys { tasks: 1 }, REDIS),
    Row::redis("redis-own", "Redis: 64 tasks, a key each", Work::OwnKeys { tasks: 64 }, REDIS),
    Row::redis(
        "redis-disturbed",
        "Redis: 64 tasks, a key each; one key has a tombstone, one a waiter of another client",
        Work::DisturbedKeys { tasks: 64 },
        &[Bare, Unlock],
    ),
    Row::redis("redis-key-2", "Redis: one key, 2 clients", one_key(2, 1), REDIS_CONTENDED),
    Row::redis("redis-key-8", "Redis: one key, 8 clients", one_key(8, 1), REDIS_CONTENDED),
    Row::redis("redis-key-32", "Redis: one key, 32 clients", one_key(32, 1), REDIS_CONTENDED),
    Row::redis("redis-tasks-8", "Redis: one key, 8 tasks of one client", one_key(1, 8), REDIS_CONTENDED),
    Row::redis("redis-tasks-1000", "Redis: one key, 1,000 tasks of one client", one_key(1, 1000), REDIS_TASKS),
    Row::redis("redis-held-10k", "Redis: 10,000 locks held", Work::Held { locks: 10_000 }, REDIS_HELD),
    Row::redis("redis-held-100k", "Redis: 100,000 locks held", Work::Held { locks: 100_000 }, REDIS_HELD_MANY),
    Row::redis(
        "redis-waiters",
        "Redis: 1,000 tasks of 8 clients wait for one key",
        Work::Waiting { clients: 8, tasks: 125, keys: 1 },
        REDIS_WAITING,
    ),
    Row::redis(
        "redis-waited",
        "Redis: 3,000 tasks of one client wait, each for another key",
        Work::Waiting { clients: 1, tasks: 3000, keys: 3000 },
        REDIS_WAITING,
    ),
    Row::cluster("cluster-one", "Redis cluster of three masters: one task", Work::OwnKeys { tasks: 1 }, CLUSTER),
    Row::cluster("cluster-own", "Redis cluster: 64 tasks, a key each", Work::OwnKeys { tasks: 64 }, CLUSTER),
    Row::cluster("cluster-key-8", "Redis cluster: one key, 8 clients", one_key(8, 1), CLUSTER),
    Row::cluster(
        "cluster-waited",
        "Redis cluster: 1,000 tasks of one client wait, each for another key",
        Work::Waiting { clients: 1, tasks: 1000, keys: 1000 },
        CLUSTER,
    ),
    Row::etcd("etcd-one", "etcd: one task", Work::OwnKeys { tasks: 1 }, ETCD),
    Row::etcd("etcd-own", "etcd: 64 tasks, a key each", Work::OwnKeys { tasks: 64 }, ETCD),
    Row::etcd("etcd-key-2", "etcd: one key, 2 clients", one_key(2, 1), ETCD_CONTENDED),
    Row::etcd("etcd-key-8", "etcd: one key, 8 clients", one_key(8, 1), ETCD_CONTENDED),
    Row::etcd("etcd-key-32", "etcd: one key, 32 clients", one_key(32, 1), ETCD_CONTENDED),
    Row::etcd("etcd-tasks-8", "etcd: one key, 8 tasks of one client", one_key(1, 8), ETCD_CONTENDED),
    Row::etcd("etcd-tasks-1000", "etcd: one key, 1,000 tasks of one client", one_key(1, 1000), ETCD_CONTENDED),
    Row::etcd("etcd-held-10k", "etcd: 10,000 locks held", Work::Held { locks: 10_000 }, &[Bare, Unlock]),
    Row::etcd("etcd-held-100k", "etcd: 100,000 locks held", Work::Held { locks: 100_000 }, &[Bare, Unlock]),
    Row::etcd(
        "etcd-waiters",
        "etcd: 1,000 tasks of 8 clients wait for one key",
        Work::Waiting { clients: 8, tasks: 125, keys: 1 },
        &[Unlock, LockRpc],
    ),
    Row::etcd(
        "etcd-waited",
        "etcd: 3,000 tasks of one client wait, each for another key",
        Work::Waiting { clients: 1, tasks: 3000, keys: 3000 },
        &[Unlock, LockRpc],
    ),
    Row::file("file-one", "Files: one task", Work::OwnKeys { tasks: 1 }, FILE),
    Row::file("file-processes-8", "Files: one key, 8 processes", Work::Processes { processes: 8 }, FILE_CONTENDED),
    Row::file("file-processes-64", "Files: one key, 64 processes", Work::Processes { processes: 64 }, FILE_CONTENDED),
    Row::memory("memory-one", "In memory: one task", Work::Local, &[TokioMutex, Drop, Again, IsLost]),
    Row::memory("memory-tasks-8", "In memory: one key, 8 tasks", one_key(1, 8), &[TokioMutex, Drop]),
    Row::memory("memory-tasks-1000", "In memory: one key, 1,000 tasks", one_key(1, 1000), &[TokioMutex, Drop]),
];
