//! A backend that breaks one rule of the contract, which the judge of histories must detect.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use leasehold::backend::{
    AttemptId, Backend, BackendError, BoxFuture, Claim, Clock, ErrorKind, Event, Evict, Grant, Lease, LeaseId,
    LeaseScope, Result, SystemClock, Timestamp, Wait,
};
use leasehold::{Eviction, LockInfo};

/// The defect of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// No defect: the positive control.
    None,
    /// Every claim is granted.
    NoExclusion,
    /// The next claim is granted long before the lease has ended.
    LateLoss,
    /// All grants have the same epoch.
    RepeatedToken,
    /// Leases have ended when they are opened.
    DeadLease,
    /// There is always another event.
    EndlessEvents,
}

/// A small store of exclusive locks whose waiters poll.
#[derive(Debug)]
pub struct Broken {
    /// The name that it takes.
    pub kind: &'static str,
    defect: Defect,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: u64,
    held: HashMap<String, (AttemptId, LeaseId, Timestamp)>,
}

impl Broken {
    pub fn new(defect: Defect) -> Self {
        Self { kind: "broken", defect, state: Mutex::default() }
    }

    fn grant(&self, claim: &Claim) -> Option<Grant> {
        let mut state = self.state.lock().unwrap();
        let now = SystemClock.now();
        let limit = if self.defect == Defect::LateLoss { claim.lease.ttl / 8 } else { Duration::from_secs(3600) };
        let taken = state.held.get(&*claim.key).is_some_and(|(_, _, since)| now.since(*since) < limit);
        if taken && self.defect != Defect::NoExclusion {
            return None;
        }
        state.count += 1;
        state.held.insert(claim.key.to_string(), (claim.attempt, claim.lease.id, now));
        Some(Grant::new(claim, if self.defect == Defect::RepeatedToken { 1 } else { state.count }))
    }

    fn forget(&self, which: impl Fn(&AttemptId, &LeaseId) -> bool) -> BoxFuture<'_, Result<()>> {
        self.state.lock().unwrap().held.retain(|_, (attempt, lease, _)| !which(attempt, lease));
        Box::pin(async { Ok(()) })
    }
}

fn unsupported<T: Send + 'static>() -> BoxFuture<'static, Result<T>> {
    Box::pin(async { Err(BackendError::new(ErrorKind::Unsupported, "not here")) })
}

impl Backend for Broken {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        Box::pin(async move {
            let id = {
                let mut state = self.state.lock().unwrap();
                state.count += 1;
                LeaseId(state.count)
            };
            let ttl = if self.defect == Defect::DeadLease { Duration::ZERO } else { ttl };
            Ok(Lease::new(id, ttl, SystemClock.now(), scope))
        })
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        let now = SystemClock.now();
        let renewed = leases.iter().map(|lease| Ok(Lease::new(lease.id, lease.ttl, now, lease.scope)));
        let renewed = renewed.collect();
        Box::pin(async move { renewed })
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.forget(|_, held| *held == lease.id)
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        Box::pin(async move {
            loop {
                let grant = self.grant(claim);
                if grant.is_some() || wait == Wait::Never {
                    return Ok(grant);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        self.forget(|held, _| *held == claim.attempt)
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        self.forget(|held, _| *held == grant.attempt)
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        if self.defect == Defect::EndlessEvents {
            return Box::pin(async { Ok(Event::LeaseLost(LeaseId(u64::MAX))) });
        }
        Box::pin(std::future::pending())
    }

    fn inspect<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        unsupported()
    }

    fn list<'a>(&'a self, _prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        unsupported()
    }

    fn evict<'a>(&'a self, _key: &'a str, _evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        unsupported()
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
