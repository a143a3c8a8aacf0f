//! Answers of a server from plain values, for the fuzz target.
//!
//! Each function reads one kind of answer as the backend does, without a server.

use etcd_client::WatchResponse;
use etcd_client::proto::{
    PbEvent, PbKeyValue, PbRangeResponse, PbResponseHeader, PbResponseOp, PbTxnResponse, PbWatchResponse,
};

use super::kind::Kind;
use super::names::Names;
use super::position::{ClaimKey, Position};
use super::txn::{Answer, Form, Outcome, PutClaim, PutOutcome, Record};
use super::value::{self, Author};
use super::{answer, txn, watch};
use crate::backend::LeaseId;
use crate::info::Mode;

/// A key as a server sends it.
#[derive(Clone, Debug, Default)]
pub struct EtcdKey {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision of its creation.
    pub created: i64,
    /// The revision of its last change.
    pub modified: i64,
    /// The number of times that it was written since its creation.
    pub version: i64,
    /// Its lease, or 0.
    pub lease: i64,
}

impl From<&EtcdKey> for PbKeyValue {
    fn from(key: &EtcdKey) -> Self {
        Self {
            key: key.name.clone(),
            value: key.value.clone(),
            create_revision: key.created,
            mod_revision: key.modified,
            version: key.version,
            lease: key.lease,
        }
    }
}

/// Reads what a server sends about one lock.
#[derive(Debug)]
pub struct EtcdAnswers {
    names: Names,
    key: String,
    kind: Kind,
}

/// The lease, the number and the create revision of the lock's claim.
const CLAIM: (LeaseId, u64, i64) = (LeaseId(0xa), 1, 100);

impl EtcdAnswers {
    /// Creates the reader of a lock's answers.
    pub fn new(prefix: &str, key: &str, mode: Mode) -> Self {
        let kind = if mode == Mode::Shared { Kind::Shared } else { Kind::Exclusive };
        Self { names: Names::new(prefix.into()), key: key.into(), kind }
    }

    fn own(&self) -> ClaimKey {
        let (lease, number, create) = CLAIM;
        ClaimKey { name: self.names.directory(&self.key).claim(self.kind, lease, number), create }
    }

    /// Returns the name of the lock's own claim, and its create revision.
    pub fn claim(&self) -> (Vec<u8>, i64) {
        let ClaimKey { name, create } = self.own();
        (name.to_vec(), create)
    }

    /// Reads a claim of any client. Returns its key, and its holder's name if that is known.
    pub fn read_claim(&self, name: &[u8], value: &[u8]) -> Option<(String, Option<String>)> {
        let (key, child) = self.names.decode(name)?;
        let holder = match value::author(child, value) {
            Author::Known(known) => Some(known.holder.name),
            Author::Other | Author::Foreign => None,
        };
        Some((key, holder))
    }

    /// Reads the answer to a claim that was put. Returns the epoch if it holds the lock.
    pub fn read_placed(&self, succeeded: bool, revision: Option<i64>, ranges: &[Vec<EtcdKey>]) -> Option<u64> {
        let (directory, own) = (self.names.directory(&self.key), self.own());
        let record = Record { name: self.names.record(CLAIM.0).into(), value: [].into(), lease: CLAIM.0, version: 1 };
        let form = Form::Full { released: Vec::new(), only_if_free: true, blocker: None, is_repeated: false };
        let put = PutClaim { directory, kind: self.kind, name: own.name, value: Vec::new(), record, form };
        let txn = PbTxnResponse { succeeded, ..transaction(revision, ranges) };
        let revision = txn::revision(&txn);
        match put.read(Answer { txn, revision })? {
            PutOutcome::In { position: Position::First, .. } => answer::epoch(revision?),
            _ => None,
        }
    }

    /// Reads the claim's position. Returns the epoch if it holds the lock.
    pub fn read_standing(&self, revision: Option<i64>, ranges: &[Vec<EtcdKey>]) -> Option<u64> {
        let txn = transaction(revision, ranges);
        let revision = txn::revision(&txn)?;
        let found = txn::found(txn)?;
        match Position::read(&self.names.directory(&self.key), &self.own(), found.iter().flatten())? {
            Position::First => answer::epoch(revision),
            _ => None,
        }
    }

    /// Reads a page of all locks whose keys begin with the lock's key. Returns the names on it.
    pub fn read_page(&self, keys: &[EtcdKey]) -> Option<Vec<Vec<u8>>> {
        let (start, end) = self.names.range(&self.key);
        Some(answer::range(range(keys), &start, &end)?.into_iter().map(|found| found.key).collect())
    }

    /// Reads a stream whose first watch is on the claim. Returns the revisions of its deletions.
    pub fn read_watch(&self, answers: &[EtcdWatchAnswer]) -> Vec<i64> {
        let answers = answers.iter().map(|answer| {
            let event = |(kind, key): &(i32, EtcdKey)| PbEvent { r#type: *kind, kv: Some(key.into()), prev_kv: None };
            WatchResponse(PbWatchResponse {
                header: answer.revision.map(header),
                watch_id: answer.watch,
                created: answer.created,
                canceled: answer.canceled,
                compact_revision: answer.compacted,
                events: answer.events.iter().map(event).collect(),
                ..PbWatchResponse::default()
            })
        });
        watch::read(self.own().name, answers)
    }

    /// Reads the TTL of a lease, in milliseconds.
    pub fn read_ttl(&self, seconds: i64, requested: std::time::Duration) -> Option<u128> {
        answer::ttl(seconds, requested).map(|ttl| ttl.as_millis())
    }
}

/// One message on a stream of watches.
#[derive(Clone, Debug, Default)]
pub struct EtcdWatchAnswer {
    /// The number of the watch.
    pub watch: i64,
    /// The revision of its header, if it has one.
    pub revision: Option<i64>,
    /// Whether it confirms the watch.
    pub created: bool,
    /// Whether it ends the watch.
    pub canceled: bool,
    /// The revision up to which the store was compacted, or 0.
    pub compacted: i64,
    /// The types of events, with their keys.
    pub events: Vec<(i32, EtcdKey)>,
}

fn header(revision: i64) -> PbResponseHeader {
    PbResponseHeader { revision, ..PbResponseHeader::default() }
}

fn range(keys: &[EtcdKey]) -> PbRangeResponse {
    PbRangeResponse { kvs: keys.iter().map(Into::into).collect(), ..PbRangeResponse::default() }
}

/// Creates the answer to a transaction. An outcome without keys is missing in it.
fn transaction(revision: Option<i64>, ranges: &[Vec<EtcdKey>]) -> PbTxnResponse {
    let outcome = |keys: &Vec<EtcdKey>| PbResponseOp {
        response: (!keys.is_empty()).then(|| Outcome::ResponseRange(range(keys))),
    };
    PbTxnResponse {
        header: revision.map(header),
        responses: ranges.iter().map(outcome).collect(),
        ..PbTxnResponse::default()
    }
}
