//! The server of a fault.

use std::net::Ipv4Addr;

use leasehold::LockManager;
use leasehold::testing::MemoryStore;

use crate::table::{Backend, Topology};
use support::clusters::RedisCluster;
use support::etcd::{Cluster, Etcd};
use support::folder::Folder;
use support::redis::Redis;
use support::sentinels::{NAME, Sentinel};

/// The server of one fault.
pub(crate) enum Server {
    Memory(MemoryStore),
    Etcd(Box<Etcd>),
    Cluster(Box<Cluster<3>>),
    Redis(Box<Redis>),
    Watched(Box<(Redis, Sentinel)>),
    RedisCluster(Box<RedisCluster>),
    /// The directory of locks in files.
    Files(Folder),
}

impl Server {
    pub(crate) fn start(backend: Backend) -> Self {
        match backend {
            Backend::Memory => Self::Memory(MemoryStore::new()),
            Backend::Etcd => Self::Etcd(Box::new(Etcd::start())),
            Backend::Redis(Topology::OneServer) => Self::Redis(Box::new(Redis::start())),
            Backend::Redis(Topology::Sentinel) => {
                let master = Redis::start();
                let sentinel = Sentinel::start(Ipv4Addr::LOCALHOST, &master, "");
                Self::Watched(Box::new((master, sentinel)))
            }
            Backend::Redis(Topology::Cluster) => {
                // The nodes have the same ports at two addresses, and name the ports only.
                let options = ["--cluster-preferred-endpoint-type", "unknown-endpoint"];
                Self::RedisCluster(Box::new(RedisCluster::start_with(0, &options)))
            }
            Backend::File => Self::Files(Folder::in_memory()),
        }
    }

    /// The claims, queue entries and leases on the server, without the records that expire anyway: those of the last token and
    /// of aborted attempts.
    pub(crate) fn left(&self) -> Vec<String> {
        match self {
            Self::Memory(store) => {
                let manager = LockManager::builder().backend(store.link()).build().wait().unwrap();
                let locks = manager.list("").wait().unwrap();
                locks.iter().filter(|lock| lock.waiters + lock.holders.len() > 0).map(|lock| lock.key.clone()).collect()
            }
            Self::Etcd(etcd) => left_on(etcd),
            Self::Cluster(cluster) => left_on(&cluster.members[0]),
            Self::Redis(redis) => left_at([&**redis]),
            Self::Watched(watched) => left_at([&watched.0]),
            Self::RedisCluster(cluster) => left_at(cluster.nodes()),
            Self::Files(folder) => {
                // A manager sweeps when it begins, if the last sweep was long ago. This one has no lease.
                let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
                // There is none if no manager has begun.
                if let Ok(slots) = std::fs::File::options().write(true).open(folder.path().join("locks/slots")) {
                    slots.set_modified(long_ago).unwrap();
                }
                let _sweeping = LockManager::connect(self.url()).wait().unwrap();
                let leases = std::fs::read_dir(folder.path().join("locks/l")).unwrap();
                leases.map(|lease| lease.unwrap().file_name().to_string_lossy().into_owned()).collect()
            }
        }
    }

    /// The URL for a manager with a direct connection.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Memory(_) => panic!("a private store has no URL"),
            Self::Etcd(etcd) => etcd.url(),
            Self::Cluster(cluster) => cluster.url(),
            Self::Redis(redis) => redis.url(),
            Self::Watched(watched) => format!("redis+sentinel://{}/{NAME}", watched.1.host()),
            Self::RedisCluster(cluster) => cluster.url(),
            Self::Files(folder) => format!("file://{}/locks", folder.path().display()),
        }
    }
}

fn left_on(etcd: &Etcd) -> Vec<String> {
    let leases = etcd.leases().into_iter().map(|lease| format!("lease {lease}"));
    etcd.keys("").into_iter().chain(leases).collect()
}

fn left_at<'a>(servers: impl IntoIterator<Item = &'a Redis>) -> Vec<String> {
    let is_record = |key: &String| ["%clock:", "%lives:", "%gone:"].iter().any(|kind| key.contains(kind));
    servers.into_iter().flat_map(|server| server.keys("*")).filter(|key| !is_record(key)).collect()
}
