//! The way from a lock to its server: there is one, or in a cluster one for each slot.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::attempt::Attempt;
use super::batch::Batch;
use super::names::{Name, SLOTS};
use super::requests::{PendingAnswer, Request};
use super::scripts::Op;
use super::serving::Serving;
use super::{answers, error};
use crate::backend::{BackendError, Completion, Result};

#[derive(Debug)]
pub(super) struct Router {
    /// The address, for errors.
    server: String,
    servers: Servers,
}

#[derive(Debug)]
enum Servers {
    One(Arc<Serving>),
    OfSlots(Slots),
}

/// The nodes of a cluster.
#[derive(Debug, Default)]
pub(super) struct Slots {
    map: RwLock<Map>,
    /// The shortest TTL in use.
    ttl: Mutex<Option<Duration>>,
}

/// Which node has which slot. What no node has is asked of the first one: its answer says more.
#[derive(Debug, Default)]
pub(super) struct Map {
    nodes: Vec<Arc<Serving>>,
    /// The place of each slot's node in the list; a slot after its end has the first one.
    of: Vec<u16>,
}

impl Map {
    pub(super) fn get(&self, slot: u16) -> Option<&Arc<Serving>> {
        self.nodes.get(usize::from(self.of.get(usize::from(slot)).copied().unwrap_or_default()))
    }

    pub(super) fn set(&mut self, slot: u16, node: &Arc<Serving>) {
        let place = self.nodes.iter().position(|known| Arc::ptr_eq(known, node)).unwrap_or_else(|| {
            self.nodes.push(node.clone());
            self.nodes.len() - 1
        });
        self.of.resize(usize::from(SLOTS), 0);
        self.of[usize::from(slot)] = place as u16;
    }

    /// Forgets the nodes that have no slot.
    pub(super) fn clean(&mut self) {
        let old = std::mem::take(self);
        for (slot, place) in old.of.iter().enumerate() {
            self.set(slot as u16, &old.nodes[usize::from(*place)]);
        }
    }
}

impl Slots {
    /// Changes the map. No request is added to a node meanwhile.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        change(&mut self.map.write())
    }

    /// The nodes that have slots.
    pub(super) fn nodes(&self) -> Vec<Arc<Serving>> {
        self.map.read().nodes.clone()
    }

    /// The shortest TTL in use.
    pub(super) fn ttl(&self) -> Option<Duration> {
        *self.ttl.lock()
    }
}

impl Router {
    pub(super) fn to_one(server: String, serving: Arc<Serving>) -> Arc<Self> {
        Arc::new(Self { server, servers: Servers::One(serving) })
    }

    pub(super) fn to_cluster(server: String) -> Arc<Self> {
        Arc::new(Self { server, servers: Servers::OfSlots(Slots::default()) })
    }

    /// The address, for errors.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// The nodes, in a cluster.
    pub(super) fn slots(&self) -> Option<&Slots> {
        match &self.servers {
            Servers::One(_) => None,
            Servers::OfSlots(slots) => Some(slots),
        }
    }

    /// The server of a lock. In a cluster it may be another one a moment later.
    pub(super) fn server_of(&self, name: &Name) -> Option<Arc<Serving>> {
        match &self.servers {
            Servers::One(serving) => Some(serving.clone()),
            Servers::OfSlots(slots) => slots.map.read().get(name.slot).cloned(),
        }
    }

    /// Whether this is the server of a lock.
    pub(super) fn is_at(&self, name: &Name, batch: &Arc<Batch>) -> bool {
        match &self.servers {
            Servers::One(_) => true,
            Servers::OfSlots(slots) => {
                slots.map.read().get(name.slot).is_some_and(|serving| Arc::ptr_eq(&serving.batch, batch))
            }
        }
    }

    /// Renews a hold, and waits for replicas if they have to confirm it. Returns whether the attempt still held the lock.
    pub(super) async fn renew(&self, attempt: &Arc<Attempt>, epoch: u64) -> Result<bool> {
        match self.server_of(&attempt.name).as_ref().and_then(|serving| serving.replicas.as_ref()) {
            Some(replicas) => replicas.renew(attempt, epoch).await,
            None => {
                let answer = self.request_one(Op::Renew(attempt.clone(), epoch)).await?;
                Ok(answers::found(&answer))
            }
        }
    }

    /// Whether replicas have to confirm locks.
    pub(super) fn has_replicas(&self) -> bool {
        match &self.servers {
            Servers::One(serving) => serving.replicas.is_some(),
            Servers::OfSlots(slots) => slots.map.read().nodes.iter().any(|serving| serving.replicas.is_some()),
        }
    }

    /// Calls `work` with the requests of a lock's server, which stays that of the lock meanwhile.
    fn with<T>(&self, name: &Name, work: impl FnOnce(&Batch) -> T) -> Option<T> {
        match &self.servers {
            Servers::One(serving) => Some(work(&serving.batch)),
            Servers::OfSlots(slots) => slots.map.read().get(name.slot).map(|serving| work(&serving.batch)),
        }
    }

    fn servers(&self) -> Vec<Arc<Serving>> {
        match &self.servers {
            Servers::One(serving) => vec![serving.clone()],
            Servers::OfSlots(slots) => slots.nodes(),
        }
    }

    /// Requests the lock of an attempt, unless such a request is pending.
    pub(super) fn acquire(&self, attempt: &Arc<Attempt>) {
        self.with(&attempt.name, |batch| batch.acquire(attempt));
    }

    /// Releases the hold of an attempt that was given up.
    pub(super) fn release(&self, attempt: Arc<Attempt>, tombstone: Duration, completion: Completion) {
        let name = attempt.name.clone();
        self.with(&name, |batch| batch.release(attempt, tombstone, completion));
    }

    /// A hold has begun.
    pub(super) fn track(&self, attempt: &Arc<Attempt>) {
        self.with(&attempt.name, |batch| batch.untracked().add_young(attempt));
    }

    /// Has the lock of an attempt read.
    pub(super) fn read(&self, attempt: &Arc<Attempt>) {
        self.with(&attempt.name, |batch| batch.untracked().add([attempt.clone()]));
    }

    /// Plans a poll of a waiter.
    pub(super) fn plan(&self, attempt: &Arc<Attempt>, at: Instant) {
        self.with(&attempt.name, |batch| batch.plan(attempt, at));
    }

    /// Requests one operation on a lock.
    pub(super) fn request_one(&self, op: Op) -> PendingAnswer {
        match op.name().cloned().and_then(|name| {
            let (request, answer) = Request::with_answer(op);
            self.with(&name, |batch| batch.add([request]))?;
            Some(answer)
        }) {
            Some(answer) => answer,
            None => PendingAnswer::never(),
        }
    }

    /// Requests these operations on locks. Returns their answers in the same order, each as soon as its server has answered.
    pub(super) fn request(&self, ops: Vec<Op>) -> Vec<PendingAnswer> {
        match &self.servers {
            Servers::One(serving) => serving.batch.request(ops),
            Servers::OfSlots(_) => ops.into_iter().map(|op| self.request_one(op)).collect(),
        }
    }

    /// Adapts to a TTL in use.
    pub(super) fn serve_ttl(&self, ttl: Duration) {
        match &self.servers {
            Servers::One(serving) => serving.batch.serve_ttl(ttl),
            Servers::OfSlots(slots) => {
                let mut shortest = slots.ttl.lock();
                *shortest = Some(shortest.map_or(ttl, |known| known.min(ttl)));
                slots.map.read().nodes.iter().for_each(|serving| serving.batch.serve_ttl(ttl));
            }
        }
    }

    /// Returns the reason why no server serves requests at present.
    pub(super) fn outage(&self) -> Option<BackendError> {
        match &self.servers {
            Servers::One(serving) => serving.batch.outage(),
            Servers::OfSlots(slots) => {
                let map = slots.map.read();
                let outages: Option<Vec<_>> = map.nodes.iter().map(|serving| serving.batch.outage()).collect();
                outages?.into_iter().next()
            }
        }
    }

    /// Whether a server answers.
    pub(super) async fn ping_any(&self) -> Result<()> {
        let servers = self.servers();
        let mut answers: FuturesUnordered<_> =
            servers.iter().map(|serving| serving.batch.command(redis::cmd("PING"))).collect();
        let mut outcome = Err(error::broken(&self.server));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) => return Ok(()),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    /// Whether all servers answer.
    pub(super) async fn ping_all(&self) -> Result<()> {
        let servers = self.servers();
        let answers = join_all(servers.iter().map(|serving| serving.batch.command(redis::cmd("PING")))).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// The requests of each server.
    pub(super) fn batches(&self) -> Vec<Arc<Batch>> {
        self.servers().iter().map(|serving| serving.batch.clone()).collect()
    }
}
