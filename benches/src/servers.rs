//! The servers, each started anew for one measurement.

use std::process;
use std::time::Duration;

use support::etcd::{Etcd, metric};
use support::redis::Redis;

use crate::rows::Store;
use crate::{Result, cpu};

/// A server that runs until this is dropped.
pub enum Started {
    Redis(Redis),
    Etcd(Box<Etcd>),
    Nothing,
}

impl Started {
    pub fn new(store: Store) -> Self {
        match store {
            Store::Redis => Self::Redis(Redis::start()),
            Store::Etcd => Self::Etcd(Box::new(Etcd::start())),
            Store::Memory => Self::Nothing,
        }
    }

    pub fn server(&self) -> Server {
        match self {
            Self::Redis(server) => Server::new(Store::Redis, server.address().to_string(), server.process().id()),
            Self::Etcd(server) => Server::new(Store::Etcd, server.endpoint(), server.process().id()),
            Self::Nothing => Server::none(),
        }
    }
}

/// A server, as the process that measures knows it.
#[derive(Clone, Debug)]
pub struct Server {
    pub store: Store,
    pub address: String,
    pub process: u32,
}

impl Server {
    pub fn new(store: Store, address: String, process: u32) -> Self {
        Self { store, address, process }
    }

    /// No server: locks in this process.
    pub fn none() -> Self {
        Self::new(Store::Memory, String::new(), process::id())
    }

    pub fn url(&self) -> String {
        match self.store {
            Store::Redis => format!("redis://{}", self.address),
            Store::Etcd => format!("etcd://{}", self.address),
            Store::Memory => "memory://benchmark".to_owned(),
        }
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Result<Option<Duration>> {
        if self.store == Store::Memory { Ok(None) } else { cpu::used_by(self.process).map(Some) }
    }

    /// The number of requests that it has received: commands, those of scripts as well, or gRPC messages.
    pub fn requests(&self) -> Result<u64> {
        match self.store {
            Store::Redis => {
                let mut connection = redis::Client::open(self.url())?.get_connection()?;
                let stats: String = redis::cmd("INFO").arg("stats").query(&mut connection)?;
                let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
                Ok(line.ok_or("no total_commands_processed")?.trim().parse()?)
            }
            Store::Etcd => Ok(metric(self.address.parse()?, "grpc_server_msg_received_total", &[])),
            Store::Memory => Ok(0),
        }
    }
}
