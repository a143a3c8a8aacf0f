//! A backend whose server is a map in this process. It passes the conformance suite.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use leasehold::backend::*;
use leasehold::{ClaimId, Eviction, FencingToken, Holder, LockInfo, Mode};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

/// The server.
#[derive(Debug)]
struct Store {
    state: Mutex<State>,
    granted: Notify,
    events: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    leases: HashMap<LeaseId, Lease>,
    /// The claims of all keys in the order in which they came; those that hold their keys with the epoch and the time of the grant.
    claims: Vec<(Claim, Option<(u64, SystemTime)>)>,
}

impl State {
    /// Ends leases that have expired and claims without a lease, and grants the claims that no earlier one of their key excludes.
    fn tidy(&mut self, now: Timestamp) {
        self.leases.retain(|_, lease| lease.proven + lease.ttl > now);
        self.claims.retain(|(claim, _)| self.leases.contains_key(&claim.lease.id));
        for n in 0..self.claims.len() {
            let (claim, granted) = &self.claims[n];
            let mut earlier = self.claims[..n].iter().filter(|(earlier, _)| earlier.key == claim.key);
            if granted.is_none() && !earlier.any(|(earlier, _)| [earlier.mode, claim.mode].contains(&Mode::Exclusive)) {
                self.last_id += 1;
                self.claims[n].1 = Some((self.last_id, SystemTime::now()));
            }
        }
    }

    fn held(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(|(_, granted)| granted.is_some()).map(|(claim, _)| claim)
    }

    fn info(&self, key: &str, now: Timestamp) -> Option<LockInfo> {
        let (first, granted) = self.claims.iter().find(|(claim, _)| *claim.key == *key)?;
        let mut info = LockInfo::new(key, first.mode);
        info.token = granted.map(|(epoch, _)| FencingToken::of_epoch(epoch));
        info.since = granted.map(|(_, since)| since);
        info.remaining = self.leases.get(&first.lease.id).map(|lease| (lease.proven + lease.ttl).since(now));
        for claim in self.held().filter(|claim| *claim.key == *key) {
            info.holders.push(Holder::clone(&claim.holder));
            info.claims.push(id(claim));
        }
        info.waiters = self.claims.iter().filter(|(claim, _)| *claim.key == *key).count() - info.holders.len();
        Some(info)
    }
}

fn id(claim: &Claim) -> ClaimId {
    ClaimId::new(claim.attempt.to_string())
}

fn lost() -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, "the lease or the claim no longer exists")
}

/// The link of one manager to a [`Store`].
#[derive(Debug)]
pub(crate) struct Link(Arc<Store>, tokio::sync::Mutex<broadcast::Receiver<Event>>);

impl Link {
    /// Connects two managers to one server.
    pub(crate) fn pair() -> (Self, Self) {
        let events = broadcast::Sender::new(1024);
        let store = Arc::new(Store { state: Mutex::default(), granted: Notify::new(), events });
        let link = |store: &Arc<Store>| Self(store.clone(), store.events.subscribe().into());
        (link(&store), link(&store))
    }

    /// Takes a step on the server.
    fn step<T: Send + 'static>(&self, step: impl FnOnce(&mut State, Timestamp) -> T) -> BoxFuture<'_, T> {
        let (mut state, now) = (self.0.state.lock(), SystemClock.now());
        let before = state.last_id;
        state.tidy(now);
        let result = step(&mut state, now);
        state.tidy(now);
        if state.last_id > before {
            self.0.granted.notify_waiters();
        }
        Box::pin(async { result })
    }
}

impl Backend for Link {
    fn kind(&self) -> &'static str {
        "map"
    }

    fn open(&self, ttl: Duration, _: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        self.step(|state, now| {
            state.last_id += 1;
            // Each claim gets a lease, which ends with it. With sessions there would be less to renew.
            let lease = Lease::new(LeaseId(state.last_id), ttl, now, LeaseScope::Claim);
            Ok(*state.leases.entry(lease.id).or_insert(lease))
        })
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        let renew = |state: &mut State, now, lease: &Lease| {
            let lease = state.leases.get_mut(&lease.id).ok_or_else(lost)?;
            lease.proven = now;
            Ok(*lease)
        };
        self.step(|state, now| leases.iter().map(|lease| renew(state, now, lease)).collect())
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.step(|state, _| Ok(state.leases.remove(&lease.id)).map(|_| ()))
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        Box::pin(async move {
            self.step(|state, _| state.claims.push((claim.clone(), None))).await;
            loop {
                let granted = self.0.granted.notified();
                let is_own = |(queued, _): &&(Claim, _)| queued.attempt == claim.attempt;
                let found = self.step(|state, _| state.claims.iter().find(is_own).map(|(_, granted)| *granted)).await;
                match found.ok_or_else(lost)? {
                    Some((epoch, _)) => return Ok(Some(Grant::new(claim, epoch))),
                    None if wait == Wait::Never => return self.abort(claim).await.map(|()| None),
                    None => {
                        claim.queued();
                        // Nothing else than a step ends the leases that have expired.
                        let _ = tokio::time::timeout(claim.retry_interval, granted).await;
                    }
                }
            }
        })
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        // Calls within a process do not arrive late. A server must also refuse the attempt from now on.
        self.revoke(&claim.lease)
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        self.step(|state, _| state.leases.remove(&grant.lease.id).map(|_| ()).ok_or_else(lost))
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        Box::pin(async { self.1.lock().await.recv().await.map_err(|_| lost()) })
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        self.step(|state, now| Ok(state.info(key, now)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        self.step(|state, now| {
            let keys: BTreeSet<_> =
                state.held().map(|claim| &claim.key).filter(|key| key.starts_with(prefix)).collect();
            Ok(keys.into_iter().filter_map(|key| state.info(key, now)).collect())
        })
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        self.step(|state, _| {
            let is_evicted = |claim: &&Claim| *claim.key == *key && evict.is_for(&id(claim));
            let evicted: Vec<_> = state.held().filter(is_evicted).cloned().collect();
            for claim in &evicted {
                state.leases.remove(&claim.lease.id);
                let _ = self.0.events.send(Event::LeaseLost(claim.lease.id));
            }
            let released = evicted.first().map(|claim| claim.key.to_string());
            let holders = evicted.iter().map(|claim| Holder::clone(&claim.holder)).collect();
            Ok(Eviction::new(holders, released.into_iter().collect()))
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.step(|_, _| Ok(()))
    }
}
