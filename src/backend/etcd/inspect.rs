//! The calls about locks of any client: `info`, `list`, and `force_unlock` (here: evict).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbKeyValue;
use etcd_client::{GetOptions, LeaseTimeToLiveOptions, SortOrder, SortTarget, Txn, TxnOp};
use futures::future::{join_all, try_join};

use super::claims::Claims;
use super::connection::Connection;
use super::names::{Directory, Names};
use super::position::{ClaimKey, Freshness};
use super::queue::{Context, Entry, holders, info, split};
use super::value::{self, Author};
use super::view::View;
use super::{answer, error, txn};
use crate::backend::{ErrorKind, Evict, EvictScope, LeaseId, Result};
use crate::info::{Eviction, LockInfo};

/// The maximum number of keys in one answer.
const PAGE: i64 = 1000;

/// The maximum number of values in one answer.
const VALUES: usize = 100;

/// The maximum number of bytes that an answer has for each value, beside the value and its name.
const OVERHEAD: usize = 100;

/// The maximum number of requests in flight.
const PARALLEL: usize = 32;

/// Returns the options that read the names of all claims of a directory, oldest first.
fn all_of(directory: &Directory) -> GetOptions {
    GetOptions::new().with_range(directory.end()).with_sort(SortTarget::Create, SortOrder::Ascend).with_keys_only()
}

/// Returns the claims that hold some locks and whose values were not read.
fn unread_holders(locks: &mut BTreeMap<String, Vec<Entry>>) -> Vec<&mut Entry> {
    let holding = locks.values_mut().flat_map(|entries| {
        let count = holders(entries);
        entries.iter_mut().take(count)
    });
    holding.filter(|entry| entry.is_unread()).collect()
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

    /// Returns the directory of a key.
    pub(super) fn directory(&self, key: &str) -> Directory {
        self.names.directory(key)
    }

    /// Reads what a key's directory contains, with the values of all claims, to follow its changes.
    pub(super) async fn view(&self, key: &str) -> Result<View> {
        let directory = self.names.directory(key);
        loop {
            let (mut locks, revision) = self.read_claims(directory.start(), &directory.end()).await?;
            let mut entries = locks.remove(key).unwrap_or_default();
            match self.read_values(entries.iter_mut().filter(|entry| entry.is_unread()).collect(), revision).await {
                // What was there then is not known any more, so it may be shown neither without its values nor with later ones.
                Err(error) if error::is_compacted(&error) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let at_once = self.at_once(&[(key, &entries)]).await?;
                    return Ok(View::new(directory, entries, revision, at_once));
                }
            }
        }
    }

    /// Returns the state that a view of a key shows.
    pub(super) fn state(&self, key: &str, view: &mut View) -> Option<LockInfo> {
        view.state(key, &self.claims)
    }

    /// Returns whether claims wait for a key that this claim holds. `None` if it does not exist any more.
    pub(super) async fn has_waiters(&self, key: &str, own: &ClaimKey) -> Result<Option<bool>> {
        let directory = self.names.directory(key);
        let (mut locks, _) = self.read_claims(directory.start(), &directory.end()).await?;
        let entries = locks.remove(key).unwrap_or_default();
        let is_own = |entry: &Entry| *entry.name == *own.name && entry.create == own.create;
        Ok(entries.iter().any(is_own).then(|| !split(&entries).1.is_empty()))
    }

    /// Returns the same for all held keys that begin with `prefix`.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>> {
        let (start, end) = self.names.range(prefix);
        let (mut locks, revision) = self.read_claims(start, &end).await?;
        locks.retain(|key, _| key.starts_with(prefix));
        self.read_authors(&mut locks, revision).await?;
        let all: Vec<_> = locks.iter().map(|(key, entries)| (key.as_str(), entries.as_slice())).collect();
        let context = self.context(&all).await?;
        Ok(all.iter().filter_map(|(key, entries)| info(key, entries, &context)).collect())
    }

    async fn context(&self, locks: &[(&str, &[Entry])]) -> Result<Context> {
        let holders: Vec<_> = locks.iter().flat_map(|(_, entries)| split(entries).0).cloned().collect();
        let (left, at_once) = try_join(self.time_left(&holders), self.at_once(locks)).await?;
        let created = holders.iter().map(|holder| holder.create).collect();
        Ok(Context { left, proofs: self.claims.proofs(&created), at_once })
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

    /// Returns the claims in a range, oldest first, by key, and the revision at which they were there. Their values are not read: other
    /// clients' may be of any size.
    async fn read_claims(&self, mut start: Vec<u8>, end: &[u8]) -> Result<(BTreeMap<String, Vec<Entry>>, i64)> {
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
        Ok((locks, revision))
    }

    /// Reads the values of the holders of some locks, as they were at a revision, or are now if that is compacted.
    async fn read_authors(&self, locks: &mut BTreeMap<String, Vec<Entry>>, revision: i64) -> Result<()> {
        match self.read_values(unread_holders(locks), revision).await {
            Err(error) if error::is_compacted(&error) => self.read_values(unread_holders(locks), 0).await,
            read => read,
        }
    }

    /// Reads the values of claims, as they were at a revision, or are now with zero. A value that is too large was not written by
    /// leasehold.
    async fn read_values(&self, entries: Vec<&mut Entry>, revision: i64) -> Result<()> {
        let then = || Some(GetOptions::new().with_revision(revision));
        let mut parts = vec![entries];
        while let Some(mut part) = parts.pop() {
            let mut requested = part.split_off(part.len().saturating_sub(VALUES));
            if !part.is_empty() {
                parts.push(part);
            }
            if requested.is_empty() {
                continue;
            }
            let gets: Vec<_> = requested.iter().map(|entry| TxnOp::get(entry.name.clone(), then())).collect();
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
                let (mut locks, _) = self.read_claims(start, &end).await?;
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
        let (mut locks, revision) = self.read_claims(directory.start(), &directory.end()).await?;
        self.read_authors(&mut locks, revision).await?;
        Ok(locks.remove(key).unwrap_or_default())
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
