//! The calls about locks of any client: `info`, `list`, and `force_unlock` (here: evict).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::future::join_all;
use redis::Value;

use super::names::{Name, Names};
use super::router::Router;
use super::scripts::Op;
use super::value::{self, Described, LockValue};
use super::{answers, error};
use crate::backend::{ErrorKind, Evict, Result};
use crate::info::{ClaimId, Eviction, LockInfo, Mode};
use crate::token::FencingToken;

/// How many names the server scans in one step of a list, and how many locks are inspected at once.
const PAGE: usize = 500;

#[derive(Debug)]
pub(super) struct Inspector {
    names: Names,
    router: Arc<Router>,
}

impl Inspector {
    pub(super) fn new(names: Names, router: Arc<Router>) -> Self {
        Self { names, router }
    }

    /// Returns a snapshot of a key, or `None` if it is free.
    pub(super) async fn inspect(&self, key: &str) -> Result<Option<LockInfo>> {
        let answer = self.router.request_one(Op::Inspect(self.names.of(key)?, None)).await?;
        self.info(key, answer)
    }

    /// Returns snapshots of all held locks whose keys begin with `prefix`, in key order.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>> {
        let pattern = self.names.pattern(prefix);
        // A server may return a name more than once, and a lock may move from one to another meanwhile.
        let mut keys = BTreeSet::new();
        for batch in self.router.batches() {
            let mut cursor = String::from("0");
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
                let page = batch.command(scan).await?;
                let (next, names) = read_page(page).ok_or_else(|| error::malformed(batch.server()))?;
                keys.extend(names.iter().filter_map(|name| self.names.key(name)).map(str::to_owned));
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        let names: Vec<(String, Arc<Name>)> =
            keys.into_iter().filter_map(|key| self.names.of(&key).ok().map(|name| (key, name))).collect();
        let mut locks = Vec::new();
        for names in names.chunks(PAGE) {
            let ops = names.iter().map(|(_, name)| Op::Inspect(name.clone(), None)).collect();
            let answers = join_all(self.router.request(ops)).await;
            for ((key, _), answer) in names.iter().zip(answers) {
                match answer {
                    // One that other clients have damaged must not hide the rest.
                    Err(error) if error.kind() == ErrorKind::Incompatible => locks.push(damaged(key)),
                    answer => locks.extend(self.info(key, answer?)?),
                }
            }
        }
        Ok(locks)
    }

    fn info(&self, key: &str, answer: Value) -> Result<Option<LockInfo>> {
        let snapshot = Snapshot::read(answer).ok_or_else(|| error::malformed(self.router.server()))?;
        Ok(snapshot.info(key))
    }

    /// Removes the claims that hold a key and that `evict` selects.
    pub(super) async fn evict(&self, key: &str, evict: &Evict) -> Result<Eviction> {
        let server = self.router.server();
        match self.router.request_one(Op::Evict(self.names.of(key)?, evict.only.clone())).await? {
            Value::Array(values) if values.is_empty() => Ok(Eviction::default()),
            Value::Array(values) => {
                let holders = values.iter().filter_map(bytes).filter_map(described).map(|described| described.holder);
                Ok(Eviction::new(holders.collect(), vec![key.to_owned()]))
            }
            answer if answers::text(&answer) == Some("i") => Err(error::incompatible(server)),
            _ => Err(error::malformed(server)),
        }
    }
}

/// The script's answer about one lock.
pub(super) struct Snapshot {
    /// Redis's type of the key.
    kind: String,
    value: Vec<u8>,
    left: Option<Duration>,
    waiters: usize,
    /// The ids of the claims that hold it: the readers', if it is shared.
    pub(super) claims: Vec<ClaimId>,
    /// The values of the same claims.
    pub(super) values: Vec<Vec<u8>>,
}

impl Snapshot {
    pub(super) fn read(answer: Value) -> Option<Self> {
        let Value::Array(fields) = answer else { return None };
        let mut fields = fields.into_iter();
        let kind = answers::text(&fields.next()?)?.to_owned();
        let value = bytes(&fields.next()?)?.to_vec();
        let Value::Int(left) = fields.next()? else { return None };
        let Value::Int(waiters) = fields.next()? else { return None };
        let (mut claims, mut values) = (Vec::new(), Vec::new());
        while let (Some(id), Some(value)) = (fields.next(), fields.next()) {
            claims.push(ClaimId::new(answers::text(&id)?));
            values.push(bytes(&value)?.to_vec());
        }
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        let waiters = usize::try_from(waiters).unwrap_or_default();
        Some(Self { kind, value, left, waiters, claims, values })
    }

    pub(super) fn info(self, key: &str) -> Option<LockInfo> {
        if self.kind == "none" {
            return None;
        }
        let value = if self.kind == "string" { value::read(&self.value) } else { LockValue::Foreign };
        // What has the form of a sharing period and no readers is waited for like another client's lock.
        let (mode, epoch, foreign) = match value {
            LockValue::Shared(epoch) if self.values.first() != Some(&self.value) => (Mode::Shared, Some(epoch), false),
            LockValue::Shared(_) | LockValue::Foreign => (Mode::Exclusive, None, true),
            LockValue::Ours { epoch, .. } => (Mode::Exclusive, epoch, false),
        };
        let mut info = LockInfo::new(key, mode);
        info.remaining = self.left;
        info.waiters = self.waiters;
        info.foreign = foreign;
        info.token = epoch.map(FencingToken::of_epoch);
        // An epoch is the time of its grant, by the server's clock.
        info.since = epoch.and_then(|epoch| UNIX_EPOCH.checked_add(Duration::from_micros(epoch)));
        info.claims = self.claims;
        for Described { holder, limit, value } in self.values.iter().filter_map(|value| described(value)) {
            info.holders.push(holder);
            info.values.push(value);
            info.limit = info.limit.max(limit);
        }
        Some(info)
    }
}

/// The description of a lock one of whose side keys has another type than ours.
fn damaged(key: &str) -> LockInfo {
    let mut info = LockInfo::new(key, Mode::Exclusive);
    info.foreign = true;
    info
}

/// What a value says of a hold, if it describes one.
fn described(value: &[u8]) -> Option<Described> {
    match value::read(value) {
        LockValue::Ours { described, .. } => described,
        LockValue::Shared(_) | LockValue::Foreign => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// Reads a page of names: the next cursor, and the names. A name that is no text cannot be a lock of ours.
pub(super) fn read_page(page: Value) -> Option<(String, Vec<String>)> {
    let Value::Array(parts) = page else { return None };
    let [next, Value::Array(names)] = &parts[..] else { return None };
    Some((answers::text(next)?.to_owned(), names.iter().filter_map(answers::text).map(str::to_owned).collect()))
}
