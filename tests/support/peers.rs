//! The network between the members of a cluster, in which each member can be cut off.
//!
//! All members know one another by the same addresses, so one proxy in front of each would cut only what is said to it. Each of
//! these addresses is a front that asks the kernel which member is calling, and connects it through a proxy for just that pair.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::proxy::Proxy;

/// The id of a process that may be started again.
pub type ProcessId = Arc<AtomicU32>;

/// A proxy for each pair of members, in both directions.
#[derive(Debug)]
pub struct Peers {
    fronts: Vec<SocketAddr>,
    /// By caller, then by callee.
    links: Arc<Vec<Vec<Proxy>>>,
    ended: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Peers {
    /// Starts the network in front of members, given where each listens for the others and what its process id is, or will be.
    pub fn start(members: Vec<(SocketAddr, ProcessId)>) -> Self {
        let (listening, processes): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        let links = listening.iter().map(|_| listening.iter().copied().map(Proxy::start).collect()).collect();
        let links: Arc<Vec<Vec<Proxy>>> = Arc::new(links);
        let (ended, mut is_ended) = watch::channel(false);
        let (ready, addresses) = std::sync::mpsc::channel();
        let between = links.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for callee in 0..between.len() {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                    ready.send(listener.local_addr().unwrap()).unwrap();
                    tokio::spawn(accept(listener, callee, between.clone(), processes.clone()));
                }
                let _ = is_ended.wait_for(|ended| *ended).await;
            });
        });
        let fronts = listening.iter().map(|_| addresses.recv().unwrap()).collect();
        Self { fronts, links, ended, thread: Some(thread) }
    }

    /// Where the others find a member.
    pub fn front(&self, member: usize) -> SocketAddr {
        self.fronts[member]
    }

    /// Cuts a member off from all others, silently and in both directions, until [`heal`](Self::heal).
    pub fn isolate(&self, member: usize) {
        self.links_of(member).for_each(Proxy::cut);
    }

    /// Connects all members again.
    pub fn heal(&self) {
        self.links.iter().flatten().for_each(Proxy::heal);
    }

    /// Lets a member hear of everything late by this much.
    pub fn delay(&self, member: usize, delay: Duration) {
        for (caller, links) in self.links.iter().enumerate() {
            for (callee, link) in links.iter().enumerate() {
                let (requests, answers) = (callee == member, caller == member);
                link.delay(if requests { delay } else { Duration::ZERO }, if answers { delay } else { Duration::ZERO });
            }
        }
    }

    fn links_of(&self, member: usize) -> impl Iterator<Item = &Proxy> {
        let pairs = self.links.iter().enumerate().flat_map(move |(caller, links)| {
            links.iter().enumerate().filter(move |(callee, _)| caller == member || *callee == member)
        });
        pairs.map(|(_, link)| link)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.ended.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, callee: usize, links: Arc<Vec<Vec<Proxy>>>, processes: Vec<ProcessId>) {
    loop {
        let Ok((mut caller, from)) = listener.accept().await else { continue };
        let Ok(to) = caller.local_addr() else { continue };
        // Nobody else has business here; one that was just started, and is not known yet, comes again.
        let Some(number) = processes.iter().position(|process| has_socket(process.load(Ordering::SeqCst), from, to))
        else {
            continue;
        };
        let link = links[number][callee].address();
        tokio::spawn(async move {
            let Ok(mut callee) = TcpStream::connect(link).await else { return };
            let _ = (caller.set_nodelay(true), callee.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut caller, &mut callee).await;
        });
    }
}

/// Whether a process has the near end of the connection between these two.
fn has_socket(process: u32, near: SocketAddr, far: SocketAddr) -> bool {
    let Some(inode) = inode(near, far) else { return false };
    let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let socket = format!("socket:[{inode}]");
    files
        .map_while(Result::ok)
        .any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*socket))
}

/// The kernel's number of the socket at the near end.
fn inode(near: SocketAddr, far: SocketAddr) -> Option<String> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
        }
        SocketAddr::V6(_) => None,
    };
    let (near, far) = (hex(near)?, hex(far)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        // Number, local address, remote address, state, queues, timer, retransmits, user, timeout, inode.
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1) == Some(&&*near) && fields.get(2) == Some(&&*far))
            .then(|| fields.get(9).map(|inode| inode.to_string()))?
    })
}
