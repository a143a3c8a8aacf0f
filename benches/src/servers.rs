//! The servers, each started anew for one measurement.

use std::time::Duration;

use support::clusters::RedisCluster;
use support::etcd::{Etcd, metric};
use support::folder::Folder;
use support::redis::Redis;

use crate::rows::Store;
use crate::{Result, cpu};

/// A server that runs until this is dropped.
pub enum Started {
    Redis(Redis),
    Cluster(RedisCluster),
    Etcd(Box<Etcd>),
    Directory(Folder),
    Nothing,
}

impl Started {
    pub fn new(store: Store) -> Self {
        match store {
            Store::Redis => Self::Redis(Redis::start()),
            Store::Cluster => Self::Cluster(RedisCluster::start_with(0, &[])),
            Store::Etcd => Self::Etcd(Box::new(Etcd::start())),
            Store::File => Self::Directory(Folder::new()),
            Store::Memory => Self::Nothing,
        }
    }

    pub fn server(&self) -> Server {
        match self {
            Self::Redis(server) => Server::new(Store::Redis, server.address().to_string(), vec![server.process().id()]),
            Self::Cluster(cluster) => {
                let addresses: Vec<_> = cluster.nodes().iter().map(|node| node.address().to_string()).collect();
                let processes = cluster.nodes().iter().map(|node| node.process().id()).collect();
                Server::new(Store::Cluster, addresses.join(","), processes)
            }
            Self::Etcd(server) => Server::new(Store::Etcd, server.endpoint(), vec![server.process().id()]),
            Self::Directory(folder) => Server::new(Store::File, folder.path().display().to_string(), Vec::new()),
            Self::Nothing => Server::none(),
        }
    }
}

/// A server or a cluster, as the process that measures knows it.
#[derive(Clone, Debug)]
pub struct Server {
    pub store: Store,
    /// Of a cluster, those of its nodes, with commas between them. Of files, the path of a directory.
    pub address: String,
    pub processes: Vec<u32>,
}

impl Server {
    pub fn new(store: Store, address: String, processes: Vec<u32>) -> Self {
        Self { store, address, processes }
    }

    /// No server: locks in this process.
    pub fn none() -> Self {
        Self::new(Store::Memory, String::new(), Vec::new())
    }

    pub fn url(&self) -> String {
        match self.store {
            Store::Redis => format!("redis://{}", self.address),
            Store::Cluster => format!("redis+cluster://{}", self.address),
            Store::Etcd => format!("etcd://{}", self.address),
            Store::File => format!("file://{}/locks", self.address),
            Store::Memory => "memory://benchmark".to_owned(),
        }
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Result<Option<Duration>> {
        if self.processes.is_empty() {
            return Ok(None);
        }
        self.processes.iter().map(|process| cpu::used_by(*process)).sum::<Result<_>>().map(Some)
    }

    /// The number of requests that it has received: commands, those of scripts as well, or gRPC messages.
    pub fn requests(&self) -> Result<u64> {
        match self.store {
            Store::Redis | Store::Cluster => self.address.split(',').map(commands).sum(),
            Store::Etcd => Ok(metric(self.address.parse()?, "grpc_server_msg_received_total", &[])),
            Store::File | Store::Memory => Ok(0),
        }
    }
}

/// The number of commands that the Redis server at an address has received.
fn commands(address: &str) -> Result<u64> {
    let mut connection = redis::Client::open(format!("redis://{address}"))?.get_connection()?;
    let stats: String = redis::cmd("INFO").arg("stats").query(&mut connection)?;
    let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    Ok(line.ok_or("no total_commands_processed")?.trim().parse()?)
}
