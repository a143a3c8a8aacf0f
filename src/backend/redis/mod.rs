//! Locks on Redis, one server.
//!
//! # On the server
//!
//! The lock of a key is a string named by the prefix (`lock:` by default) and the key, as other clients' locks are: redis-py's,
//! redsync's, rslock's, node-redlock's, which take it with `SET … NX PX`, delete it if it has their word, and so exclude ours
//! and are excluded. So are python-redis-lock's, whose waiters a list wakes, `lock-signal:…`, to which we write only if told to. The
//! value is one word for an exclusive hold, see [`value`], and `shared:1:<epoch>` while it is shared. Beside it, in its slot, there
//! are keys named `{tag}%<kind>:<name of the lock>`, see [`names`]:
//!
//! | kind | what | lives |
//! | --- | --- | --- |
//! | `fence` | the last epoch granted, as text | a week after the last grant |
//! | `queue` | sorted set of the words of those who wait, in their order | 10 s after the last change |
//! | `lives` | the same, by when each is taken for dead, in ms of the server's time | 10 s after the last change |
//! | `readers` | sorted set of the words of those who share, by the end of each one's time | as long as the longest |
//! | `gone` | sorted set of `<manager>:<attempt>` that were settled, by when a copy cannot come any more | as long as the longest |
//!
//! A manager listens on the channel `<prefix>%wake:<manager>`. All is changed by five scripts only, by the server's clock.
//!
//! # Leases
//!
//! Redis has none: each hold has a time of its own, its key's. A lease is what holds have in common on this side, so to open one
//! needs no I/O, and revoking one releases what is on it. A renewal renews each hold on it and counts from its beginning; while
//! nothing is held there is nothing to be proven, and an idle manager sends nothing. A hold that is found gone is told of by
//! itself ([`ClaimLost`](crate::backend::Event::ClaimLost)), and its lease goes on; if that was for this hold alone, the lease is
//! lost. So an isolated hold differs from others in name only, and `force_unlock` never takes others along.
//!
//! A grant is dated from when its request was sent, so its time ends no sooner than that plus its TTL; if a renewal of its lease
//! has begun since, which did not know of the hold and may promise more, the grant gets a [`Limit`] of its own.
//! So does a hand-over by message: the server gives it 2 s at most. It is confirmed in the background when it has lasted for some
//! time, and before it is returned if less than half of that is left.

mod attempt;
mod batch;
mod claims;
mod connection;
mod error;
mod holds;
mod inspect;
mod names;
mod options;
mod polling;
mod pubsub;
mod replicas;
mod requests;
mod scripts;
#[cfg(feature = "testing")]
pub(crate) mod sent;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinHandle};

use self::batch::Batch;
use self::claims::Claims;
use self::connection::SharedConnection;
use self::holds::Unconfirmed;
use self::names::Names;
pub(crate) use self::names::side;
pub(crate) use self::options::{Address, Server, Target, Tls};
use self::polling::Polling;
use self::pubsub::Subscription;
use self::replicas::Replicas;
use self::scripts::Scripts;
use super::{Backend, BackendError, BoxFuture, Claim, Clock, Event, Evict, Grant, Lease, Result};
use crate::info::{Eviction, LockInfo};

/// Longer than anybody waits, and short enough to be added to a time.
const EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How to reach Redis.
#[derive(Debug)]
pub(crate) struct Options {
    /// Which server.
    pub(crate) target: Target,
    /// What the names of all locks begin with.
    pub(crate) prefix: String,
    /// How long connecting may take.
    pub(crate) timeout: Duration,
    /// How many replicas have to have a lock.
    pub(crate) min_replicas: u32,
    /// Whether python-redis-lock's waiters are woken.
    pub(crate) signal_lists: bool,
}

/// Locks on Redis.
pub(crate) struct Redis {
    shared: Arc<Shared>,
    /// `None` once it was closed.
    subscription: Mutex<Option<Arc<Subscription>>>,
    events: tokio::sync::Mutex<UnboundedReceiver<Event>>,
    tasks: Tasks,
}

/// Background tasks, which end with this.
#[derive(Default)]
struct Tasks(Vec<AbortHandle>);

impl Tasks {
    fn add(&mut self, task: JoinHandle<()>) {
        self.0.push(task.abort_handle());
    }

    fn end(&self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the tasks see too. They hold it weakly, so that it ends with the last user.
struct Shared {
    names: Names,
    connection: Arc<Batch>,
    replicas: Option<Replicas>,
    clock: Arc<dyn Clock>,
    handle: Handle,
    /// Who we are among managers.
    manager: u64,
    channel: String,
    claims: Arc<Claims>,
    looks: Arc<Polling>,
    unconfirmed: Unconfirmed,
    events: UnboundedSender<Event>,
    closed: AtomicBool,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("connection", &self.shared.connection).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects, and sees whether the server answers within the timeout.
    pub(crate) async fn connect(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        let limit = options.timeout.min(EVER);
        let server = options.target.to_string();
        let connecting = Self::start(options, clock, handle);
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(error::no_answer(&server, limit)))
    }

    async fn start(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        let Options { target, prefix, timeout, min_replicas, signal_lists } = options;
        let names = Names::new(prefix);
        let manager = rand::random::<u64>();
        let scripts = Scripts { channels: names.channels(), signals: signal_lists };
        let (claims, looks) = (Arc::<Claims>::default(), Arc::<Polling>::default());
        let connect = |claims: &Arc<Claims>, looks: &Arc<Polling>| {
            let (target, scripts) = (target.clone(), scripts.clone());
            Arc::new(Batch::new(target, scripts, timeout, clock.clone(), claims.clone(), looks.clone()))
        };
        let (connection, line) = (connect(&claims, &looks), SharedConnection::to(&target, &handle).await?);
        let link = connection.open(&line).await?;
        let mut tasks = Tasks::default();
        let replicas = match min_replicas {
            0 => None,
            wanted => {
                let (apart, line) = (connect(&Arc::default(), &Arc::default()), Arc::<SharedConnection>::default());
                let link = apart.open(&line).await?;
                tasks.add(handle.spawn(apart.clone().run(line, link)));
                let (replicas, confirming) = Replicas::new(apart, wanted, timeout, clock.clone());
                tasks.add(handle.spawn(confirming));
                Some(replicas)
            }
        };
        let (events, receiver) = unbounded_channel();
        let shared = Arc::new(Shared {
            channel: format!("{}{manager:016x}", scripts.channels),
            names,
            connection,
            replicas,
            clock,
            handle: handle.clone(),
            manager,
            claims,
            looks,
            unconfirmed: Unconfirmed::default(),
            events,
            closed: AtomicBool::new(false),
        });
        let subscription = Subscription::to(&target, &handle).await?;
        let weak = || Arc::downgrade(&shared);
        tasks.add(handle.spawn(shared.connection.clone().run(line, link)));
        tasks.add(handle.spawn(holds::look(weak(), shared.looks.clone())));
        tasks.add(handle.spawn(holds::confirm(weak(), shared.unconfirmed.grown())));
        let subscribed = Mutex::new(Some(subscription.clone()));
        // Whatever becomes of the rest, its drop cleans up.
        let redis = Self { shared, subscription: subscribed, events: tokio::sync::Mutex::new(receiver), tasks };
        subscription.add(&redis.shared).await?;
        Ok(redis)
    }

    /// Returns what all calls need, unless it was closed.
    fn open_shared(&self) -> Result<&Arc<Shared>> {
        if self.shared.closed.load(Ordering::Acquire) { Err(error::closed()) } else { Ok(&self.shared) }
    }

    fn stop(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.tasks.end();
        if let Some(subscription) = self.subscription.lock().take() {
            subscription.remove(&self.shared);
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn tell(&self, event: Event) {
        // Nobody listens any more only at the end.
        let _ = self.events.send(event);
    }
}

impl Backend for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn open(&self, ttl: Duration, own: bool) -> BoxFuture<'_, Result<Lease>> {
        async move {
            let shared = self.open_shared()?;
            shared.connection.serve_ttl(ttl);
            Ok(shared.claims.open(ttl, !own, shared.clock.now()))
        }
        .boxed()
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        async move {
            match self.open_shared() {
                Ok(shared) => shared.renew(leases).await,
                Err(closed) => vec![Err(closed); leases.len()],
            }
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
        async move { self.open_shared()?.settle(claim.attempt).await }.boxed()
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        async move { self.open_shared()?.release(grant.attempt).await }.boxed()
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
        self.shared.connection.outage()
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.open_shared()?.connection.command(redis::cmd("PING")).await.map(drop) }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.stop();
            Ok(())
        }
        .boxed()
    }
}
