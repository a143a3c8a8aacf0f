//! The transactions, as values: building and reading them is separate from sending them.

use std::sync::Arc;

use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbTxnResponse};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};

pub(super) use etcd_client::proto::PbTxnOpResponse as Outcome;

use super::granted::GrantedClaim;
use super::kind::Kind;
use super::names::{Directory, Name, signed};
use super::position::{ClaimKey, Freshness, Position, keys_only};
use super::slots::Room;
use super::{answer, slots};
use crate::backend::LeaseId;

/// The record of a lease, as a transaction compares and rewrites it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) value: Arc<[u8]>,
    pub(super) lease: LeaseId,
    /// The version that the transaction expects.
    pub(super) version: i64,
}

impl Record {
    fn put(&self) -> TxnOp {
        TxnOp::put(&*self.name, &*self.value, Some(PutOptions::new().with_lease(signed(self.lease))))
    }

    fn is_current(&self) -> Compare {
        Compare::version(&*self.name, CompareOp::Equal, self.version)
    }

    /// Returns how many bytes it adds to a request, at most.
    pub(super) fn bytes(&self) -> usize {
        bytes(4, &self.name) + self.value.len()
    }

    /// Rewrites the record, so that no older copy of any transaction matches it any more.
    ///
    /// ⚠ Such a copy may still be in a stopped member's socket. If the record has another version by now, or no longer exists, older
    /// copies do not match it either.
    pub(super) fn rewrite(&self) -> Txn {
        Txn::new().when([self.is_current()]).and_then([self.put()])
    }

    /// Creates the record, unless an earlier copy of this has.
    pub(super) fn create(&self) -> Txn {
        Txn::new().when([Compare::version(&*self.name, CompareOp::Equal, 0)]).and_then([self.put()])
    }
}

/// The maximum number of bytes of an operation beside its names and values.
const OVERHEAD: usize = 64;

/// Returns an upper bound for the bytes of `operations` that have one name each.
fn bytes(operations: usize, name: &[u8]) -> usize {
    operations * (name.len() + OVERHEAD)
}

/// Returns how many bytes the deletion of a claim adds to a request, at most.
pub(super) fn bytes_of_deletion(name: &[u8]) -> usize {
    bytes(3, name)
}

/// Deletes a claim by its name, which is unique as long as an outcome is unknown.
pub(super) fn abort(name: &[u8]) -> Txn {
    Txn::new().and_then([TxnOp::delete(name, None::<DeleteOptions>)])
}

/// Puts a claim into its queue.
#[derive(Debug)]
pub(super) struct PutClaim {
    pub(super) directory: Directory,
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) value: Vec<u8>,
    pub(super) record: Record,
    pub(super) form: Form,
}

/// What a [`PutClaim`] compares, and what it does beside putting the claim.
#[derive(Debug)]
pub(super) enum Form {
    /// It puts the claim only if nothing blocks it, and reads nothing: a refusal says nothing but that.
    ///
    /// ⚠ As any other request it compares the record, so no copy of it takes effect after the attempt was repeated or aborted. Only the
    /// first request of an attempt may have this form, since a refusal does not tell whether an earlier copy has put the claim.
    Lean {
        /// An unconfirmed release of this process, which the transaction also makes: of an exclusive claim that still holds the key, with
        /// nothing beside it.
        released: Option<Arc<GrantedClaim>>,
    },
    /// It also reads what else is in the queue, or why it was refused.
    Full {
        /// Unconfirmed releases of this process, which the transaction also makes: the claim would queue behind them.
        released: Vec<Arc<GrantedClaim>>,
        /// Whether to put nothing if a claim blocks it.
        only_if_free: bool,
        /// A claim that may block it, to be compared before all others.
        blocker: Option<Name>,
        /// Whether it also rewrites the record, because earlier copies may still take effect.
        is_repeated: bool,
    },
    /// For a slot: as the full one, but without a comparison that tells whether it fits.
    Slot {
        /// As of the full form.
        released: Vec<Arc<GrantedClaim>>,
        /// As of the full form.
        is_repeated: bool,
        /// Of an attempt that does not wait: it puts the claim only if there are no other kinds of claims, and no newer slots than this
        /// create revision. A refusal tells whether there is room.
        newest: Option<i64>,
    },
}

/// The outcome of a [`PutClaim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PutOutcome {
    /// It is in the queue, at this position.
    In { own: ClaimKey, position: Position },
    /// An earlier copy of the request has put it there.
    Already { own: ClaimKey },
    /// The record has a later version.
    Stale { version: i64 },
    /// The record has an earlier version: the store was restored from a backup.
    Rewound,
    /// The record no longer exists, nor does the lease.
    Over,
    /// It was not put because a claim blocks it. The name of one that does, if it was requested.
    Busy(Option<Name>),
    /// It was not put in the [lean form](Form::Lean).
    Refused,
    /// It was not put, since there are other slots than had been known, but there is room while this is the newest one.
    Room {
        /// Its create revision, or zero.
        newest: i64,
    },
}

impl PutClaim {
    /// Returns how many bytes this adds to a request, at most.
    pub(super) fn bytes(&self) -> usize {
        // Each end of a range counts as a name.
        let released: usize = self.released().iter().map(|claim| bytes_of_deletion(&claim.name)).sum();
        let names = match self.form {
            Form::Lean { .. } => 6,
            Form::Full { .. } => 12,
            Form::Slot { .. } => 24,
        };
        bytes(names, &self.name) + self.value.len() + self.record.bytes() + released
    }

    /// Returns the releases that it also makes.
    pub(super) fn released(&self) -> &[Arc<GrantedClaim>] {
        match &self.form {
            Form::Lean { released } => released.as_slice(),
            Form::Full { released, .. } | Form::Slot { released, .. } => released,
        }
    }

    /// Notes for each claim that it releases whether it has found that.
    pub(super) fn note_released(&self, answer: &Answer) {
        let mut outcomes = answer.txn.responses.iter().map(|outcome| outcome.response.as_ref());
        for claim in self.released() {
            // The deletions come first. In the lean form the whole transaction fails if it does not find the claim.
            let has_missed = matches!(outcomes.next().flatten(), Some(Outcome::ResponseTxn(txn)) if !txn.succeeded);
            claim.ended(answer.txn.succeeded && !has_missed);
        }
    }

    /// Returns whether earlier copies of it may still take effect.
    pub(super) fn is_repeated(&self) -> bool {
        matches!(self.form, Form::Full { is_repeated: true, .. } | Form::Slot { is_repeated: true, .. })
    }

    /// Builds the transaction without the rewrite of the record, which has to be sent along with it.
    pub(super) fn txn(&self) -> Txn {
        self.with(None)
    }

    /// Builds the transaction so that it also rewrites the record, if it has to be.
    pub(super) fn alone(&self) -> Txn {
        self.with(self.is_repeated().then(|| self.record.put()))
    }

    fn with(&self, rewrite: Option<TxnOp>) -> Txn {
        let lease = self.record.lease;
        let put = || TxnOp::put(&*self.name, &*self.value, Some(PutOptions::new().with_lease(signed(lease))));
        // An empty range compares as zero.
        let is_empty =
            |(start, end): (Vec<u8>, Vec<u8>)| Compare::create_revision(start, CompareOp::Equal, 0).with_range(end);
        let is_free = || self.directory.blocking(self.kind).into_iter().map(is_empty);
        let is_absent = || Compare::version(&*self.name, CompareOp::Equal, 0);
        let keys = Some(GetOptions::new().with_keys_only());
        let known = || vec![TxnOp::get(&*self.name, keys.clone()), TxnOp::get(&*self.record.name, keys.clone())];
        let deletions =
            |released: &[Arc<GrantedClaim>]| released.iter().map(|claim| TxnOp::txn(claim.delete())).collect();
        let (released, only_if_free, blocker) = match &self.form {
            Form::Lean { released: None } => {
                let mut when = Vec::with_capacity(4);
                when.push(self.record.is_current());
                // An exclusive claim is itself in the range that blocks it.
                when.extend((self.kind == Kind::Shared).then(is_absent));
                when.extend(is_free());
                return Txn::new().when(when).and_then([put()]);
            }
            Form::Lean { released: Some(released) } => {
                let beside = self.directory.beside(&released.name).map(is_empty);
                let when: Vec<_> = [self.record.is_current(), released.exists()].into_iter().chain(beside).collect();
                return Txn::new().when(when).and_then([TxnOp::delete(&*released.name, None), put()]);
            }
            Form::Slot { released, newest, .. } => {
                let limit = self.kind.limit().unwrap_or(1);
                let (mut when, mut then): (_, Vec<_>) =
                    (vec![is_absent(), self.record.is_current()], deletions(released));
                let mut or_else = known();
                then.push(put());
                match newest {
                    Some(newest) => {
                        when.extend(is_free());
                        when.push(slots::has_room(&self.directory, *newest));
                        or_else.extend(slots::look_for_room(&self.directory, limit));
                    }
                    None => then.extend(slots::ahead(&self.directory, limit)),
                }
                then.extend(rewrite);
                return Txn::new().when(when).and_then(then).or_else(or_else);
            }
            Form::Full { released, only_if_free, blocker, .. } => (released, only_if_free, blocker),
        };
        let mut when = vec![is_absent(), self.record.is_current()];
        // etcd stops at the first comparison that fails.
        when.extend(blocker.as_ref().map(|name| Compare::create_revision(&**name, CompareOp::Equal, 0)));
        if *only_if_free {
            when.extend(is_free());
        }
        let mut then: Vec<_> = deletions(released);
        then.push(put());
        then.extend(ahead_of(&self.directory, self.kind, None, Freshness::Linearizable));
        then.extend(rewrite);
        let mut or_else = known();
        or_else.extend(match blocker {
            Some(name) => Some(TxnOp::get(&**name, keys.clone())),
            None if *only_if_free && self.kind == Kind::Exclusive => Some(any_of(&self.directory)),
            None => None,
        });
        Txn::new().when(when).and_then(then).or_else(or_else)
    }

    /// Reads the answer. `None` if it makes no sense.
    pub(super) fn read(&self, answer: Answer) -> Option<PutOutcome> {
        let Answer { txn, revision } = answer;
        let succeeded = txn.succeeded;
        // All that is put in a transaction has the transaction's revision as its create revision.
        let own = || Some(ClaimKey { name: self.name.clone(), create: revision? });
        if let Form::Lean { .. } = self.form {
            if !succeeded {
                return Some(PutOutcome::Refused);
            }
            let operations = 1 + self.released().len();
            return (txn.responses.len() == operations)
                .then_some(PutOutcome::In { own: own()?, position: Position::First });
        }
        let is_put = txn.responses.len() > self.released().len();
        let found = found(txn)?;
        if succeeded {
            let own = own()?;
            let seen = || found.iter().flatten();
            let position = match (&self.form, self.kind) {
                (Form::Slot { newest: Some(_), .. }, _) => is_put.then_some(Position::First)?,
                (_, Kind::Slot(limit)) => slots::position(&self.directory, &own, limit, &found)?,
                // The claim is itself in the range that blocks it.
                (_, Kind::Exclusive) => Position::read(&self.directory, &own, seen())?,
                (_, Kind::Shared) => Position::behind(&self.directory, &own, seen())?,
            };
            return (position != Position::Missing).then_some(PutOutcome::In { own, position });
        }
        if let Some(own) = found.iter().flatten().find(|found| *found.key == *self.name) {
            let own = ClaimKey { name: self.name.clone(), create: own.create_revision };
            return Some(PutOutcome::Already { own });
        }
        match found.iter().flatten().find(|found| *found.key == *self.record.name) {
            None => Some(PutOutcome::Over),
            // It never falls, unless the store was restored from a backup and has overtaken its past since.
            Some(record) if record.version < self.record.version => Some(PutOutcome::Rewound),
            Some(record) if record.version > self.record.version => Some(PutOutcome::Stale { version: record.version }),
            Some(_) => self.read_refusal(&found),
        }
    }

    /// Reads why the claim was not put, if it was not because of the record or an earlier copy.
    fn read_refusal(&self, found: &[Vec<PbKeyValue>]) -> Option<PutOutcome> {
        match self.form {
            Form::Slot { newest: Some(_), .. } => {
                let room = Room::read(&self.directory, self.kind.limit()?, found.get(2..)?)?;
                Some(match room {
                    Room::After(newest) => PutOutcome::Room { newest },
                    Room::None(blocker) => PutOutcome::Busy(Some(blocker)),
                })
            }
            Form::Full { only_if_free: true, .. } => {
                let blocker = found.iter().flatten().find(|found| self.directory.contains(&found.key));
                Some(PutOutcome::Busy(blocker.map(|found| found.key.as_slice().into())))
            }
            Form::Lean { .. } | Form::Full { .. } | Form::Slot { .. } => None,
        }
    }
}

/// Reads any one claim of a directory.
fn any_of(directory: &Directory) -> TxnOp {
    let one = GetOptions::new().with_keys_only().with_range(directory.end()).with_limit(1);
    TxnOp::get(directory.start(), Some(one))
}

/// Reads the position of a claim that was put before and is no slot.
pub(super) fn read_position(directory: &Directory, kind: Kind, own: &ClaimKey, freshness: Freshness) -> Txn {
    // An exclusive claim is itself in the range that blocks it.
    let itself = (kind == Kind::Shared).then(|| TxnOp::get(&*own.name, Some(keys_only(freshness))));
    let ahead = ahead_of(directory, kind, Some(own.create), freshness);
    Txn::new().and_then(itself.into_iter().chain(ahead).collect::<Vec<_>>())
}

/// Reads the claim that is just ahead of one.
///
/// ⚠ The answer must not show newer claims: two waiters that each see the other would wait for each other. In the transaction that
/// puts the claim there are none.
fn ahead_of(directory: &Directory, kind: Kind, create: Option<i64>, freshness: Freshness) -> Vec<TxnOp> {
    let limit = if kind == Kind::Exclusive { 2 } else { 1 };
    let newest = || {
        let options = keys_only(freshness).with_sort(SortTarget::Create, SortOrder::Descend).with_limit(limit);
        match create {
            Some(create) => options.with_max_create_revision(create),
            None => options,
        }
    };
    let ranges = directory.blocking(kind).into_iter();
    ranges.map(|(start, end)| TxnOp::get(start, Some(newest().with_range(end)))).collect()
}

/// Returns the outcomes of a transaction's operations, up to one that is missing: etcd-client's own way to read them panics there.
pub(super) fn outcomes(answer: PbTxnResponse) -> impl Iterator<Item = Outcome> {
    answer.responses.into_iter().map_while(|outcome| outcome.response)
}

/// Returns the answers of a transaction's ranges.
pub(super) fn ranges(answer: PbTxnResponse) -> impl Iterator<Item = PbRangeResponse> {
    outcomes(answer).filter_map(|outcome| match outcome {
        Outcome::ResponseRange(found) => Some(found),
        _ => None,
    })
}

/// Returns the keys that each of a transaction's ranges has found. `None` if the answer makes no sense.
pub(super) fn found(answer: PbTxnResponse) -> Option<Vec<Vec<PbKeyValue>>> {
    ranges(answer).map(|found| found.kvs.into_iter().map(answer::key).collect()).collect()
}

/// The answer to a transaction that may have been a nested one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) txn: PbTxnResponse,
    /// The store's revision at the answer.
    pub(super) revision: Option<i64>,
}

/// Returns the store's revision at an answer. A nested answer has none.
pub(super) fn revision(answer: &PbTxnResponse) -> Option<i64> {
    answer::revision(answer.header.as_ref())
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbResponseOp;

    use super::super::names::Names;
    use super::*;

    #[test]
    fn an_answer_that_makes_no_sense_is_read_up_to_there() {
        let range = |key: &[u8]| {
            let found = PbKeyValue { key: key.to_vec(), create_revision: 2, version: 1, ..PbKeyValue::default() };
            let found = PbRangeResponse { kvs: vec![found], ..PbRangeResponse::default() };
            PbResponseOp { response: Some(Outcome::ResponseRange(found)) }
        };
        let responses = vec![range(b"a"), PbResponseOp { response: None }, range(b"b")];
        let answer = PbTxnResponse { responses, ..PbTxnResponse::default() };
        let found: Vec<_> = found(answer).unwrap().into_iter().flatten().map(|found| found.key).collect();
        assert_eq!(found, [b"a"]);
        let directory = Names::new("p/".into()).directory("k");
        let record = Record { name: (*b"r").into(), value: [].into(), lease: LeaseId(1), version: 1 };
        let name = directory.claim(Kind::Exclusive, LeaseId(1), 1);
        let empty = PbTxnResponse { succeeded: true, ..PbTxnResponse::default() };
        let full = Form::Full { released: Vec::new(), only_if_free: false, blocker: None, is_repeated: false };
        for form in [Form::Lean { released: None }, full] {
            let (directory, name, record) = (directory.clone(), name.clone(), record.clone());
            let put = PutClaim { directory, kind: Kind::Exclusive, name, value: Vec::new(), record, form };
            for revision in [None, Some(7)] {
                assert!(put.read(Answer { txn: empty.clone(), revision }).is_none());
            }
        }
    }

    /// No member of a test's cluster lags for long enough for a test to observe it, so this checks the requests.
    #[test]
    fn a_read_that_decides_is_linearizable_and_shows_nothing_newer() {
        let directory = Names::new("p/".into()).directory("k");
        let own = ClaimKey { name: directory.claim(Kind::Exclusive, LeaseId(1), 1), create: 7 };
        for kind in [Kind::Exclusive, Kind::Shared] {
            let asked = |freshness| format!("{:?}", read_position(&directory, kind, &own, freshness));
            let (fresh, stale) = (asked(Freshness::Linearizable), asked(Freshness::Serializable));
            let count = |text: &str, what: &str| text.matches(what).count();
            let ranges = directory.blocking(kind).len();
            assert_eq!(count(&fresh, "max_create_revision: 7"), ranges, "{fresh}");
            assert_eq!(count(&fresh, "serializable: true"), 0, "{fresh}");
            assert_eq!(count(&stale, "serializable: false"), 0, "{stale}");
            assert!(count(&stale, "serializable: true") >= ranges, "{stale}");
        }
    }
}
