//! Descriptions of locks: holders, claims, evictions, losses.

use std::time::{Duration, SystemTime};

use crate::display::Printable;
use crate::process::platform;
use crate::token::FencingToken;

/// The mode of a hold: exclusive or shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Mode {
    /// No other owner holds the key.
    Exclusive,
    /// Any number of owners hold the key in shared mode, and none exclusively.
    Shared,
}

#[cfg(any(feature = "etcd", feature = "tracing"))]
impl Mode {
    /// The mode in a word, for records and spans.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        }
    }
}

/// The program that holds a lock, as it described itself on the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Holder {
    /// The manager's name; see [`LockManagerBuilder::name`](crate::LockManagerBuilder::name).
    pub name: String,
    /// The host's name.
    pub host: String,
    /// The process id on that host.
    pub pid: u32,
}

impl Holder {
    /// Creates a holder.
    pub fn new(name: impl Into<String>, host: impl Into<String>, pid: u32) -> Self {
        Self { name: name.into(), host: host.into(), pid }
    }

    /// The holder that stands for this process, under the given name.
    pub(crate) fn this_process(name: &str) -> Self {
        Self::new(name, platform::host(), std::process::id())
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {} on {})", Printable(&self.name), self.pid, Printable(&self.host))
    }
}

/// The identity of a claim that holds a key on the server. Never reused.
///
/// A claim stands for one process's hold, including all local handovers within it. The id is for
/// [`ForceUnlock::expecting`](crate::ForceUnlock::expecting) only: it does not permit releasing or renewing the hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct ClaimId(String);

impl ClaimId {
    /// Creates an id from a text that identifies the claim among all claims of its key.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A snapshot of a held lock: its holders, its age, and the number of waiters. It may be outdated when it is returned.
///
/// Foreign clients (`etcdctl lock`, Go's `concurrency.Mutex`, redis-py's `Lock`) store less about their locks: the missing fields
/// are `None`, and [`foreign`](Self::foreign) is `true`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LockInfo {
    /// The locked key.
    pub key: String,
    /// The mode of the hold.
    pub mode: Mode,
    /// The token of the server's grant, which does not count later local handovers; `None` if the backend stores no token.
    pub token: Option<FencingToken>,
    /// The time of the grant, if known: on Redis by the server's clock; on etcd by the holder's clock, if the lock was free when it
    /// was requested and the history of the key is still available.
    pub since: Option<SystemTime>,
    /// The time until the lease ends if it is not renewed again; `None` if unknown.
    pub remaining: Option<Duration>,
    /// The holders: one for an exclusive hold, one per process for a shared one.
    pub holders: Vec<Holder>,
    /// What the holders have published, in the order of the holders; see [`LockRequest::value`](crate::LockRequest::value).
    pub values: Vec<Option<String>>,
    /// The greatest limit among the holders, if the lock is used as a semaphore; see
    /// [`LockRequest::limit`](crate::LockRequest::limit).
    pub limit: Option<u32>,
    /// The number of waiting claims. A process has at most one per key, however many of its tasks wait.
    pub waiters: usize,
    /// Whether a client other than leasehold holds the lock.
    pub foreign: bool,
    /// The claims that hold the lock, in no particular order, for [`ForceUnlock::expecting`](crate::ForceUnlock::expecting).
    pub claims: Vec<ClaimId>,
}

impl LockInfo {
    /// Creates a snapshot of `key` with all other fields unknown.
    pub fn new(key: impl Into<String>, mode: Mode) -> Self {
        Self {
            key: key.into(),
            mode,
            token: None,
            since: None,
            remaining: None,
            holders: Vec::new(),
            values: Vec::new(),
            limit: None,
            waiters: 0,
            foreign: false,
            claims: Vec::new(),
        }
    }
}

/// The result of a [`force_unlock`](crate::LockManager::force_unlock): the evicted holders and the released keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Eviction {
    /// The holders of the key, as far as known: foreign clients may not store one. Empty if the key was free.
    pub holders: Vec<Holder>,
    /// All released keys, sorted, including those that shared the revoked lease. Empty if the key was free, or if the
    /// [expected](crate::ForceUnlock::expecting) claims no longer held it.
    pub released: Vec<String>,
}

impl Eviction {
    /// Creates an eviction.
    pub fn new(holders: Vec<Holder>, released: Vec<String>) -> Self {
        Self { holders, released }
    }
}

/// The cause of a lost hold.
///
/// ```
/// # leasehold::doctest(async {
/// # use std::time::Duration;
/// use leasehold::{LockManager, Loss};
///
/// let guard = LockManager::memory().lock("k").max_hold(Duration::from_millis(50)).await?;
/// match guard.lost().await {
///     Loss::Revoked => println!("an administrator stopped the work"),
///     Loss::MaxHold => println!("the work took too long"),
///     cause => println!("lock again, and continue: {cause}"),
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// The server removed the lease or the claim: a `force_unlock`, a deleted key, a revoked lease.
    Revoked,
    /// The lease may have ended: it was not renewed in time, although the server was reachable, or automatic renewal was off.
    Expired,
    /// The lease may have ended, and the server was unreachable until then.
    Unreachable,
    /// The manager was closed.
    Closed,
    /// The hold reached its `max_hold`.
    MaxHold,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Revoked => "revoked on the server",
            Self::Expired => "lease expired",
            Self::Unreachable => "server unreachable until the lease may have ended",
            Self::Closed => "manager closed",
            Self::MaxHold => "held for longer than max_hold",
        })
    }
}
