//! The nodes of a cluster, and the slots of each: one task of a manager keeps them up to date.
//!
//! A node tells where a slot is that it does not serve; and any node tells where all are, which is asked after each failure, and each
//! 30 s. A slot that moves takes its requests, its waiters and the tracking of its holds along.

mod known;
mod map;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use self::known::Known;
#[cfg(feature = "cli")]
pub(super) use self::map::ask;
pub(super) use self::map::{Member, Said};
use super::error;
use super::losses::Losses;
use super::names::SLOTS;
use super::opening::{Common, Opening};
use super::options::{Node, Server};
use super::orphans;
use super::redirect::Redirect;
use super::reports::{Membership, Report};
use super::requests::{Request, Way};
use super::router::{Map, Router};
use super::scripts::Scripts;
use super::serving::Serving;
use super::unconfirmed::Unconfirmed;
use crate::backend::backoff::Backoff;
use crate::backend::{BackendError, ErrorKind, Result};
use crate::process::report::debug;

/// How often the map is asked for at least.
const PERIOD: Duration = Duration::from_secs(30);

/// How long after an answer it is asked for again at the earliest.
const PAUSE: Duration = Duration::from_millis(100);

/// How long only the nodes of another cluster have to answer: this one was set up anew.
const DOUBT: Duration = Duration::from_secs(10);

/// The longest rest of requests that no node serves at present.
const REST: Duration = Duration::from_millis(500);

/// The nodes of one manager's cluster.
pub(super) struct Cluster {
    common: Common,
    server: Server,
    seeds: Vec<Node>,
    router: Arc<Router>,
    losses: Arc<Losses>,
    sender: UnboundedSender<(u64, Report)>,
    reports: UnboundedReceiver<(u64, Report)>,
    nodes: Vec<Known>,
    replicas: Vec<Member>,
    last_number: u64,
    /// Slots at nodes that are not known yet.
    unknown: Vec<(u64, u16)>,
    /// Calls that nodes without slots are to serve, which are asked for their ids.
    unidentified: HashMap<Node, Vec<Vec<Request>>>,
    /// Slots that have moved, and whose waiters and holds have not followed yet.
    moved: HashSet<u16>,
    /// When the map is asked for next.
    next: Instant,
    asking: Option<JoinHandle<Result<Said>>>,
    /// Since when only the nodes of another cluster answer.
    strangers: Option<Instant>,
}

impl Cluster {
    /// Asks the `seeds` for the map, and connects to a node at least.
    pub(super) async fn connect(
        common: Common,
        server: Server,
        seeds: Vec<Node>,
        router: Arc<Router>,
        losses: Arc<Losses>,
    ) -> Result<Self> {
        let (sender, reports) = unbounded_channel();
        let mut cluster = Self {
            common,
            server,
            seeds,
            router,
            losses,
            sender,
            reports,
            nodes: Vec::new(),
            replicas: Vec::new(),
            last_number: 0,
            unknown: Vec::new(),
            unidentified: HashMap::new(),
            moved: HashSet::new(),
            next: Instant::now() + PERIOD,
            asking: None,
            strangers: None,
        };
        let said = map::ask(cluster.server.clone(), cluster.seeds.clone()).await?;
        let mut connecting = FuturesUnordered::new();
        for master in &said.masters {
            let (tell, told) = oneshot::channel();
            cluster.add(master.clone(), Some(tell));
            connecting.push(told);
        }
        cluster.apply(said);
        let mut failure: Option<BackendError> = None;
        while let Some(told) = connecting.next().await {
            match told.unwrap_or_else(|_| Err(error::closed())) {
                Ok(()) => return Ok(cluster),
                // A permanent error says more.
                Err(error) if error.kind() != ErrorKind::Unreachable => failure = Some(error),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        Err(failure.unwrap_or_else(error::closed))
    }

    /// Keeps the map up to date without end.
    pub(super) async fn run(mut self) {
        loop {
            let is_asking = self.asking.is_some();
            let asked = async {
                match &mut self.asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((number, report)) = self.reports.recv() => {
                    self.handle(number, report);
                    while let Ok((number, report)) = self.reports.try_recv() {
                        self.handle(number, report);
                    }
                    self.resume();
                }
                said = asked => {
                    self.asking = None;
                    self.next = Instant::now() + PERIOD;
                    match said {
                        Ok(Ok(said)) if self.is_believed(&said) => self.apply(said),
                        Ok(Ok(_)) => {
                            debug!(target: "leasehold::redis", "only another cluster tells where slots are");
                            self.next = Instant::now() + REST;
                        }
                        Ok(Err(error)) => {
                            debug!(target: "leasehold::redis", "the slots are not known: {error}");
                            self.next = Instant::now() + 2 * PAUSE;
                        }
                        Err(_) => {}
                    }
                    self.settle();
                    self.resume();
                }
                () = sleep_until(self.next), if !is_asking => {
                    let nodes = self.askable();
                    self.asking = Some(self.common.handle.spawn(map::ask(self.server.clone(), nodes)));
                }
            }
        }
    }

    /// The servers to ask, the most promising first.
    fn askable(&self) -> Vec<Node> {
        let (sound, others): (Vec<_>, Vec<_>) =
            self.nodes.iter().partition(|node| node.opening.serving.batch.outage().is_none());
        let known = sound.into_iter().map(|node| &node.master.address);
        let replicas = self.replicas.iter().map(|replica| &replica.address);
        let rest = replicas.chain(&self.seeds).chain(others.into_iter().map(|node| &node.master.address));
        let mut nodes: Vec<Node> = Vec::new();
        for node in known.chain(rest) {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        nodes
    }

    fn ask_soon(&mut self) {
        self.next = self.next.min(Instant::now() + PAUSE);
    }

    /// Adds a node, and connects to it until it answers. The first outcome is told.
    fn add(&mut self, master: Member, mut tell: Option<oneshot::Sender<Result<()>>>) -> Arc<Serving> {
        self.last_number += 1;
        let number = self.last_number;
        let Common { names, manager, signals, handle, .. } = &self.common;
        let scripts = Scripts::of_node(&master.id, names, *manager, *signals);
        let membership =
            Membership { number, id: master.id.clone(), address: master.address.clone(), reports: self.sender.clone() };
        let target = map::target(&self.server, &master.address);
        let opening = Arc::new(Opening::new(&self.common, target, scripts, Some(membership)));
        let serving = opening.serving.clone();
        if let Some(ttl) = self.router.slots().and_then(|slots| slots.ttl()) {
            serving.batch.serve_ttl(ttl);
        }
        let (router, losses, opened) = (self.router.clone(), self.losses.clone(), opening.clone());
        let connecting = handle.spawn(async move {
            let mut backoff = Backoff::at_once();
            loop {
                let connected = opened.connect(&router, &losses).await;
                if let Err(error) = &connected {
                    opened.serving.batch.not_connected(error);
                }
                let is_connected = connected.is_ok();
                if let Some(tell) = tell.take() {
                    let _ = tell.send(connected);
                }
                if is_connected {
                    return opened.serving.batch.connected();
                }
                sleep(backoff.delay().max(Duration::from_millis(20))).await;
            }
        });
        self.nodes.push(Known { number, master, opening, connecting });
        serving
    }

    fn node(&self, number: u64) -> Option<&Known> {
        self.nodes.iter().find(|node| node.number == number)
    }

    fn at(&self, address: &Node) -> Option<Arc<Serving>> {
        // The last one, if a node was replaced by another one at its address.
        let node = self.nodes.iter().rev().find(|node| node.master.address == *address)?;
        Some(node.opening.serving.clone())
    }

    fn handle(&mut self, number: u64, report: Report) {
        match report {
            Report::Doubt => self.ask_soon(),
            Report::Moved(slot, to) => match self.at(&to) {
                Some(to) => self.moved(number, slot, &to),
                None => {
                    self.unknown.push((number, slot));
                    self.ask_soon();
                }
            },
            Report::Ask(to, requests) => match self.at(&to) {
                Some(node) => node.batch.add(requests),
                None => self.identify(number, to, requests),
            },
            Report::Confirm(redirect, hold) => self.confirm(number, redirect, hold),
            Report::Identified(address, id) => {
                let calls = self.unidentified.remove(&address).unwrap_or_default();
                match (self.at(&address), id) {
                    (Some(node), _) => node.batch.add(calls.into_iter().flatten()),
                    (None, Ok(id)) => self.add(Member { id, address }, None).batch.add(calls.into_iter().flatten()),
                    (None, Err(error)) => {
                        debug!(target: "leasehold::redis", "{error}");
                        calls.into_iter().for_each(|call| self.put_off(call));
                    }
                }
            }
            Report::Later(requests) => self.put_off(requests),
        }
    }

    /// The replicas of another node have to confirm a hold.
    fn confirm(&mut self, number: u64, redirect: Redirect, hold: Unconfirmed) {
        let (Redirect::Moved(to) | Redirect::Ask(to)) = &redirect;
        let replicas = self.at(to).and_then(|node| node.replicas.clone());
        match &redirect {
            Redirect::Moved(_) => self.ask_soon(),
            Redirect::Ask(to) if replicas.is_none() => self.identify(number, to.clone(), Vec::new()),
            Redirect::Ask(_) => {}
        }
        match replicas {
            Some(replicas) => replicas.request(hold),
            // It is asked for again, when the node is known.
            None => hold.fail(error::broken(self.router.server())),
        }
    }

    /// Asks a node that has no slots yet for its id: it is to serve these requests of another one.
    fn identify(&mut self, number: u64, address: Node, requests: Vec<Request>) {
        if let Some(waiting) = self.unidentified.get_mut(&address) {
            return waiting.push(requests);
        }
        self.unidentified.insert(address.clone(), vec![requests]);
        let (server, sender) = (self.server.clone(), self.sender.clone());
        self.common.handle.spawn(async move {
            let id = map::identify(&server, &address).await;
            // It ends with the manager.
            let _ = sender.send((number, Report::Identified(address, id)));
        });
    }

    /// The requests of a call are to be repeated at the node of their slot after a while.
    fn put_off(&self, mut requests: Vec<Request>) {
        requests.iter_mut().for_each(|request| request.rest(Way::Alone));
        let (Some(slots), Some(first)) = (self.router.slots(), requests.first()) else { return };
        let (kind, Some(slot)) = (first.op.kind(), first.op.slot()) else { return };
        slots.change(|map| {
            if let Some(node) = map.get(slot) {
                node.batch.requests().put_off(kind, requests, REST);
            }
        });
    }

    /// A slot has moved from one node to another.
    fn moved(&mut self, from: u64, slot: u16, to: &Arc<Serving>) {
        let (Some(slots), Some(from)) = (self.router.slots(), self.node(from)) else { return };
        let from = &from.opening.serving;
        slots.change(|map| {
            map.set(slot, to);
            follow(map, from.batch.requests().leave(slot));
        });
        self.moved.insert(slot);
    }

    /// The waiters of slots that have moved ask at their present nodes, and their holds are tracked there.
    fn resume(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        if moved.is_empty() {
            return;
        }
        self.common.claims.ears.ring_all();
        let leave = |node: &Known| node.opening.serving.batch.polling().leave(|slot| moved.contains(&slot));
        let waiting: Vec<_> = self.nodes.iter().flat_map(leave).collect();
        for attempt in &waiting {
            attempt.miss_messages();
            // To be asked for again even if the answer is on its way.
            self.router.plan(attempt, Instant::now());
            self.router.acquire(attempt);
        }
        let (router, claims) = (self.router.clone(), self.common.claims.clone());
        self.common.handle.spawn(async move { orphans::remove(&router, &claims, &waiting).await });
        for attempt in self.common.claims.held() {
            if moved.contains(&attempt.name.slot) {
                self.router.read(&attempt);
            }
        }
    }

    /// Whether a map is of this cluster. A server of another one may be at the address of a node that has gone; or this one was set up
    /// anew, if none of its nodes answers for a while.
    fn is_believed(&mut self, said: &Said) -> bool {
        let known = self.nodes.iter().map(|node| &node.master).chain(&self.replicas);
        let known: HashSet<_> = known.map(|member| &member.id).collect();
        if said.masters.iter().chain(&said.replicas).any(|member| known.contains(&member.id)) {
            self.strangers = None;
            return true;
        }
        self.strangers.get_or_insert_with(Instant::now).elapsed() >= DOUBT
    }

    /// A node has said which node has which slot.
    fn apply(&mut self, said: Said) {
        for master in &said.masters {
            if !self.nodes.iter().any(|node| node.master == *master) {
                self.add(master.clone(), None);
            }
        }
        let of = |master: &Member| self.nodes.iter().rfind(|node| node.master == *master);
        let (router, moved) = (self.router.clone(), &mut self.moved);
        let Some(slots) = router.slots() else { return };
        slots.change(|map| {
            let mut changes: HashMap<u16, &Known> = HashMap::new();
            for (first, last, place) in &said.ranges {
                let Some(node) = of(&said.masters[*place]) else { continue };
                for slot in (*first..=*last).filter(|slot| *slot < SLOTS) {
                    let known = map.get(slot);
                    if !known.is_some_and(|known| Arc::ptr_eq(known, &node.opening.serving)) {
                        changes.insert(slot, node);
                    }
                }
            }
            let mut left = Vec::new();
            for from in &self.nodes {
                let serving = &from.opening.serving;
                let to = |slot: u16| {
                    let is_from = map.get(slot).is_some_and(|known| Arc::ptr_eq(known, serving));
                    changes.get(&slot).filter(|_| is_from).map(|to| to.master.address.clone())
                };
                let (requests, later) = serving.batch.requests().leave_all(to);
                left.extend(requests);
                changes.retain(|slot, _| !later.contains(slot));
            }
            for (slot, node) in &changes {
                map.set(*slot, &node.opening.serving);
            }
            follow(map, left);
            map.clean();
            moved.extend(changes.into_keys());
        });
        // Before nodes are forgotten, with the waiters that they still have.
        self.resume();
        let serving = slots.nodes();
        self.nodes.retain(|node| {
            said.masters.contains(&node.master)
                || serving.iter().any(|known| Arc::ptr_eq(known, &node.opening.serving))
                || !node.opening.serving.batch.requests().is_idle()
        });
        self.replicas = said.replicas;
    }

    /// Slots that their nodes have sent to unknown ones go where the map says, or stay for a while.
    fn settle(&mut self) {
        for (number, slot) in std::mem::take(&mut self.unknown) {
            let Some(from) = self.node(number).map(|node| node.opening.serving.clone()) else { continue };
            let at = self.router.slots().and_then(|slots| slots.change(|map| map.get(slot).cloned()));
            match at {
                Some(to) if !Arc::ptr_eq(&to, &from) => self.moved(number, slot, &to),
                _ => from.batch.requests().stay(slot, REST),
            }
        }
    }
}

/// Requests of slots that have left their nodes go to those of the map.
fn follow(map: &Map, left: Vec<Request>) {
    for mut request in left {
        request.way = Way::Together;
        if let Some(node) = request.op.slot().and_then(|slot| map.get(slot)) {
            node.batch.add([request]);
        }
    }
}
