//! Who holds what, and how to take it away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use redis::Value;

use super::names::Name;
use super::scripts::{self, Op};
use super::{Shared, error, value};
use crate::backend::{ErrorKind, Evict, Result};
use crate::info::{ClaimId, Eviction, Holder, LockInfo, Mode};
use crate::token::FencingToken;

/// How many names the server looks at in one step of a list.
const PAGE: usize = 500;

impl Shared {
    /// Tells who holds a key.
    pub(super) async fn inspect(&self, key: &str) -> Result<Option<LockInfo>> {
        let answer = self.connection.request_one(Op::Inspect(self.names.of(key)?)).await?;
        self.info(key, answer)
    }

    /// Tells who holds all the keys that begin with `prefix`.
    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<LockInfo>> {
        let (mut cursor, pattern) = (String::from("0"), self.names.pattern(prefix));
        // The server may show a name more than once.
        let mut keys = BTreeSet::new();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE);
            let page = self.connection.command(scan).await?;
            let (next, names) = page_of(page).ok_or_else(|| error::malformed(self.connection.server()))?;
            keys.extend(names.iter().filter_map(|name| self.names.key(name)).map(str::to_owned));
            if next == "0" {
                break;
            }
            cursor = next;
        }
        let names: Vec<(String, Arc<Name>)> =
            keys.into_iter().filter_map(|key| self.names.of(&key).ok().map(|name| (key, name))).collect();
        let mut locks = Vec::new();
        for names in names.chunks(PAGE) {
            let parts = names.iter().map(|(_, name)| Op::Inspect(name.clone())).collect();
            let answers = self.connection.request(parts).await;
            for ((key, _), answer) in names.iter().zip(answers) {
                match answer {
                    // One that others have spoilt must not hide the rest.
                    Err(error) if error.kind() == ErrorKind::Incompatible => locks.push(spoilt(key)),
                    answer => locks.extend(self.info(key, answer?)?),
                }
            }
        }
        Ok(locks)
    }

    fn info(&self, key: &str, answer: Value) -> Result<Option<LockInfo>> {
        let read = Seen::read(answer).ok_or_else(|| error::malformed(self.connection.server()))?;
        Ok(read.info(key))
    }

    /// Takes a key away from those who hold it.
    pub(super) async fn evict(&self, key: &str, evict: &Evict) -> Result<Eviction> {
        let server = self.connection.server();
        match self.connection.request_one(Op::Evict(self.names.of(key)?, evict.only.clone())).await? {
            Value::Array(tokens) if tokens.is_empty() => Ok(Eviction::default()),
            Value::Array(tokens) => {
                let holders = tokens.iter().filter_map(bytes).filter_map(holder);
                Ok(Eviction::new(holders.collect(), vec![key.to_owned()]))
            }
            answer if scripts::text(&answer) == Some("i") => Err(error::incompatible(server)),
            _ => Err(error::malformed(server)),
        }
    }
}

/// What the script tells of a lock.
pub(super) struct Seen {
    /// Redis's type.
    kind: String,
    value: Vec<u8>,
    left: Option<Duration>,
    fence: Option<u64>,
    waiters: usize,
    /// What the claims that hold it are, and who they are of: the readers', if there are some.
    claims: Vec<ClaimId>,
    words: Vec<Vec<u8>>,
}

impl Seen {
    pub(super) fn read(answer: Value) -> Option<Self> {
        let Value::Array(parts) = answer else { return None };
        let mut parts = parts.into_iter();
        let kind = scripts::text(&parts.next()?)?.to_owned();
        let value = bytes(&parts.next()?)?.to_vec();
        let Value::Int(left) = parts.next()? else { return None };
        let fence = scripts::epoch(scripts::text(&parts.next()?)?);
        let Value::Int(waiters) = parts.next()? else { return None };
        let (mut claims, mut words) = (Vec::new(), Vec::new());
        while let (Some(id), Some(word)) = (parts.next(), parts.next()) {
            claims.push(ClaimId::new(scripts::text(&id)?));
            words.push(bytes(&word)?.to_vec());
        }
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        let waiters = usize::try_from(waiters).unwrap_or_default();
        Some(Self { kind, value, left, fence, waiters, claims, words })
    }

    pub(super) fn info(self, key: &str) -> Option<LockInfo> {
        if self.kind == "none" {
            return None;
        }
        let value = if self.kind == "string" { value::read(&self.value) } else { value::LockValue::Foreign };
        // All who shared it are gone, and nobody has come since.
        if value == value::LockValue::Shared && self.claims.is_empty() {
            return None;
        }
        let mode = if value == value::LockValue::Shared { Mode::Shared } else { Mode::Exclusive };
        let mut info = LockInfo::new(key, mode);
        info.remaining = self.left;
        info.waiters = self.waiters;
        info.foreign = value == value::LockValue::Foreign;
        if !info.foreign {
            info.token = self.fence.map(|epoch| FencingToken::of_grant(epoch, 0));
            // An epoch is the time of its grant, by the server's clock.
            info.since = self.fence.and_then(|epoch| UNIX_EPOCH.checked_add(Duration::from_micros(epoch)));
        }
        info.claims = self.claims;
        info.holders.extend(self.words.iter().filter_map(|word| holder(word)));
        Some(info)
    }
}

/// What is known of a lock beside which there is something of another type than ours.
fn spoilt(key: &str) -> LockInfo {
    let mut info = LockInfo::new(key, Mode::Exclusive);
    info.foreign = true;
    info
}

/// Who a word is of, if it says.
fn holder(word: &[u8]) -> Option<Holder> {
    match value::read(word) {
        value::LockValue::Ours(known) => known,
        value::LockValue::Shared | value::LockValue::Foreign => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// The next cursor, and names. Names that are no text are none of ours.
pub(super) fn page_of(page: Value) -> Option<(String, Vec<String>)> {
    let Value::Array(parts) = page else { return None };
    let [next, Value::Array(names)] = &parts[..] else { return None };
    Some((scripts::text(next)?.to_owned(), names.iter().filter_map(scripts::text).map(str::to_owned).collect()))
}
