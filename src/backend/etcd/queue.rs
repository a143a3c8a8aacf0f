//! The claims of a key as they are read from the server: which of them hold it, which wait, and what that says about the lock.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use etcd_client::proto::PbKeyValue;

use super::answer;
use super::kind::Kind;
use super::names;
use super::position::ClaimKey;
use super::value::{self, Author, Description};
use crate::info::{ClaimId, LockInfo};
use crate::token::FencingToken;

/// A claim on the server.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) child: Vec<u8>,
    pub(super) create: i64,
    pub(super) lease: i64,
    pub(super) author: Author,
}

impl Entry {
    /// Creates the entry of a claim whose value was not read: it excludes, whatever its value is.
    pub(super) fn new(found: &PbKeyValue, child: &[u8]) -> Self {
        let author = if names::ids(child).is_some() { Author::Other } else { Author::Foreign };
        Self {
            name: found.key.clone(),
            child: child.to_vec(),
            create: found.create_revision,
            lease: found.lease,
            author,
        }
    }

    /// Reads the value that was found under the name.
    pub(super) fn read(&mut self, found: Option<Vec<PbKeyValue>>) {
        // It may have been replaced since.
        let found = found.into_iter().flatten().find(|found| found.create_revision == self.create);
        if let Some(found) = found {
            self.author = value::author(&self.child, &found.value);
        }
    }

    /// Returns whether its value may be leasehold's and was not read.
    pub(super) fn is_unread(&self) -> bool {
        self.author == Author::Other
    }

    /// Returns whether this is the claim that was found.
    pub(super) fn is(&self, found: &PbKeyValue) -> bool {
        self.name == found.key && self.create == found.create_revision
    }

    pub(super) fn born(&self) -> ClaimKey {
        ClaimKey { name: self.name.as_slice().into(), create: self.create }
    }

    pub(super) fn id(&self) -> ClaimId {
        ClaimId::new(format!("{:x}/{}", self.create, self.child.escape_ascii()))
    }

    pub(super) fn kind(&self) -> Kind {
        names::kind(&self.child)
    }

    pub(super) fn description(&self) -> Option<&Description> {
        match &self.author {
            Author::Known(description) => Some(description),
            Author::Other | Author::Foreign => None,
        }
    }
}

/// Returns how many claims hold the key: the oldest, and if it is shared all of its kind up to the first that is not. Slots also up to
/// the first whose limit leaves no room for it.
pub(super) fn holders(entries: &[Entry]) -> usize {
    let Some(oldest) = entries.first() else { return 0 };
    let holds = |(before, entry): &(usize, &Entry)| match (oldest.kind(), entry.kind()) {
        (Kind::Shared, Kind::Shared) => true,
        (Kind::Slot(_), Kind::Slot(limit)) => u32::try_from(*before).is_ok_and(|before| before < limit),
        _ => *before == 0,
    };
    entries.iter().enumerate().take_while(holds).count()
}

/// Returns the claims that hold the key, and those that wait for it.
pub(super) fn split(entries: &[Entry]) -> (&[Entry], &[Entry]) {
    entries.split_at(holders(entries))
}

/// Facts about locks beyond their claims.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) left: HashMap<i64, Duration>,
    pub(super) proofs: HashMap<ClaimKey, i64>,
    /// The create revisions of the claims that never waited: they have held their keys since they were requested.
    pub(super) at_once: HashSet<i64>,
}

pub(super) fn info(key: &str, entries: &[Entry], context: &Context) -> Option<LockInfo> {
    let Context { left, proofs, at_once } = context;
    let head = entries.first()?;
    let (holders, waiters) = split(entries);
    let mut info = LockInfo::new(key, head.kind().mode());
    // Only the process of a claim knows its token: it is made of the revision of its proof, not of the claim's.
    info.token = proofs.get(&head.born()).and_then(|&proof| answer::epoch(proof)).map(FencingToken::of_epoch);
    info.since = head.description().map(|known| known.asked_at).filter(|_| at_once.contains(&head.create));
    // A shared lock is free after the last of its holders. A claim without a lease never expires.
    info.remaining = holders
        .iter()
        .map(|holder| left.get(&holder.lease).copied())
        .max_by_key(|left| left.unwrap_or(Duration::MAX))?;
    let described = holders.iter().filter_map(Entry::description);
    (info.holders, info.values) = described.map(|known| (known.holder.clone(), known.value.clone())).unzip();
    info.limit = holders.iter().filter_map(|holder| holder.kind().limit()).max();
    info.waiters = waiters.len();
    info.foreign = head.author == Author::Foreign;
    info.claims = holders.iter().map(Entry::id).collect();
    Some(info)
}
