//! The transactions, as values: building and reading them is separate from sending them.

use std::sync::Arc;

use etcd_client::proto::{PbKeyValue, PbRangeResponse, PbTxnResponse};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};

pub(super) use etcd_client::proto::PbTxnOpResponse as Outcome;

use super::answer;
use super::names::{Directory, Name, signed};
use crate::backend::LeaseId;
use crate::info::Mode;

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

/// A claim on the server, by its name and its create revision: names are reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClaimKey {
    pub(super) name: Name,
    pub(super) create: i64,
}

impl ClaimKey {
    /// Returns the condition that the claim exists.
    pub(super) fn exists(&self) -> Compare {
        Compare::create_revision(&*self.name, CompareOp::Equal, self.create)
    }

    /// Deletes the claim, and no other one of the same name.
    pub(super) fn delete(&self) -> Txn {
        Txn::new().when([self.exists()]).and_then([TxnOp::delete(&*self.name, None::<DeleteOptions>)])
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
    pub(super) mode: Mode,
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
        released: Option<Arc<ClaimKey>>,
    },
    /// It also reads what else is in the queue, or why it was refused.
    Full {
        /// Unconfirmed releases of this process, which the transaction also makes: the claim would queue behind them.
        released: Vec<Arc<ClaimKey>>,
        /// Whether to put nothing if a claim blocks it.
        only_if_free: bool,
        /// A claim that may block it, to be compared before all others.
        blocker: Option<Name>,
        /// Whether it also rewrites the record, because earlier copies may still take effect.
        is_repeated: bool,
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
}

impl PutClaim {
    /// Returns how many bytes this adds to a request, at most.
    pub(super) fn bytes(&self) -> usize {
        // Each end of a range counts as a name.
        let released: usize = self.released().iter().map(|claim| bytes_of_deletion(&claim.name)).sum();
        let names = if matches!(self.form, Form::Lean { .. }) { 6 } else { 12 };
        bytes(names, &self.name) + self.value.len() + self.record.bytes() + released
    }

    /// Returns the releases that it also makes.
    pub(super) fn released(&self) -> &[Arc<ClaimKey>] {
        match &self.form {
            Form::Lean { released } => released.as_slice(),
            Form::Full { released, .. } => released,
        }
    }

    /// Returns whether earlier copies of it may still take effect.
    pub(super) fn is_repeated(&self) -> bool {
        matches!(self.form, Form::Full { is_repeated: true, .. })
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
        let is_free = || self.directory.blocking(self.mode).into_iter().map(is_empty);
        let is_absent = || Compare::version(&*self.name, CompareOp::Equal, 0);
        let (released, only_if_free, blocker) = match &self.form {
            Form::Lean { released: None } => {
                let mut when = Vec::with_capacity(4);
                when.push(self.record.is_current());
                // An exclusive claim is itself in the range that blocks it.
                when.extend((self.mode == Mode::Shared).then(is_absent));
                when.extend(is_free());
                return Txn::new().when(when).and_then([put()]);
            }
            Form::Lean { released: Some(released) } => {
                let beside = self.directory.beside(&released.name).map(is_empty);
                let when: Vec<_> = [self.record.is_current(), released.exists()].into_iter().chain(beside).collect();
                return Txn::new().when(when).and_then([TxnOp::delete(&*released.name, None), put()]);
            }
            Form::Full { released, only_if_free, blocker, .. } => (released, only_if_free, blocker),
        };
        let mut when = vec![is_absent(), self.record.is_current()];
        // etcd stops at the first comparison that fails.
        when.extend(blocker.as_ref().map(|name| Compare::create_revision(&**name, CompareOp::Equal, 0)));
        if *only_if_free {
            when.extend(is_free());
        }
        let mut then: Vec<_> = released.iter().map(|claim| TxnOp::txn(claim.delete())).collect();
        then.push(put());
        then.extend(ahead_of(&self.directory, self.mode, None, Freshness::Linearizable));
        then.extend(rewrite);
        let keys = Some(GetOptions::new().with_keys_only());
        let mut or_else = vec![TxnOp::get(&*self.name, keys.clone()), TxnOp::get(&*self.record.name, keys.clone())];
        or_else.extend(match blocker {
            Some(name) => Some(TxnOp::get(&**name, keys)),
            None if *only_if_free && self.mode == Mode::Exclusive => Some(any_of(&self.directory)),
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
        let Form::Full { only_if_free, .. } = &self.form else {
            if !succeeded {
                return Some(PutOutcome::Refused);
            }
            let operations = 1 + self.released().len();
            return (txn.responses.len() == operations)
                .then_some(PutOutcome::In { own: own()?, position: Position::First });
        };
        let seen = keys(txn)?;
        if succeeded {
            let own = own()?;
            let position = match self.mode {
                // The claim is itself in the range that blocks it.
                Mode::Exclusive => Position::read(&self.directory, &own, &seen)?,
                Mode::Shared => Position::behind(&self.directory, &own, &seen)?,
            };
            return (position != Position::Missing).then_some(PutOutcome::In { own, position });
        }
        if let Some(own) = seen.iter().find(|found| *found.key == *self.name) {
            let own = ClaimKey { name: self.name.clone(), create: own.create_revision };
            return Some(PutOutcome::Already { own });
        }
        match seen.iter().find(|found| *found.key == *self.record.name) {
            None => Some(PutOutcome::Over),
            // It never falls, unless the store was restored from a backup and has overtaken its past since.
            Some(record) if record.version < self.record.version => Some(PutOutcome::Rewound),
            Some(record) if record.version > self.record.version => Some(PutOutcome::Stale { version: record.version }),
            Some(_) => {
                let blocker = seen.iter().find(|found| self.directory.contains(&found.key));
                only_if_free.then(|| PutOutcome::Busy(blocker.map(|found| found.key.as_slice().into())))
            }
        }
    }
}

/// Reads any one claim of a directory.
fn any_of(directory: &Directory) -> TxnOp {
    let one = GetOptions::new().with_keys_only().with_range(directory.end()).with_limit(1);
    TxnOp::get(directory.start(), Some(one))
}

/// The position of a claim in its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Nothing blocks it.
    First,
    /// This claim is just ahead.
    Behind(ClaimKey),
    /// It is not in the queue.
    Missing,
}

impl Position {
    /// Reads the position from the answer to [`read_position`]. An earlier claim with the same name is another one. `None` if the answer
    /// makes no sense.
    pub(super) fn read(directory: &Directory, own: &ClaimKey, seen: &[PbKeyValue]) -> Option<Self> {
        if seen.iter().any(|found| *found.key == *own.name && found.create_revision == own.create) {
            Self::behind(directory, own, seen)
        } else {
            Some(Self::Missing)
        }
    }

    /// Reads the position of a claim that is in the queue.
    fn behind(directory: &Directory, own: &ClaimKey, seen: &[PbKeyValue]) -> Option<Self> {
        let ahead = seen.iter().filter(|found| *found.key != *own.name).max_by_key(|found| found.create_revision);
        let Some(ahead) = ahead else { return Some(Self::First) };
        // ⚠ Newer claims were not requested: such a claim may be a waiter behind this one, and each would wait for the other.
        let is_ahead = directory.contains(&ahead.key) && ahead.create_revision < own.create;
        is_ahead.then(|| Self::Behind(ClaimKey { name: ahead.key.as_slice().into(), create: ahead.create_revision }))
    }
}

/// The state of the store that a read may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// The present state of the cluster: the member confirms with the leader first, and waits for its writes.
    Linearizable,
    /// The state of the member that answers, which may lag behind.
    ///
    /// It proves that a claim is first: a state that has the claim, by its create revision, is not older than the claim; older claims
    /// can only be removed, and never return; so the claim held the key at that revision, whatever the member has missed since. It
    /// proves nothing else.
    Serializable,
}

/// Reads the position of a claim that was put before.
pub(super) fn read_position(directory: &Directory, mode: Mode, own: &ClaimKey, freshness: Freshness) -> Txn {
    // An exclusive claim is itself in the range that blocks it.
    let itself = (mode == Mode::Shared).then(|| TxnOp::get(&*own.name, Some(keys_only(freshness))));
    let ahead = ahead_of(directory, mode, Some(own.create), freshness);
    Txn::new().and_then(itself.into_iter().chain(ahead).collect::<Vec<_>>())
}

/// Returns the options of a read without values.
pub(super) fn keys_only(freshness: Freshness) -> GetOptions {
    let options = GetOptions::new().with_keys_only();
    if freshness == Freshness::Serializable { options.with_serializable() } else { options }
}

/// Reads the claim that is just ahead of one.
///
/// ⚠ The answer must not show newer claims: two waiters that each see the other would wait for each other. In the transaction that
/// puts the claim there are none.
fn ahead_of(directory: &Directory, mode: Mode, create: Option<i64>, freshness: Freshness) -> Vec<TxnOp> {
    let limit = match mode {
        Mode::Exclusive => 2,
        Mode::Shared => 1,
    };
    let newest = || {
        let options = keys_only(freshness).with_sort(SortTarget::Create, SortOrder::Descend).with_limit(limit);
        match create {
            Some(create) => options.with_max_create_revision(create),
            None => options,
        }
    };
    let ranges = directory.blocking(mode).into_iter();
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

/// Returns all keys that a transaction's ranges have found. `None` if the answer makes no sense.
pub(super) fn keys(answer: PbTxnResponse) -> Option<Vec<PbKeyValue>> {
    ranges(answer).flat_map(|found| found.kvs).map(answer::key).collect()
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
        let found: Vec<_> = keys(answer).unwrap().into_iter().map(|found| found.key).collect();
        assert_eq!(found, [b"a"]);
        let directory = Names::new("p/".into()).directory("k");
        let record = Record { name: (*b"r").into(), value: [].into(), lease: LeaseId(1), version: 1 };
        let name = directory.claim(Mode::Exclusive, LeaseId(1), 1);
        let empty = PbTxnResponse { succeeded: true, ..PbTxnResponse::default() };
        let full = Form::Full { released: Vec::new(), only_if_free: false, blocker: None, is_repeated: false };
        for form in [Form::Lean { released: None }, full] {
            let (directory, name, record) = (directory.clone(), name.clone(), record.clone());
            let put = PutClaim { directory, mode: Mode::Exclusive, name, value: Vec::new(), record, form };
            for revision in [None, Some(7)] {
                assert!(put.read(Answer { txn: empty.clone(), revision }).is_none());
            }
        }
    }

    /// No member of a test's cluster lags for long enough for a test to observe it, so this checks the requests.
    #[test]
    fn a_read_that_decides_is_linearizable_and_shows_nothing_newer() {
        let directory = Names::new("p/".into()).directory("k");
        let own = ClaimKey { name: directory.claim(Mode::Exclusive, LeaseId(1), 1), create: 7 };
        for mode in [Mode::Exclusive, Mode::Shared] {
            let asked = |freshness| format!("{:?}", read_position(&directory, mode, &own, freshness));
            let (fresh, stale) = (asked(Freshness::Linearizable), asked(Freshness::Serializable));
            let count = |text: &str, what: &str| text.matches(what).count();
            let ranges = directory.blocking(mode).len();
            assert_eq!(count(&fresh, "max_create_revision: 7"), ranges, "{fresh}");
            assert_eq!(count(&fresh, "serializable: true"), 0, "{fresh}");
            assert_eq!(count(&stale, "serializable: false"), 0, "{stale}");
            assert!(count(&stale, "serializable: true") >= ranges, "{stale}");
        }
    }
}
