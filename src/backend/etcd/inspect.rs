//! The calls about locks of any client: `info`, `list`, and `force_unlock` (here: evict).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use etcd_client::{GetOptions, LeaseTimeToLiveOptions, SortOrder, SortTarget, Txn, TxnOp};
use futures::future::join_all;

use super::claims::Claims;
use super::connection::Connection;
use super::kind::Kind;
use super::names::{self, Directory, Names};
use super::position::{ClaimKey, Freshness};
use super::value::{self, Author, Description};
use super::{answer, error, txn};
use crate::backend::{ErrorKind, Evict, EvictScope, LeaseId, Result};
use crate::info::{ClaimId, Eviction, LockInfo};
use crate::token::FencingToken;

/// The maximum number of keys in one answer.
const PAGE: i64 = 1000;

/// The maximum number of values in one answer.
const VALUES: usize = 100;

/// The maximum number of bytes that an answer has for each value, beside the value and its name.
const OVERHEAD: usize = 100;

/// The maximum number of requests in flight.
const PARALLEL: usize = 32;

/// A claim on the server.
#[derive(Clone, Debug)]
struct Entry {
    name: Vec<u8>,
    child: Vec<u8>,
    create: i64,
    lease: i64,
    author: Author,
}

impl Entry {
    /// Creates the entry of a claim whose value was not read: it excludes, whatever its value is.
    fn new(found: &PbKeyValue, child: &[u8]) -> Self {
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
    fn read(&mut self, found: Option<Vec<PbKeyValue>>) {
        // It may have been replaced since.
        let found = found.into_iter().flatten().find(|found| found.create_revision == self.create);
        if let Some(found) = found {
            self.author = value::author(&self.child, &found.value);
        }
    }

    fn born(&self) -> ClaimKey {
        ClaimKey { name: self.name.as_slice().into(), create: self.create }
    }

    fn id(&self) -> ClaimId {
        ClaimId::new(format!("{:x}/{}", self.create, self.child.escape_ascii()))
    }

    fn kind(&self) -> Kind {
        names::kind(&self.child)
    }

    fn description(&self) -> Option<&Description> {
        match &self.author {
            Author::Known(description) => Some(description),
            Author::Other | Author::Foreign => None,
        }
    }
}

/// Returns how many claims hold the key: the oldest, and if it is shared all of its kind up to the first that is not. Slots also up to
/// the first whose limit leaves no room for it.
fn holders(entries: &[Entry]) -> usize {
    let Some(oldest) = entries.first() else { return 0 };
    let holds = |(before, entry): &(usize, &Entry)| match (oldest.kind(), entry.kind()) {
        (Kind::Shared, Kind::Shared) => true,
        (Kind::Slot(_), Kind::Slot(limit)) => u32::try_from(*before).is_ok_and(|before| before < limit),
        _ => *before == 0,
    };
    entries.iter().enumerate().take_while(holds).count()
}

/// Returns the claims that hold the key, and those that wait for it.
fn split(entries: &[Entry]) -> (&[Entry], &[Entry]) {
    entries.split_at(holders(entries))
}

/// Returns the options that read the names of all claims of a directory, oldest first.
fn all_of(directory: &Directory) -> GetOptions {
    GetOptions::new().with_range(directory.end()).with_sort(SortTarget::Create, SortOrder::Ascend).with_keys_only()
}

/// Facts about locks beyond their claims.
struct Context {
    left: HashMap<i64, Duration>,
    proofs: HashMap<Arc<ClaimKey>, i64>,
    /// The create revisions of the claims that never waited: they have held their keys since they were requested.
    at_once: HashSet<i64>,
}

fn info(key: &str, entries: &[Entry], context: &Context) -> Option<LockInfo> {
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

/// Reads the locks on the server, and evicts their holders.
pub(super) struct Inspector {
    connection: Arc<Connection>,
    names: Names,
    /// The claims of this process, for their tokens.
    claims: Arc<Claims>,
}

impl Inspector {
    /// Creates the inspector of one manager.
    pub(super) fn new(connection: Arc<Connection>, names: Names, claims: Arc<Claims>) -> Self {
        Self { connection, names, claims }
    }

    /// Returns the holders of a key, and more about it.
    pub(super) async fn inspect(&self, key: &str) -> Result<Option<LockInfo>> {
        let entries = self.entries(key).await?;
        let context = self.context(&[(key, &entries)]).await?;
        Ok(info(key, &entries, &context))
    }

    /// Returns the same for all held keys that begin with `prefix`.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>> {
        let (start, end) = self.names.range(prefix);
        let mut locks = self.read_claims(start, &end).await?;
        locks.retain(|key, _| key.starts_with(prefix));
        self.read_authors(locks.values_mut()).await?;
        let all: Vec<_> = locks.iter().map(|(key, entries)| (key.as_str(), entries.as_slice())).collect();
        let context = self.context(&all).await?;
        Ok(all.iter().filter_map(|(key, entries)| info(key, entries, &context)).collect())
    }

    async fn context(&self, locks: &[(&str, &[Entry])]) -> Result<Context> {
        let holders: Vec<_> = locks.iter().flat_map(|(_, entries)| split(entries).0).cloned().collect();
        let left = self.time_left(&holders).await?;
        let created = holders.iter().map(|holder| holder.create).collect();
        Ok(Context { left, proofs: self.claims.proofs(&created), at_once: self.at_once(locks).await? })
    }

    /// Returns the create revisions of the oldest claims in whose directories there was no other when they were put.
    async fn at_once(&self, locks: &[(&str, &[Entry])]) -> Result<HashSet<i64>> {
        let heads: Vec<_> = locks.iter().filter_map(|(key, entries)| Some((*key, entries.first()?.create))).collect();
        let before = |(key, create): &(&str, i64)| {
            let directory = self.names.directory(key);
            // Revision 0 would be the newest; a claim is never the store's first change.
            TxnOp::get(directory.start(), Some(all_of(&directory).with_limit(1).with_revision((create - 1).max(1))))
        };
        match self.connection.ranges(&heads.iter().map(before).collect::<Vec<_>>()).await {
            Ok(found) => {
                let at_once = heads.iter().zip(found).filter(|(_, found)| found.kvs.is_empty());
                Ok(at_once.map(|((_, create), _)| *create).collect())
            }
            // Too long ago to be known.
            Err(error) if error::is_compacted(&error) => Ok(HashSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Returns the claims in a range, oldest first, by key. Their values are not read: other clients' may be of any size.
    async fn read_claims(&self, mut start: Vec<u8>, end: &[u8]) -> Result<BTreeMap<String, Vec<Entry>>> {
        let mut locks: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let (mut revision, mut last, mut limit) = (0, None::<String>, PAGE);
        loop {
            // All pages show the store at the same revision, unless that is compacted meanwhile.
            let options = GetOptions::new().with_range(end).with_limit(limit).with_revision(revision).with_keys_only();
            let page = match self.connection.get(&start, Some(options)).await {
                Err(error) if revision != 0 && error::is_compacted(&error) => {
                    revision = 0;
                    // The last lock may have been read in part.
                    if let Some(key) = last.take() {
                        locks.remove(&key);
                        start = self.names.directory(&key).start();
                    }
                    continue;
                }
                // Names of other clients may be long.
                Err(error) if limit > 1 && error::is_size(&error) => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            let (at, more) = (answer::revision(page.header.as_ref()), page.more);
            let found = answer::range(page, &start, end);
            let (at, found) = at.zip(found).ok_or_else(|| error::nonsense(self.connection.endpoints()))?;
            if revision == 0 {
                revision = at;
            }
            for found in &found {
                if let Some((key, child)) = self.names.decode(&found.key) {
                    last = Some(key.clone());
                    locks.entry(key).or_default().push(Entry::new(found, child));
                }
            }
            match found.last() {
                Some(last) if more => start = [last.key.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        for entries in locks.values_mut() {
            entries.sort_by_key(|entry| entry.create);
        }
        Ok(locks)
    }

    /// Reads the values of the holders of some locks. A value that is too large was not written by leasehold.
    async fn read_authors(&self, locks: impl Iterator<Item = &mut Vec<Entry>>) -> Result<()> {
        let holders = locks.flat_map(|entries| {
            let count = holders(entries);
            entries.iter_mut().take(count).filter(|entry| entry.author == Author::Other)
        });
        let mut parts = vec![holders.collect::<Vec<_>>()];
        while let Some(mut part) = parts.pop() {
            let mut requested = part.split_off(part.len().saturating_sub(VALUES));
            if !part.is_empty() {
                parts.push(part);
            }
            if requested.is_empty() {
                continue;
            }
            let gets: Vec<_> = requested.iter().map(|entry| TxnOp::get(entry.name.clone(), None)).collect();
            let most = requested.iter().map(|entry| entry.name.len() + value::MAX_VALUE + OVERHEAD).sum();
            match self.connection.txn_within(most, Txn::new().and_then(gets)).await {
                Ok(answer) => {
                    let mut found = txn::ranges(answer);
                    for entry in requested {
                        entry.read(found.next().and_then(|found| answer::range(found, &entry.name, &[])));
                    }
                }
                Err(error) if error::is_size(&error) => match requested.as_mut_slice() {
                    [alone] => alone.author = Author::Foreign,
                    _ => {
                        let half = requested.len() / 2;
                        parts.push(requested.split_off(half));
                        parts.push(requested);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Evicts the claims that hold a key.
    pub(super) async fn evict(&self, key: &str, evict: &Evict) -> Result<Eviction> {
        let entries = self.entries(key).await?;
        let mut eviction = Eviction::default();
        let mut released = BTreeSet::new();
        let mut leases = BTreeSet::new();
        for entry in split(&entries).0.iter().filter(|entry| evict.is_for(&entry.id())) {
            // A lease may hold the key twice, shared.
            if !leases.contains(&entry.lease) {
                let revokes = evict.scope == EvictScope::Lease && entry.lease != 0;
                let carried = if revokes { self.held_on(entry.lease).await? } else { Vec::new() };
                // A revocation cannot be conditional, so the claim is deleted first: if the hold has ended by now, the others of its
                // manager are left alone.
                if !self.delete_claim(entry).await? {
                    continue;
                }
                if revokes {
                    self.connection.revoke(entry.lease).await?;
                    leases.insert(entry.lease);
                }
                released.extend(carried);
                released.insert(key.to_owned());
            }
            // The holder of a foreign claim is not known, but the key was not free.
            eviction.holders.push(entry.description().map(|known| known.holder.clone()).unwrap_or_default());
        }
        eviction.released = released.into_iter().collect();
        Ok(eviction)
    }

    /// Deletes a claim if it is still the one that was seen.
    async fn delete_claim(&self, entry: &Entry) -> Result<bool> {
        let (limit, delete) = (self.connection.timeout(), entry.born().delete());
        // Without a retry, which could not tell whether the first request has found the claim.
        Ok(self.connection.txn_once(limit, Freshness::Linearizable, delete).await?.succeeded)
    }

    /// Returns the keys that are held by claims on a lease.
    async fn held_on(&self, lease: i64) -> Result<Vec<String>> {
        let names = match self.ask(lease, true).await {
            Ok(Some((_, names))) => names,
            Ok(None) => return Ok(Vec::new()),
            // The names do not fit in one answer.
            Err(error) if error::is_size(&error) => {
                let (start, end) = self.names.range("");
                let mut locks = self.read_claims(start, &end).await?;
                locks.retain(|_, entries| split(entries).0.iter().any(|holder| holder.lease == lease));
                return Ok(locks.into_keys().collect());
            }
            Err(error) => return Err(error),
        };
        let names: BTreeSet<_> = names.into_iter().collect();
        let keys: BTreeSet<_> = names.iter().filter_map(|name| self.names.decode(name)).map(|(key, _)| key).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let mut held = Vec::new();
        // Not one request for each key: an administrator waits for this, and the lease may have ten thousand.
        let directories: Vec<_> = keys.iter().map(|key| self.names.directory(key)).collect();
        let get = |directory: &Directory| TxnOp::get(directory.start(), Some(all_of(directory)));
        let found = self.connection.ranges(&directories.iter().map(get).collect::<Vec<_>>()).await?;
        for ((key, directory), found) in keys.into_iter().zip(&directories).zip(found) {
            let (start, end) = (directory.start(), directory.end());
            let found = answer::range(found, &start, &end);
            let found = found.ok_or_else(|| error::nonsense(self.connection.endpoints()))?;
            let below = |found: &PbKeyValue| Some(Entry::new(found, found.key.strip_prefix(start.as_slice())?));
            let entries: Vec<_> = found.iter().filter_map(below).collect();
            if split(&entries).0.iter().any(|entry| names.contains(&entry.name)) {
                held.push(key);
            }
        }
        Ok(held)
    }

    /// Returns all claims of a key, oldest first, with the values of its holders.
    async fn entries(&self, key: &str) -> Result<Vec<Entry>> {
        let directory = self.names.directory(key);
        let mut locks = self.read_claims(directory.start(), &directory.end()).await?;
        let mut entries = locks.remove(key).unwrap_or_default();
        self.read_authors(std::iter::once(&mut entries)).await?;
        Ok(entries)
    }

    /// Reads the remaining times of the leases of these claims.
    async fn time_left(&self, entries: &[Entry]) -> Result<HashMap<i64, Duration>> {
        let leases: BTreeSet<_> = entries.iter().map(|entry| entry.lease).filter(|&lease| lease != 0).collect();
        let leases: Vec<_> = leases.into_iter().collect();
        let mut left = HashMap::new();
        for leases in leases.chunks(PARALLEL) {
            let answers = join_all(leases.iter().map(|&lease| self.ask(lease, false))).await;
            for (lease, answer) in leases.iter().zip(answers) {
                left.insert(*lease, answer?.map_or(Duration::ZERO, |(left, _)| left));
            }
        }
        Ok(left)
    }

    /// Reads a lease's remaining time, and with `keys` its keys. `None` if it no longer exists.
    async fn ask(&self, lease: i64, keys: bool) -> Result<Option<(Duration, Vec<Vec<u8>>)>> {
        let answer = self
            .connection
            .retry(|| {
                let mut client = self.connection.lease();
                let options = LeaseTimeToLiveOptions::new();
                let options = if keys { options.with_keys() } else { options };
                async move { client.time_to_live(lease, Some(options)).await }
            })
            .await;
        match answer {
            Ok(answer) => Ok(answer::time_left(answer.ttl()).map(|left| (left, answer.keys().to_vec()))),
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks whether the server answers, which only a member of a working cluster can.
    pub(super) async fn ping(&self) -> Result<()> {
        // The record of no lease, which the user may read.
        let name = self.names.record(LeaseId(0));
        let options = GetOptions::new().with_keys_only();
        let answer = self.connection.get(&name, Some(options)).await?;
        answer.header.map(|_| ()).ok_or_else(|| error::nonsense(self.connection.endpoints()))
    }
}
