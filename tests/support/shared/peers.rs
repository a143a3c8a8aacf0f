//! The network between the members of a cluster, in which each member can be cut off.
//!
//! All members know one another by the same addresses, so a proxy in front of each would cut only the connections to it, not those it
//! makes. So each calls the others through a separate HTTP proxy, which knows both ends, and takes the connection through
//! a [`Proxy`] for just that pair.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::listener::Listener;
use super::proxy::Proxy;

/// A proxy for each pair of members, in both directions.
#[derive(Debug)]
pub struct Peers {
    fronts: Vec<Listener>,
    links: Arc<Links>,
}

#[derive(Debug)]
struct Links {
    ports: Vec<u16>,
    /// By caller, then by callee.
    proxies: Vec<Vec<Proxy>>,
}

impl Peers {
    /// Starts the network for members that listen for one another on these ports.
    pub fn start(ports: &[u16]) -> Self {
        let server = |port: &u16| Proxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)));
        let proxies = ports.iter().map(|_| ports.iter().map(server).collect()).collect();
        let links = Arc::new(Links { ports: ports.to_vec(), proxies });
        let front = |caller| {
            let links = links.clone();
            Listener::start(move |stream| {
                let links = links.clone();
                async move {
                    let _ = connect(stream, caller, links).await;
                }
            })
        };
        let fronts = (0..ports.len()).map(front).collect();
        Self { fronts, links }
    }

    /// The HTTP proxy through which a member calls the others.
    pub fn front(&self, member: usize) -> SocketAddr {
        self.fronts[member].address()
    }

    /// Cuts a member off from all others, silently and in both directions, until [`heal`](Self::heal).
    pub fn isolate(&self, member: usize) {
        for (caller, proxies) in self.links.proxies.iter().enumerate() {
            for (callee, proxy) in proxies.iter().enumerate() {
                if (caller == member) != (callee == member) {
                    proxy.cut();
                }
            }
        }
    }

    /// Connects all members again.
    pub fn heal(&self) {
        self.links.proxies.iter().flatten().for_each(Proxy::heal);
    }
}

/// Connects a client of the HTTP proxy to its target.
async fn connect(mut stream: TcpStream, caller: usize, links: Arc<Links>) -> Option<()> {
    // CONNECT host:port HTTP/1.1, more lines, and an empty one. Nothing follows before the answer.
    let (mut port, mut lines) = (None, BufReader::new(&mut stream).lines());
    while let Some(line) = lines.next_line().await.ok()?.filter(|line| !line.is_empty()) {
        if let Some(target) = line.strip_prefix("CONNECT ") {
            port = target.split(' ').next()?.rsplit(':').next()?.parse().ok();
        }
    }
    let callee = links.ports.iter().position(|known| Some(*known) == port)?;
    let mut link = TcpStream::connect(links.proxies[caller][callee].address()).await.ok()?;
    let _ = (stream.set_nodelay(true), link.set_nodelay(true));
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.ok()?;
    tokio::io::copy_bidirectional(&mut stream, &mut link).await.ok().map(drop)
}
