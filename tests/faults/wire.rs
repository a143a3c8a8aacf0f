//! The network between a manager and its servers.

use std::net::{Ipv4Addr, SocketAddr};

use leasehold::testing::MemoryLink;
use leasehold::{LockManager, LockManagerBuilder};

use crate::server::Server;
use support::eventually;
use support::proxy::Proxy;
use support::redis::Redis;

/// The network between a manager and its servers.
pub(crate) enum Wire {
    Link(MemoryLink),
    /// One for each server.
    Proxies(Vec<Proxy>),
}

impl Wire {
    /// Puts a network in front of the server, or of each. Also returns settings of a manager behind it.
    pub(crate) fn in_front_of(server: &Server) -> (Self, LockManagerBuilder) {
        match server {
            Server::Memory(store) => {
                let link = store.link();
                (Self::Link(link.clone()), LockManager::builder().backend(link))
            }
            Server::Etcd(etcd) => proxied("etcd", vec![Proxy::start(etcd.address())]),
            Server::Redis(redis) => proxied("redis", vec![Proxy::start(redis.address())]),
            Server::Watched(watched) => {
                let (master, sentinel) = &**watched;
                let proxies = [sentinel.address(), master.address()].map(Proxy::start);
                let name = format!("behind-{}", proxies[1].address().port());
                sentinel.watch(&name, proxies[1].address());
                // One for commands and one for messages: later connections are those of managers.
                eventually("the sentinel is connected", || (proxies[1].connections() == 2).then_some(()));
                let url = format!("redis+sentinel://{}/{name}", proxies[0].address());
                (Self::Proxies(proxies.into()), LockManager::builder().url(url))
            }
            Server::RedisCluster(cluster) => {
                let [a, b, c] = [(); 3].map(|()| rand::random_range(1..255));
                let host = Ipv4Addr::new(127, a, b, c);
                let proxy =
                    |node: &Redis| Proxy::start_at(SocketAddr::from((host, node.address().port())), node.address());
                proxied("redis+cluster", cluster.nodes().iter().map(proxy).collect())
            }
            Server::Cluster(_) => panic!("in front of which member?"),
            Server::Files(_) => panic!("no network"),
        }
    }

    pub(crate) fn cut(&self) {
        match self {
            Self::Link(link) => link.partition(),
            Self::Proxies(_) => self.each(Proxy::cut),
        }
    }

    pub(crate) fn heal(&self) {
        match self {
            Self::Link(link) => link.heal(),
            Self::Proxies(_) => self.each(Proxy::heal),
        }
    }

    fn proxies(&self) -> &[Proxy] {
        let Self::Proxies(proxies) = self else { panic!("no proxy in memory") };
        proxies
    }

    /// The proxy of the only server.
    pub(crate) fn proxy(&self) -> &Proxy {
        let [proxy] = self.proxies() else { panic!("of which server?") };
        proxy
    }

    /// Calls this for the proxy of each server.
    pub(crate) fn each(&self, fault: impl Fn(&Proxy)) {
        self.proxies().iter().for_each(fault);
    }

    /// The number of open connections to all servers.
    pub(crate) fn connections(&self) -> usize {
        self.proxies().iter().map(Proxy::connections).sum()
    }
}

fn proxied(scheme: &str, proxies: Vec<Proxy>) -> (Wire, LockManagerBuilder) {
    let hosts: Vec<_> = proxies.iter().map(|proxy| proxy.address().to_string()).collect();
    let url = format!("{scheme}://{}", hosts.join(","));
    (Wire::Proxies(proxies), LockManager::builder().url(url))
}
