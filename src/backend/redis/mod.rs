//! Locks on Redis: one server, a master that sentinels watch, or a cluster.
//!
//! # On the server
//!
//! The main key of a lock is a string. Its name is the prefix (`lock:` by default) and the user's key, as for the locks of other
//! client libraries: redis-py, redsync, rslock, node-redlock. They acquire it with `SET … NX PX` and delete it if it has their
//! value, so they exclude ours and are excluded. So does python-redis-lock, whose waiters wait for a list, `lock-signal:…`, which
//! is written only if the options ask for it. The value identifies the claim of an exclusive hold, see [`value`]; it is
//! `shared:2:<epoch>` while the lock is shared, and `limited:2:<epoch>` while it is a semaphore. Further keys in the same slot are named `{tag}%<kind>:<name of the lock>`, see
//! [`names`]:
//!
//! | kind | content | lives |
//! | --- | --- | --- |
//! | `q2` | sorted set of the waiters' claims, by their places in us; before them those to notify of the next change, see [`ears`], by the time at which each ends, in ms | 60 s after the last change; its waiters prolong it |
//! | `r2` | sorted set of the readers' claims, by the time at which each hold ends, in ms of the server's clock | as long as the longest hold |
//!
//! Two keys belong to all locks with the prefix, which must not be the beginning of another one: `{tag}%clock:<prefix>`, the last
//! epoch, and `{tag}%lives:<prefix>`, a sorted set of managers by the time at which the life of each ends. A place in a queue counts
//! while its manager is alive, which a waiting manager says once a second. A manager that has aborted attempts has
//! `{tag}%gone:<prefix><manager>`: tombstones, a sorted set of `<manager>:<attempt>` by the time until which copies may arrive, which
//! lives as long as the longest. Each command and each key of a script costs, so what excludes is one key, and what is rare is not a key
//! of each lock.
//!
//! In a cluster these keys exist once for each slot, `{tag}` being the smallest number in that slot, and a call has locks of one slot
//! only; see [`cluster`].
//!
//! A manager listens on the channel `<prefix>%wake:<manager>`, in a cluster on one for each node. Messages are hints: what they say is believed only if it is later than
//! what the server has answered. On the same connection the server reports changes of held locks, see [`tracking`]. Only the
//! [scripts](script) change these keys, by the server's clock.
//!
//! # Leases
//!
//! Redis has no leases: the TTL of a hold is that of its key. Here a lease is what holds have in common in this process, so opening
//! one needs no I/O, and revoking one releases its holds. A renewal renews each hold, and counts from the time at which it began;
//! while nothing is held there is nothing to prove, and an idle manager sends nothing. A hold that no longer exists is reported
//! alone ([`ClaimLost`](crate::backend::Event::ClaimLost)), and its lease goes on; a lease that was opened for this hold alone is
//! lost. So an isolated hold differs from others in name only, and `force_unlock` never releases other keys.
//!
//! A grant is dated from the time at which its request was sent, so it ends on the server no sooner than that plus its TTL. If a
//! renewal of its lease has begun since, which did not include the hold and may promise more, the grant gets a separate
//! [`Limit`](crate::backend::Limit). So does a handover by message, whose TTL on the server is at most 2 s. It is confirmed in the
//! background at a certain age, and before it is returned if less than half of it is left.

mod acquire;
mod answers;
mod attempt;
mod batch;
mod check;
mod claims;
mod client;
mod cluster;
mod confirmations;
mod connection;
#[cfg(feature = "cli")]
mod doctor;
mod ears;
mod election;
mod error;
#[cfg(feature = "testing")]
pub(crate) mod fuzzing;
mod in_flight;
mod inspect;
mod leases;
mod listening;
mod locator;
mod looks;
mod losses;
mod names;
mod observing;
mod opening;
mod options;
mod orphans;
mod place;
mod polling;
mod pubsub;
mod queues;
mod redirect;
mod release;
mod replicas;
mod reports;
mod requests;
mod requirements;
mod router;
mod script;
mod scripts;
mod sent;
mod sentinel;
mod sentinels;
mod serving;
mod stage;
#[cfg(test)]
mod tests;
mod tls;
mod tracking;
mod unconfirmed;
mod untracked;
mod value;
mod waiting;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::ready;
use futures::stream::{self, StreamExt};
use tokio::runtime::Handle;

use self::acquire::Acquires;
use self::claims::Claims;
use self::cluster::Cluster;
use self::confirmations::Confirmations;
#[cfg(feature = "cli")]
pub(crate) use self::doctor::examine;
use self::inspect::Inspector;
use self::leases::Leases;
use self::losses::Losses;
use self::names::Names;
pub(crate) use self::names::side;
use self::observing::Observers;
use self::opening::{Common, Opening, Tasks};
pub(crate) use self::options::{Address, Node, Options, Server, Target, Watched};
use self::release::Releases;
use self::router::Router;
use self::scripts::Scripts;
pub(crate) use self::tls::Tls;
use self::value::Writer;
use super::{
    Backend, BackendError, BoxFuture, BoxStream, Claim, Clock, Completion, Event, Evict, Features, Grant, Lease,
    LeaseScope, Result, Wait,
};
use crate::info::{Eviction, LockInfo};

/// Longer than any wait, and short enough to be added to a time.
const EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The extra time for connecting to report its own error, which says more than that of the time limit.
const GRACE: Duration = Duration::from_millis(50);

/// The backend of one manager.
pub(crate) struct Redis {
    router: Arc<Router>,
    acquires: Acquires,
    releases: Releases,
    leases: Leases,
    losses: Arc<Losses>,
    inspector: Inspector,
    observers: Observers,
    /// The only server; `None` of a cluster.
    opening: Option<Opening>,
    closed: AtomicBool,
    tasks: Tasks,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("router", &self.router).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects. Fails if the server does not answer within the time limit of the options.
    pub(crate) async fn connect(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        let limit = options.timeout.min(EVER);
        let server = options.target.to_string();
        let mut connecting = pin!(Self::start(options, clock, handle));
        // The limits of its parts begin before that of the whole, however long a foreign callback or the machine keeps this thread:
        // they know what is missing.
        if let Some(connected) = connecting.as_mut().now_or_never() {
            return connected;
        }
        tokio::time::timeout(limit + GRACE, connecting).await.unwrap_or_else(|_| Err(error::no_answer(&server, limit)))
    }

    async fn start(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        let Options { target, prefix, timeout, min_replicas, signal_lists: signals } = options;
        let (names, manager, claims) = (Names::new(prefix), rand::random::<u64>(), Arc::<Claims>::default());
        let common = Common {
            names: names.clone(),
            manager,
            signals,
            timeout,
            min_replicas,
            clock: clock.clone(),
            handle: handle.clone(),
            claims: claims.clone(),
        };
        let cluster = match &target {
            Target::Server(Server { address: Address::Cluster { nodes, .. }, .. }) => Some(nodes.clone()),
            _ => None,
        };
        let opening = match cluster {
            Some(_) => None,
            None => Some(Opening::new(&common, target.clone(), Scripts::new(&names, manager, signals), None)),
        };
        let router = match &opening {
            Some(opening) => Router::to_one(target.to_string(), opening.serving.clone()),
            None => Router::to_cluster(target.to_string()),
        };
        let releases = Releases::new(claims.clone(), router.clone(), handle.clone());
        let losses = Losses::new(router.clone(), releases.clone(), handle.clone());
        let confirmations = Confirmations::new(clock.clone(), router.clone(), losses.clone(), handle.clone());
        let tasks = Tasks::default();
        if let Some(opening) = &opening {
            opening.connect(&router, &losses).await?;
        }
        if let (Some(nodes), Target::Server(server)) = (cluster, target) {
            let cluster = Cluster::connect(common, server, nodes, router.clone(), losses.clone()).await?;
            tasks.add(handle.spawn(cluster.run()));
        }
        tasks.add(handle.spawn(confirmations.clone().run()));
        Ok(Self {
            leases: Leases::new(
                clock.clone(),
                claims.clone(),
                router.clone(),
                releases.clone(),
                losses.clone(),
                confirmations.clone(),
            ),
            inspector: Inspector::new(names.clone(), router.clone()),
            observers: Observers {
                names: names.clone(),
                manager,
                claims: claims.clone(),
                router: router.clone(),
                limit: timeout.min(EVER),
            },
            acquires: Acquires {
                names,
                writer: Writer::new(manager),
                clock,
                claims,
                router: router.clone(),
                confirmations,
            },
            router,
            releases,
            losses,
            opening,
            closed: AtomicBool::new(false),
            tasks,
        })
    }

    /// Returns the backend for a call, unless it was closed.
    fn live(&self) -> Result<&Self> {
        if self.closed.load(Ordering::Acquire) { Err(error::closed()) } else { Ok(self) }
    }

    fn stop(&self) {
        self.closed.store(true, Ordering::Release);
        self.tasks.end();
        if let Some(opening) = &self.opening {
            opening.stop();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Backend for Redis {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn features(&self) -> Features {
        Features { limits: true, values: true }
    }

    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        async move { Ok(self.live()?.leases.open(ttl, scope)) }.boxed()
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        async move {
            match self.live() {
                Ok(live) => live.leases.renew(leases).await,
                Err(closed) => vec![Err(closed); leases.len()],
            }
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        async move { self.live()?.leases.revoke(lease.id).await }.boxed()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        async move { self.live()?.acquires.acquire(claim, wait).await }.boxed()
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        async move { self.live()?.releases.abort(claim.attempt).await }.boxed()
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        async move { self.live()?.releases.release(grant.attempt).await }.boxed()
    }

    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        match self.live() {
            Ok(live) => live.releases.begin(grant.attempt, completion),
            Err(closed) => completion.complete(Err(closed)),
        }
        None
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        async move { Ok(self.losses.next().await) }.boxed()
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        async move { self.live()?.inspector.inspect(key).await }.boxed()
    }

    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        match self.live() {
            Ok(live) => live.observers.observe(key).boxed(),
            Err(closed) => stream::once(ready(Err(closed))).boxed(),
        }
    }

    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        async move { self.live()?.observers.wanted(grant.attempt).await }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        async move { self.live()?.inspector.list(prefix).await }.boxed()
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        async move { self.live()?.inspector.evict(key, evict).await }.boxed()
    }

    fn outage(&self) -> Option<BackendError> {
        self.router.outage()
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.live()?.router.ping_all().await }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.stop();
            Ok(())
        }
        .boxed()
    }
}
