//! What others can learn about a lock.

use std::time::{Duration, SystemTime};

use crate::display::Printable;
use crate::token::FencingToken;

/// How a key is held: by one owner, or together with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Mode {
    /// Nobody else holds the key.
    Exclusive,
    /// Any number of shared holds at the same time, but no exclusive one.
    Shared,
}

/// The program that holds a lock, as it introduced itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Holder {
    /// The manager's name, see [`LockManagerBuilder::name`](crate::LockManagerBuilder::name).
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

    /// This process, under the given name.
    pub(crate) fn this_process(name: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self::new(name, host, std::process::id())
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {} on {})", Printable(&self.name), self.pid, Printable(&self.host))
    }
}

/// A claim on the server that holds a key: a process's hold, whatever local hand-overs there are within it. Never used again.
///
/// It names the claim for [`ForceUnlock::expecting`](crate::ForceUnlock::expecting) and is good for nothing else: nobody can
/// release or renew the hold with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct ClaimId(String);

impl ClaimId {
    /// Creates a claim's id, from what the backend can tell it from all others of its key by.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the text that it was created from.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who holds a key, since when, and who waits for it: a snapshot, outdated as soon as it is read.
///
/// A lock of a foreign client (`etcdctl lock`, Go's `concurrency.Mutex`, redis-py's `Lock`) says less about itself: what it does not say is
/// `None`, and [`foreign`](Self::foreign) is true.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LockInfo {
    /// The key that is locked.
    pub key: String,
    /// How it is held.
    pub mode: Mode,
    /// The fencing token of the grant, without the holder's local hand-overs, where the backend keeps one.
    pub token: Option<FencingToken>,
    /// Since when it is held, where that is known: on Redis by the server's clock; on etcd by the holder's, if the lock was free when
    /// it was asked for, and the store still knows that.
    pub since: Option<SystemTime>,
    /// How long the lock lives if its lease is not renewed any more.
    pub remaining: Option<Duration>,
    /// The holders: one for an exclusive hold, one for each process that shares it otherwise.
    pub holders: Vec<Holder>,
    /// How many claims wait; a process waits with one for each key, however many of its tasks wait.
    pub waiters: usize,
    /// Whether a client that is not leasehold holds the lock.
    pub foreign: bool,
    /// The claims that hold the lock, in no order, for [`ForceUnlock::expecting`](crate::ForceUnlock::expecting).
    pub claims: Vec<ClaimId>,
}

impl LockInfo {
    /// Creates the information on `key`, with nothing else known.
    pub fn new(key: impl Into<String>, mode: Mode) -> Self {
        Self {
            key: key.into(),
            mode,
            token: None,
            since: None,
            remaining: None,
            holders: Vec::new(),
            waiters: 0,
            foreign: false,
            claims: Vec::new(),
        }
    }
}

/// What a [`force_unlock`](crate::LockManager::force_unlock) took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Eviction {
    /// Who held the key, where known: a foreign client may not say. Empty if it was free.
    pub holders: Vec<Holder>,
    /// Every key that was released, those that shared the revoked lease included, in order. Empty if the key was free, or not
    /// held any more by the claims that were [expected](crate::ForceUnlock::expecting).
    pub released: Vec<String>,
}

impl Eviction {
    /// Creates an eviction.
    pub fn new(holders: Vec<Holder>, released: Vec<String>) -> Self {
        Self { holders, released }
    }
}

/// Why a hold was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// The server removed the lease or the claim: an administrator, a `force_unlock`, a deleted key.
    Revoked,
    /// The lease may have ended: it was not renewed in time, or not renewed at all.
    Expired,
    /// The server could not be reached until the lease may have ended.
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
