//! Locks on etcd.
//!
//! Each lock is a directory of claims, and the oldest one by create revision holds it, as for Go's `concurrency.Mutex` and
//! `etcdctl lock`, with which it excludes and queues.

mod acquire;
mod answer;
mod attempt;
mod auth_token;
mod batch;
mod blockers;
mod claims;
mod connection;
mod directory_watch;
#[cfg(feature = "cli")]
mod doctor;
mod endpoints;
mod error;
#[cfg(feature = "testing")]
pub(crate) mod fuzzing;
mod granted;
mod guards;
mod history;
mod inspect;
mod kind;
mod leases;
mod limits;
mod looks;
mod losses;
mod member;
pub(crate) mod names;
mod numbers;
mod observe;
mod options;
mod parts;
mod pool;
mod position;
mod proxy;
mod queue;
mod release;
mod releases;
mod session;
mod slots;
#[cfg(test)]
mod tests;
#[cfg(feature = "etcd-tls")]
mod tls;
mod txn;
mod value;
mod view;
mod wanted;
mod watch;
mod watched;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use parking_lot::RwLock;
use tokio::runtime::Handle;

use self::connection::Connection;
#[cfg(feature = "cli")]
pub(crate) use self::doctor::examine;
use self::options::FOREVER;
pub(crate) use self::options::{MIN_TTL, Options};
use self::parts::Parts;
pub(crate) use self::release::exists;
#[cfg(feature = "etcd-tls")]
pub(crate) use self::tls::Tls;
use super::events::Events;
use super::{
    Backend, BackendError, BoxFuture, BoxStream, Claim, Clock, Completion, Event, Evict, Features, Grant, Lease,
    LeaseScope, Result, Wait,
};
use crate::info::{Eviction, LockInfo};

/// Locks on etcd, of one manager.
pub(crate) struct Etcd {
    /// `None` once it was closed.
    parts: RwLock<Option<Arc<Parts>>>,
    events: Arc<Events>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.read();
        f.debug_struct("Etcd").field("connection", &parts.as_ref().map(|parts| &parts.connection)).finish()
    }
}

impl Etcd {
    /// Connects, and checks whether the server answers within the timeout.
    pub(crate) async fn connect(mut options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        options.timeout = options.timeout.min(FOREVER);
        let (prefix, retry_interval) = (options.prefix.clone(), options.retry_interval);
        let connection = pool::connect(options, &handle).await?;
        Ok(Self::new(connection, prefix, retry_interval, clock))
    }

    /// Uses a client that was made by the user, and never closes it.
    pub(crate) fn with_client(
        client: etcd_client::Client,
        prefix: String,
        timeout: Duration,
        retry_interval: Duration,
        clock: Arc<dyn Clock>,
        handle: Handle,
    ) -> Self {
        Self::new(pool::inject(client, timeout.min(FOREVER), &handle), prefix, retry_interval, clock)
    }

    fn new(connection: Arc<Connection>, prefix: String, retry_interval: Duration, clock: Arc<dyn Clock>) -> Self {
        let parts = Parts::start(connection, prefix, retry_interval, clock);
        Self { events: parts.losses.events.clone(), parts: RwLock::new(Some(parts)) }
    }

    /// Returns the parts, unless it was closed.
    fn parts(&self) -> Result<Arc<Parts>> {
        self.parts.read().clone().ok_or_else(error::closed)
    }

    fn stop(&self) {
        if let Some(parts) = self.parts.write().take() {
            parts.stop();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Backend for Etcd {
    fn kind(&self) -> &'static str {
        "etcd"
    }

    fn min_ttl(&self) -> Duration {
        MIN_TTL
    }

    fn features(&self) -> Features {
        let mut features = Features::default();
        (features.limits, features.values) = (true, true);
        features
    }

    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        async move { self.parts()?.leases.open(ttl, scope).await }.boxed()
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        async move {
            match self.parts() {
                Ok(parts) => parts.leases.renew(leases).await,
                Err(closed) => vec![Err(closed); leases.len()],
            }
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        async move { self.parts()?.leases.revoke(lease.id).await }.boxed()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        async move { self.parts()?.acquirer.acquire(claim, wait).await }.boxed()
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        async move { self.parts()?.releaser.abort(claim).await }.boxed()
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        // Before the first poll, so that a claim which is sent before it can also make the release.
        if let Ok(parts) = self.parts() {
            parts.releaser.note(grant);
        }
        async move { self.parts()?.releaser.release(grant).await }.boxed()
    }

    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        match self.parts() {
            Ok(parts) => parts.releaser.begin(grant, completion),
            Err(_) => Some(completion),
        }
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        async { Ok(self.events.next().await) }.boxed()
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        async move { self.parts()?.inspector.inspect(key).await }.boxed()
    }

    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        match self.parts() {
            Ok(parts) => observe::states(parts, key).boxed(),
            Err(closed) => stream::once(std::future::ready(Err(closed))).boxed(),
        }
    }

    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        async move { wanted::wait(&*self.parts()?, grant).await }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        async move { self.parts()?.inspector.list(prefix).await }.boxed()
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        async move { self.parts()?.inspector.evict(key, evict).await }.boxed()
    }

    fn outage(&self) -> Option<BackendError> {
        self.parts.read().as_ref().and_then(|parts| parts.connection.outage())
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.parts()?.inspector.ping().await }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.stop();
            Ok(())
        }
        .boxed()
    }
}
