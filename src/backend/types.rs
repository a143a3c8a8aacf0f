//! The vocabulary of backends: leases, claims, grants, events.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Limit;
use crate::clock::Timestamp;
use crate::info::{ClaimId, Holder, Mode};

/// The backend's name for a lease: unique and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A time limit on the server, as it was last proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The TTL that the server granted, at least the one asked for.
    pub ttl: Duration,
    /// When its last proven renewal, or its opening, was *sent*.
    pub proven: Timestamp,
    /// Whether it is a session: it may carry any number of claims and lives on when they are released. Else it belongs to one
    /// claim and ends with it.
    pub session: bool,
}

impl Lease {
    /// Creates a lease.
    pub fn new(id: LeaseId, ttl: Duration, proven: Timestamp, session: bool) -> Self {
        Self { id, ttl, proven, session }
    }
}

/// The name of one try to get a hold: never used again, not even by another manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// An attempt to get a hold: what the backend puts in the queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The attempt, unique among those of its lease.
    pub attempt: AttemptId,
    /// What is to be locked, as the user wrote it: the backend adds its prefix and its own escaping.
    pub key: Arc<str>,
    /// Alone or with others.
    pub mode: Mode,
    /// The lease that it lives on.
    pub lease: Lease,
    /// Who asks.
    pub holder: Arc<Holder>,
    /// How often a waiter looks by itself where nobody will tell it: 100 ms by default.
    pub retry_interval: Duration,
}

impl Claim {
    /// Creates a claim.
    pub fn new(attempt: AttemptId, key: Arc<str>, mode: Mode, lease: Lease, holder: Arc<Holder>) -> Self {
        Self { attempt, key, mode, lease, holder, retry_interval: Duration::from_millis(100) }
    }
}

/// A claim that holds its key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The attempt that was granted.
    pub attempt: AttemptId,
    /// What is locked.
    pub key: Arc<str>,
    /// Alone or with others.
    pub mode: Mode,
    /// The fencing epoch, below 2^54.
    pub epoch: u64,
    /// The lease, with the latest proof known.
    pub lease: Lease,
    /// The backend's own note on the grant, for its release: etcd's create revision, for example.
    pub note: u64,
    /// Up to when the grant itself is certain, where that may be sooner than its lease.
    pub limit: Option<Limit>,
}

impl Grant {
    /// Creates the grant of a claim.
    pub fn new(claim: &Claim, epoch: u64) -> Self {
        Self {
            attempt: claim.attempt,
            key: claim.key.clone(),
            mode: claim.mode,
            epoch,
            lease: claim.lease,
            note: 0,
            limit: None,
        }
    }
}

/// Which claims an eviction is for, and what becomes of their leases: by default all that hold the key, with their leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evict {
    /// Whether a lease that carries other claims as well lives on.
    pub key_only: bool,
    /// Only these claims, if there is a list.
    pub only: Option<Vec<ClaimId>>,
}

impl Evict {
    /// Returns whether it is for this claim.
    pub fn is_for(&self, claim: &ClaimId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(claim))
    }
}

/// What a store tells of by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The server ended the lease.
    LeaseLost(LeaseId),
    /// The server removed the claim of this attempt, or has forgotten it, while its lease lives.
    ClaimLost(AttemptId),
}
