//! [`MemoryLink`]: a connection to a memory store that can be cut.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;

use super::gate::Gate;
use crate::backend::memory::Memory;
use crate::backend::{
    AttemptId, Backend, BackendError, BoxFuture, BoxStream, Claim, ErrorKind, Event, Evict, Features, Grant, Lease,
    LeaseScope, Result, Wait,
};
use crate::info::{Eviction, LockInfo};

/// The connection of one manager to a [`MemoryStore`](super::MemoryStore).
///
/// A [`Backend`] for [`LockManagerBuilder::backend`](crate::LockManagerBuilder::backend). Clones are the same link: pass one to the
/// manager and keep the other. Two managers need two links, as two processes have two connections.
#[derive(Clone, Debug)]
pub struct MemoryLink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Memory,
    /// The store's gate, shared by all its links.
    running: Gate,
    connected: Gate,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// The call whose next answer is lost; `Some(None)` is any call.
    lose_answer_of: Option<Option<Call>>,
    hold_back: bool,
    held_back: Option<(Claim, Wait)>,
    /// The grants that were released, and whose callers have not received the answer.
    released: HashSet<AttemptId>,
}

/// A method of [`Backend`], for [`MemoryLink::drop_next_answer_to`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Backend::open`].
    Open,
    /// [`Backend::renew`].
    Renew,
    /// [`Backend::revoke`].
    Revoke,
    /// [`Backend::acquire`].
    Acquire,
    /// [`Backend::abort`].
    Abort,
    /// [`Backend::release`].
    Release,
    /// [`Backend::inspect`].
    Inspect,
    /// The next state of [`Backend::observe`].
    Observe,
    /// [`Backend::wanted`].
    Wanted,
    /// [`Backend::list`].
    List,
    /// [`Backend::evict`].
    Evict,
    /// [`Backend::ping`].
    Ping,
}

impl MemoryLink {
    pub(super) fn new(memory: Memory, running: Gate) -> Self {
        let (connected, faults) = (Gate::open(), Mutex::default());
        Self(Arc::new(Inner { memory, running, connected, faults }))
    }

    /// Cuts the link: calls are not answered until [`heal`](Self::heal), and no event arrives.
    ///
    /// A call that is already waiting at the store, an acquire in the queue for example, continues there.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use std::time::Duration;
    /// # use leasehold::LockManager;
    /// # use leasehold::testing::MemoryStore;
    /// let store = MemoryStore::new();
    /// let link = store.link();
    /// let limit = Duration::from_millis(50);
    /// let manager = LockManager::builder().backend(link.clone()).timeout(limit).build().await?;
    /// link.partition();
    /// assert_eq!(manager.ping().await.unwrap_err().code(), "BACKEND");
    /// link.heal();
    /// assert!(manager.ping().await? < limit);
    /// # Ok(()) });
    /// ```
    pub fn partition(&self) {
        self.0.connected.set_open(false);
    }

    /// Restores the link: pending calls continue, and events arrive.
    pub fn heal(&self) {
        self.0.connected.set_open(true);
    }

    /// Loses the answer of the next call: the call takes effect, and its caller gets an
    /// [`Unreachable`](ErrorKind::Unreachable) error.
    pub fn drop_next_answer(&self) {
        self.0.faults.lock().lose_answer_of = Some(None);
    }

    /// Loses the answer of the next call of this method, see [`drop_next_answer`](Self::drop_next_answer).
    pub fn drop_next_answer_to(&self, call: Call) {
        self.0.faults.lock().lose_answer_of = Some(Some(call));
    }

    /// Delays the request of the next acquire in the network until [`deliver`](Self::deliver): its caller gets an
    /// [`Unreachable`](ErrorKind::Unreachable) error.
    pub fn hold_back_next_acquire(&self) {
        self.0.faults.lock().hold_back = true;
    }

    /// Delivers the request that was [held back](Self::hold_back_next_acquire), after its caller has received the error.
    ///
    /// Returns true if the request now holds the key or waits for it. This must not happen once the attempt has been
    /// [aborted](Backend::abort). Returns false if no request was
    /// held back.
    ///
    /// ```
    /// # leasehold::doctest(async {
    /// # use leasehold::LockManager;
    /// # use leasehold::testing::MemoryStore;
    /// let store = MemoryStore::new();
    /// let link = store.link();
    /// let manager = LockManager::builder().backend(link.clone()).build().await?;
    /// link.hold_back_next_acquire();
    /// // The first attempt fails and is aborted; another one acquires the lock.
    /// let guard = manager.lock("k").await?;
    /// assert!(!link.deliver()); // the late copy has no effect
    /// assert!(!guard.is_lost());
    /// # Ok(()) });
    /// ```
    pub fn deliver(&self) -> bool {
        let held_back = self.0.faults.lock().held_back.take();
        held_back.is_some_and(|(claim, wait)| self.0.memory.deliver(&claim, wait))
    }

    /// Sends a call over the link, and its answer back.
    async fn send<T>(&self, call: Call, sent: BoxFuture<'_, T>) -> Result<T> {
        let answer = self.0.connected.pass(Box::pin(self.0.running.pass(sent))).await;
        let mut faults = self.0.faults.lock();
        match faults.lose_answer_of {
            Some(lost) if lost.is_none_or(|lost| lost == call) => {
                faults.lose_answer_of = None;
                Err(BackendError::new(ErrorKind::Unreachable, "the test dropped the answer"))
            }
            _ => Ok(answer),
        }
    }

    /// Keeps the request, if the test has requested so.
    fn hold_back(&self, claim: &Claim, wait: Wait) -> bool {
        let mut faults = self.0.faults.lock();
        let ordered = std::mem::take(&mut faults.hold_back);
        if ordered {
            faults.held_back = Some((claim.clone(), wait));
        }
        ordered
    }
}

impl Backend for MemoryLink {
    fn kind(&self) -> &'static str {
        self.0.memory.kind()
    }

    fn features(&self) -> Features {
        self.0.memory.features()
    }

    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        Box::pin(async move { self.send(Call::Open, self.0.memory.open(ttl, scope)).await? })
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        Box::pin(async move {
            // The trait requires an answer within a third of the TTL.
            let limit = leases.iter().map(|lease| lease.ttl / 4).min().unwrap_or_default();
            let sent = self.send(Call::Renew, self.0.memory.renew(leases));
            let error = match tokio::time::timeout(limit, sent).await {
                Ok(Ok(answers)) => return answers,
                Ok(Err(lost)) => lost,
                Err(_) => BackendError::new(ErrorKind::Unreachable, "the memory store does not answer"),
            };
            leases.iter().map(|_| Err(error.clone())).collect()
        })
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.send(Call::Revoke, self.0.memory.revoke(lease)).await? })
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        Box::pin(async move {
            if self.hold_back(claim, wait) {
                return Err(BackendError::new(ErrorKind::Unreachable, "the test held the request back"));
            }
            self.send(Call::Acquire, self.0.memory.acquire(claim, wait)).await?
        })
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.send(Call::Abort, self.0.memory.abort(claim)).await? })
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let release = async {
                let answer = self.0.memory.release(grant).await;
                // The answer may get lost, and a repeated call must not find the grant lost then.
                let released = &mut self.0.faults.lock().released;
                if answer.is_err() && !released.contains(&grant.attempt) {
                    return answer;
                }
                released.insert(grant.attempt);
                Ok(())
            };
            let answer = self.send(Call::Release, release.boxed()).await?;
            self.0.faults.lock().released.remove(&grant.attempt);
            answer
        })
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        let event = self.0.running.pass(self.0.memory.next_event());
        Box::pin(self.0.connected.pass(Box::pin(event)))
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        Box::pin(async move { self.send(Call::Inspect, self.0.memory.inspect(key)).await? })
    }

    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        let next = async |mut states: BoxStream<'a, _>| {
            let state = self.send(Call::Observe, states.next().boxed()).await;
            Some((state.transpose()?.and_then(|state| state), states))
        };
        stream::unfold(self.0.memory.observe(key), next).boxed()
    }

    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.send(Call::Wanted, self.0.memory.wanted(grant)).await? })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        Box::pin(async move { self.send(Call::List, self.0.memory.list(prefix)).await? })
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        Box::pin(async move { self.send(Call::Evict, self.0.memory.evict(key, evict)).await? })
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.send(Call::Ping, self.0.memory.ping()).await? })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        // Not through the gates: closing is local to this side.
        self.0.memory.close()
    }
}
