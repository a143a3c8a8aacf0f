//! Locks on etcd.
//!
//! Each lock is a directory of claims, and the oldest one by create revision holds it, as for Go's `concurrency.Mutex` and
//! `etcdctl lock`, with which it excludes and queues.

mod acquire;
mod answer;
mod batch;
mod blockers;
mod claims;
mod connection;
mod endpoints;
mod error;
mod history;
mod inspect;
mod leases;
mod limits;
mod losses;
pub(crate) mod names;
mod numbers;
mod options;
mod pool;
mod proxy;
#[cfg(feature = "testing")]
pub(crate) mod sent;
#[cfg(test)]
mod tests;
#[cfg(feature = "etcd-tls")]
mod tls;
mod token;
mod txn;
mod value;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use self::batch::Batcher;
use self::blockers::Blockers;
use self::claims::{Claims, Releases};
use self::connection::Connection;
use self::leases::Sessions;
use self::losses::Losses;
use self::names::Names;
use self::options::FOREVER;
pub(crate) use self::options::{MIN_TTL, Options};
#[cfg(feature = "etcd-tls")]
pub(crate) use self::tls::Tls;
use super::{Backend, BackendError, BoxFuture, Claim, Clock, Event, Evict, Grant, Lease, Result};
use crate::info::{Eviction, LockInfo};

/// Locks on etcd.
pub(crate) struct Etcd {
    /// `None` once it was closed.
    shared: RwLock<Option<Arc<Shared>>>,
    events: tokio::sync::Mutex<UnboundedReceiver<Event>>,
    tasks: [AbortHandle; 3],
}

/// What the tasks see too. They hold it weakly, so that it ends with the last user.
struct Shared {
    names: Names,
    connection: Arc<Connection>,
    clock: Arc<dyn Clock>,
    /// Who we are among managers, in our metadata.
    manager: String,
    retry_interval: Duration,
    sessions: Sessions,
    claims: Arc<Claims>,
    batcher: Batcher,
    releases: Arc<Releases>,
    blockers: Blockers,
    losses: Losses,
    events: UnboundedSender<Event>,
    closed: AtomicBool,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.shared.read();
        f.debug_struct("Etcd").field("connection", &shared.as_ref().map(|shared| &shared.connection)).finish()
    }
}

impl Etcd {
    /// Connects, and sees whether the server answers within the timeout.
    pub(crate) async fn connect(mut options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        options.timeout = options.timeout.min(FOREVER);
        let (prefix, retry_interval) = (options.prefix.clone(), options.retry_interval);
        let connection = pool::connect(options, &handle).await?;
        Ok(Self::new(connection, prefix, retry_interval, clock, handle))
    }

    /// Uses a client that the user has made, and never closes it.
    pub(crate) fn with_client(
        client: etcd_client::Client,
        prefix: String,
        timeout: Duration,
        retry_interval: Duration,
        clock: Arc<dyn Clock>,
        handle: Handle,
    ) -> Self {
        let connection = pool::inject(client, timeout.min(FOREVER), &handle);
        Self::new(connection, prefix, retry_interval, clock, handle)
    }

    fn new(
        connection: Arc<Connection>,
        prefix: String,
        retry_interval: Duration,
        clock: Arc<dyn Clock>,
        handle: Handle,
    ) -> Self {
        let (events, receiver) = unbounded_channel();
        let (sink, notices) = unbounded_channel();
        let claims = Arc::new(Claims::default());
        let shared = Arc::new(Shared {
            batcher: Batcher::new(connection.clone(), claims.clone(), handle.clone()),
            claims,
            names: Names::new(prefix),
            connection,
            clock,
            manager: format!("{:016x}", rand::random::<u64>()),
            retry_interval: retry_interval.clamp(Duration::from_millis(10), FOREVER),
            sessions: Sessions::default(),
            releases: Arc::default(),
            blockers: Blockers::default(),
            losses: Losses::new(sink),
            events,
            closed: AtomicBool::new(false),
        });
        let tasks = losses::start(&shared, notices, &handle);
        Self { shared: RwLock::new(Some(shared)), events: tokio::sync::Mutex::new(receiver), tasks }
    }

    /// Returns what all calls need, unless it was closed.
    fn open_shared(&self) -> Result<Arc<Shared>> {
        self.shared.read().clone().ok_or_else(error::closed)
    }

    #[cfg(test)]
    fn shared(&self) -> Arc<Shared> {
        self.open_shared().unwrap()
    }

    fn stop(&self) {
        // Others may have the same connection: this one lets go of it.
        let Some(shared) = self.shared.write().take() else { return };
        shared.closed.store(true, Ordering::Release);
        shared.losses.end(shared.connection.hub());
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Returns whether calls are still welcome.
    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more only at the end.
        let _ = self.events.send(event);
    }
}

impl Backend for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn min_ttl(&self) -> Duration {
        MIN_TTL
    }

    fn open(&self, ttl: Duration, own: bool) -> BoxFuture<'_, Result<Lease>> {
        async move { self.open_shared()?.open(ttl, own).await }.boxed()
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        async move {
            let shared = match self.open_shared() {
                Ok(shared) => shared,
                Err(closed) => return vec![Err(closed); leases.len()],
            };
            let third = leases.iter().map(|lease| lease.ttl / 3).min().unwrap_or_default();
            let limit = third.mul_f64(0.9).min(shared.connection.timeout());
            join_all(leases.iter().map(|lease| shared.renew(lease, limit))).await
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        async move { self.open_shared()?.revoke(lease.id).await }.boxed()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: bool) -> BoxFuture<'a, Result<Option<Grant>>> {
        async move { self.open_shared()?.acquire(claim, wait).await }.boxed()
    }

    fn settle<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        async move { self.open_shared()?.settle(claim).await }.boxed()
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        // Before the first poll, so that a claim which is sent before this knows of it.
        if let Ok(shared) = self.open_shared() {
            shared.give_up(grant);
        }
        async move { self.open_shared()?.release(grant).await }.boxed()
    }

    fn claim_name(&self, grant: &Grant) -> Option<Vec<u8>> {
        self.open_shared().ok()?.claim_name(grant)
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        async move {
            match self.events.lock().await.recv().await {
                Some(event) => Ok(event),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        async move { self.open_shared()?.inspect(key).await }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        async move { self.open_shared()?.list(prefix).await }.boxed()
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        async move { self.open_shared()?.evict(key, evict).await }.boxed()
    }

    fn outage(&self) -> Option<BackendError> {
        self.shared.read().as_ref().and_then(|shared| shared.connection.outage())
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.open_shared()?.ping().await }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.stop();
            Ok(())
        }
        .boxed()
    }
}
