//! Who holds what, and how to take it away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use etcd_client::proto::{PbKeyValue, PbRangeResponse};
use etcd_client::{GetOptions, LeaseTimeToLiveOptions, SortOrder, SortTarget, TxnOp};
use futures::future::join_all;

use super::codec::{self, Author, Directory};
use super::txn::{Born, Freshness};
use super::{Shared, failure};
use crate::backend::{ErrorKind, Evict, Result};
use crate::{ClaimId, Eviction, FencingToken, Holder, LockInfo, Mode};

/// How many keys one answer may have.
const PAGE: i64 = 1000;

/// How many requests may be on their way at once.
const PARALLEL: usize = 32;

/// A claim as it stands on the server.
#[derive(Clone, Debug)]
struct Entry {
    name: Vec<u8>,
    child: Vec<u8>,
    create: i64,
    lease: i64,
    author: Author,
}

impl Entry {
    fn new(found: &PbKeyValue, child: &[u8]) -> Self {
        Self {
            name: found.key.clone(),
            child: child.to_vec(),
            create: found.create_revision,
            lease: found.lease,
            author: codec::author(child, &found.value),
        }
    }

    fn born(&self) -> Born {
        Born { name: self.name.clone(), create: self.create }
    }

    fn id(&self) -> ClaimId {
        ClaimId::new(format!("{:x}/{}", self.create, self.child.escape_ascii()))
    }

    fn mode(&self) -> Mode {
        codec::mode(&self.child)
    }

    fn holder(&self) -> Option<&Holder> {
        match &self.author {
            Author::Known(holder, _) => Some(holder),
            Author::Other | Author::Foreign => None,
        }
    }

    fn since(&self) -> Option<SystemTime> {
        match self.author {
            Author::Known(_, since) => Some(since),
            Author::Other | Author::Foreign => None,
        }
    }
}

/// Returns the claims that hold the key: the oldest, and if it is shared all shared ones up to the first that is not.
fn holding(entries: &[Entry]) -> &[Entry] {
    let shared = entries.iter().take_while(|entry| entry.mode() == Mode::Shared).count();
    &entries[..shared.max(1).min(entries.len())]
}

/// How to read all claims of a directory, oldest first.
fn all_of(directory: &Directory) -> GetOptions {
    GetOptions::new().with_range(directory.end()).with_sort(SortTarget::Create, SortOrder::Ascend)
}

fn entries_of(directory: &Directory, found: &PbRangeResponse) -> Vec<Entry> {
    let start = directory.start();
    let below = |found: &PbKeyValue| Some(Entry::new(found, found.key.strip_prefix(start.as_slice())?));
    found.kvs.iter().filter_map(below).collect()
}

fn info(key: &str, entries: &[Entry], left: &HashMap<i64, Duration>, proofs: &HashMap<Born, i64>) -> Option<LockInfo> {
    let head = entries.first()?;
    let holders = holding(entries);
    let mut info = LockInfo::new(key, head.mode());
    // Only a claim's own process knows its token: it is not the claim's revision, but that of its proof.
    info.token = proofs
        .get(&head.born())
        .and_then(|&proof| u64::try_from(proof).ok())
        .map(|epoch| FencingToken::of_grant(epoch, 0));
    info.since = head.since();
    // A shared lock is free when the last of its holders is gone. A claim without a lease never goes.
    info.remaining = holders
        .iter()
        .map(|holder| left.get(&holder.lease).copied())
        .max_by_key(|left| left.unwrap_or(Duration::MAX))?;
    info.holders = holders.iter().filter_map(Entry::holder).cloned().collect();
    info.waiters = entries.len() - holders.len();
    info.foreign = head.author == Author::Foreign;
    info.claims = holders.iter().map(Entry::id).collect();
    Some(info)
}

impl Shared {
    /// Tells who holds a key.
    pub(super) async fn inspect(&self, key: &str) -> Result<Option<LockInfo>> {
        let entries = self.entries(key).await?;
        let left = self.time_left(holding(&entries)).await?;
        Ok(info(key, &entries, &left, &self.claims.proofs()))
    }

    /// Tells who holds all the keys that begin with `prefix`.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>> {
        let mut locks: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let (mut start, end) = self.names.range(prefix);
        let (mut revision, mut last) = (0, None::<String>);
        loop {
            // All pages show the store at the same time, unless that is forgotten meanwhile.
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let page = match self.connection.get(&start, Some(options)).await {
                Err(error) if revision != 0 && failure::is_compacted(&error) => {
                    revision = 0;
                    // The last lock may have been seen in part.
                    if let Some(key) = last.take() {
                        locks.remove(&key);
                        start = self.names.directory(&key).start();
                    }
                    continue;
                }
                page => page?,
            };
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            for found in &page.kvs {
                let decoded = self.names.decode(&found.key).filter(|(key, _)| key.starts_with(prefix));
                if let Some((key, child)) = decoded {
                    last = Some(key.clone());
                    locks.entry(key).or_default().push(Entry::new(found, child));
                }
            }
            match page.kvs.last() {
                Some(last) if page.more => start = [last.key.as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        for entries in locks.values_mut() {
            entries.sort_by_key(|entry| entry.create);
        }
        let holders: Vec<_> = locks.values().flat_map(|entries| holding(entries)).cloned().collect();
        let left = self.time_left(&holders).await?;
        let proofs = self.claims.proofs();
        Ok(locks.iter().filter_map(|(key, entries)| info(key, entries, &left, &proofs)).collect())
    }

    /// Takes a key away from the claims that hold it.
    pub(super) async fn evict(&self, key: &str, evict: &Evict) -> Result<Eviction> {
        let entries = self.entries(key).await?;
        let mut eviction = Eviction::default();
        let mut released = BTreeSet::new();
        let mut leases = BTreeSet::new();
        for entry in holding(&entries).iter().filter(|entry| evict.is_for(&entry.id())) {
            // A lease may hold the key twice, shared.
            if !leases.contains(&entry.lease) {
                let revokes = !evict.key_only && entry.lease != 0;
                let carried = if revokes { self.held_on(entry.lease).await? } else { Vec::new() };
                // Revoking cannot be made conditional, so the claim goes first: a hold that has ended by now leaves its
                // manager's others alone.
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
            // A foreign client does not say who it is, but the key was not free.
            eviction.holders.push(entry.holder().cloned().unwrap_or_default());
        }
        eviction.released = released.into_iter().collect();
        Ok(eviction)
    }

    /// Deletes a claim if it is still the one that was seen.
    async fn delete_claim(&self, entry: &Entry) -> Result<bool> {
        let (limit, delete) = (self.connection.timeout(), entry.born().delete());
        // Once: a second one does not know whether the first has found the claim.
        Ok(self.connection.txn_once(limit, Freshness::Linearizable, delete).await?.succeeded)
    }

    /// Returns the keys that are held by claims on a lease.
    async fn held_on(&self, lease: i64) -> Result<Vec<String>> {
        let Some((_, names)) = self.ask(lease, true).await? else { return Ok(Vec::new()) };
        let names: BTreeSet<_> = names.into_iter().collect();
        let keys: BTreeSet<_> = names.iter().filter_map(|name| self.names.decode(name)).map(|(key, _)| key).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let mut held = Vec::new();
        // An administrator waits for this, and the lease may have ten thousand keys: not a request for each.
        let directories: Vec<_> = keys.iter().map(|key| self.names.directory(key)).collect();
        let get = |directory: &Directory| TxnOp::get(directory.start(), Some(all_of(directory).with_keys_only()));
        let found = self.connection.ranges(&directories.iter().map(get).collect::<Vec<_>>()).await?;
        for ((key, directory), found) in keys.into_iter().zip(&directories).zip(found) {
            if holding(&entries_of(directory, &found)).iter().any(|entry| names.contains(&entry.name)) {
                held.push(key);
            }
        }
        Ok(held)
    }

    /// Returns all claims of a key, oldest first.
    async fn entries(&self, key: &str) -> Result<Vec<Entry>> {
        let directory = self.names.directory(key);
        let found = self.connection.get(&directory.start(), Some(all_of(&directory))).await?;
        Ok(entries_of(&directory, &found))
    }

    /// Asks how long the leases of these claims will live.
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

    /// Asks for a lease's remaining time, and with `keys` for its keys. `None` if it is gone.
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
            Ok(answer) => Ok(u64::try_from(answer.ttl())
                .ok()
                .map(|seconds| (Duration::from_secs(seconds), answer.keys().to_vec()))),
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the server for a sign of life that only a member of a working cluster can give.
    pub(super) async fn ping(&self) -> Result<()> {
        // No lease has this name; the user's permissions cover it.
        let name = self.names.record(crate::backend::LeaseId(0));
        let options = GetOptions::new().with_keys_only();
        let answer = self.connection.get(&name, Some(options)).await?;
        answer.header.map(|_| ()).ok_or_else(|| failure::nonsense(self.connection.endpoints()))
    }
}
