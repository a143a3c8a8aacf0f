//! The vocabulary of backends: leases, claims, grants, events.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Limit;
use crate::clock::Timestamp;
use crate::info::{ClaimId, Holder, Mode};

/// The backend's id of a lease: unique and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseScope {
    /// A session: shared by any number of claims of one manager, and independent of each.
    Session,
    /// One claim: it ends with the claim.
    Claim,
}

/// A lease on the server, as of its last proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The id.
    pub id: LeaseId,
    /// The TTL that the server granted, at least the requested one.
    pub ttl: Duration,
    /// The time at which the last renewal that the server confirmed, or the request to open the lease, was *sent*.
    pub proven: Timestamp,
    /// Whether it is a session, or the lease of one claim.
    pub scope: LeaseScope,
}

impl Lease {
    /// Creates a lease.
    pub fn new(id: LeaseId, ttl: Duration, proven: Timestamp, scope: LeaseScope) -> Self {
        Self { id, ttl, proven, scope }
    }

    /// Returns whether the lease is a session.
    pub fn is_session(&self) -> bool {
        self.scope == LeaseScope::Session
    }
}

/// The id of one attempt to acquire a lock: never reused, not even by another manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// An attempt to acquire a lock, which becomes an entry of the key's queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The id of the attempt.
    pub attempt: AttemptId,
    /// The key as the user passed it; the backend adds the prefix and the escaping.
    pub key: Arc<str>,
    /// The requested mode.
    pub mode: Mode,
    /// How many claims may hold the key for this one to be granted, this one included; see [`Features::limits`]. A limited claim is
    /// shared.
    pub limit: Option<u32>,
    /// What the holder publishes, at most 1,024 bytes; see [`Features::values`].
    pub value: Option<Arc<str>>,
    /// The lease that the claim is bound to.
    pub lease: Lease,
    /// The description of this process, for other clients.
    pub holder: Arc<Holder>,
    /// How often to poll the server where notifications are not reliable: 100 ms by default.
    pub retry_interval: Duration,
    /// Where the backend keeps what it has derived from the key.
    pub(crate) memo: KeyMemo,
    /// When the server was heard to have queued it, for a caller that will ask.
    pub(crate) queueing: Queueing,
}

/// How long it took the server to say that a claim is queued. Empty if nobody will ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queueing(Option<Arc<(Instant, OnceLock<Duration>)>>);

impl Queueing {
    /// Of a claim that is sent now.
    pub(crate) fn begin() -> Self {
        Self(Some(Arc::new((Instant::now(), OnceLock::new()))))
    }

    pub(crate) fn note(&self) {
        if let Some(queueing) = &self.0 {
            let (sent, took) = &**queueing;
            took.get_or_init(|| sent.elapsed());
        }
    }

    /// The time between the claim and that answer, if there was one.
    pub(crate) fn took(&self) -> Option<Duration> {
        self.0.as_ref()?.1.get().copied()
    }
}

/// The memo of a claim's key, if it has one.
#[derive(Clone, Default)]
pub(crate) struct KeyMemo(pub(crate) Option<Arc<dyn Memo>>);

impl fmt::Debug for KeyMemo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMemo").finish_non_exhaustive()
    }
}

/// What lives as long as a manager uses a key.
pub(crate) trait Memo: Send + Sync {
    /// A place for what a backend has derived from the key.
    fn derived(&self) -> &OnceLock<Arc<dyn Any + Send + Sync>>;
}

impl Claim {
    /// Creates a claim.
    pub fn new(attempt: AttemptId, key: Arc<str>, mode: Mode, lease: Lease, holder: Arc<Holder>) -> Self {
        Self {
            attempt,
            key,
            mode,
            limit: None,
            value: None,
            lease,
            holder,
            retry_interval: Duration::from_millis(100),
            memo: KeyMemo::default(),
            queueing: Queueing::default(),
        }
    }

    /// Notes that the server has queued this claim: others hold the key, or are ahead.
    ///
    /// An [`acquire`](super::Backend::acquire) that waits calls this when it knows, so that at the end of its time
    /// [`try_for`](crate::LockRequest::try_for) can tell a key that is held from a server that does not answer. Later calls have no
    /// effect.
    pub fn queued(&self) {
        self.queueing.note();
    }
}

/// Returns what a backend has derived from the claim's key, or derives it.
#[cfg_attr(
    not(any(feature = "etcd", feature = "redis", all(feature = "file", target_os = "linux"))),
    expect(dead_code, reason = "the memory store derives nothing")
)]
pub(crate) fn derived<T: Any + Send + Sync, E>(
    claim: &Claim,
    derive: impl FnOnce() -> std::result::Result<Arc<T>, E>,
) -> std::result::Result<Arc<T>, E> {
    let memo = claim.memo.0.as_ref().map(|memo| memo.derived());
    if let Some(known) = memo.and_then(OnceLock::get)
        && let Ok(known) = known.clone().downcast()
    {
        return Ok(known);
    }
    let new = derive()?;
    if let Some(memo) = memo {
        // Another one may have derived the same.
        let _ = memo.set(new.clone());
    }
    Ok(new)
}

/// Whether an acquire waits for a key that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// It returns at once, and leaves nothing in the queue.
    Never,
    /// It joins the queue, and returns when the claim is granted.
    UntilGranted,
}

/// A claim that holds its key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The attempt that was granted.
    pub attempt: AttemptId,
    /// The locked key.
    pub key: Arc<str>,
    /// The granted mode.
    pub mode: Mode,
    /// What the holder publishes.
    pub value: Option<Arc<str>>,
    /// The fencing epoch, below 2^54.
    pub epoch: u64,
    /// The lease, with its latest proof.
    pub lease: Lease,
    /// What the backend needs at the release, such as the name of the claim on the server. Nothing else reads it.
    pub payload: Option<Arc<dyn Any + Send + Sync>>,
    /// The limit of the grant's validity, if it may end before the lease.
    pub limit: Option<Limit>,
}

impl Grant {
    /// Creates the grant of a claim.
    pub fn new(claim: &Claim, epoch: u64) -> Self {
        Self {
            attempt: claim.attempt,
            key: claim.key.clone(),
            mode: claim.mode,
            value: claim.value.clone(),
            epoch,
            lease: claim.lease,
            payload: None,
            limit: None,
        }
    }
}

/// What an eviction ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EvictScope {
    /// The leases of the evicted claims, with all other claims on them.
    #[default]
    Lease,
    /// The evicted claims. A session keeps its other claims.
    Claim,
}

/// The claims to evict, and what ends with them. The default is all claims that hold the key, with their leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evict {
    /// Whether the leases of the claims end.
    pub scope: EvictScope,
    /// The claims to evict; `None` for all that hold the key.
    pub only: Option<Vec<ClaimId>>,
}

impl Evict {
    /// Returns whether `claim` is to be evicted.
    pub fn is_for(&self, claim: &ClaimId) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(claim))
    }
}

/// What a backend has beyond exclusive and shared locks. A request for what it lacks is refused before it is sent. The default is
/// nothing.
///
/// ```
/// let mut features = leasehold::backend::Features::default();
/// features.values = true;
/// assert!(!features.limits);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Claims with a [limit](Claim::limit): a semaphore.
    ///
    /// Such a claim excludes exclusive claims and shared claims without a limit. It is granted when no earlier claim waits, none of
    /// those kinds holds the key, and fewer than *its own* limit do. So holders whose limits differ agree on the queue, and none
    /// enters above its own limit.
    pub limits: bool,
    /// [Values](Claim::value), which [`inspect`](super::Backend::inspect) and [`list`](super::Backend::list) return.
    pub values: bool,
}

/// A loss that the store reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The server ended the lease.
    LeaseLost(LeaseId),
    /// The server removed the claim of this attempt, or no longer has it, while its lease is alive.
    ClaimLost(AttemptId),
}
