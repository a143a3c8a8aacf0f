//! Transactions that may be nested in one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::proto::PbTxnResponse;
use etcd_client::{Txn, TxnOp};

use super::error;
use super::granted::GrantedClaim;
use super::names::{Directory, Name};
use super::releases::Carried;
use super::slots;
use super::txn::{self, Answer, Outcome, PutClaim, Record};
use crate::backend::{AttemptId, BackendError, LeaseId};

/// A transaction that may be sent together with others. It is built when it is sent.
#[derive(Debug)]
pub(super) struct Member {
    /// All that is put in one transaction has the same create revision, so there is one member of each directory in it.
    directory: Directory,
    content: Content,
    /// How many bytes it adds to a request, at most.
    bytes: usize,
}

#[derive(Debug)]
enum Content {
    /// A claim is put, with the releases that it also makes.
    Claim { attempt: AttemptId, put: Arc<PutClaim>, carried: Option<Carried> },
    /// A claim is deleted, and no other one of the same name.
    Release { claim: Arc<GrantedClaim>, record: Option<Record> },
    /// A claim of unknown outcome is deleted by its name.
    Abort { name: Name, record: Option<Record> },
    /// A slot is touched.
    Touch { claim: Arc<GrantedClaim>, lease: LeaseId },
}

impl Member {
    /// Creates the transaction of a claim.
    pub(super) fn claim(attempt: AttemptId, put: Arc<PutClaim>, carried: Option<Carried>) -> Self {
        Self { directory: put.directory.clone(), bytes: put.bytes(), content: Content::Claim { attempt, put, carried } }
    }

    /// Creates the transaction that deletes a claim, with the record to rewrite along with it.
    pub(super) fn release(directory: Directory, claim: Arc<GrantedClaim>, record: Option<Record>) -> Self {
        let bytes = bytes_of_deletion(&claim.name, record.as_ref());
        Self { directory, bytes, content: Content::Release { claim, record } }
    }

    /// Creates the transaction that deletes a claim by its name, with the record to rewrite along with it.
    pub(super) fn abort(directory: Directory, name: Name, record: Option<Record>) -> Self {
        let bytes = bytes_of_deletion(&name, record.as_ref());
        Self { directory, bytes, content: Content::Abort { name, record } }
    }

    /// Creates the transaction that touches a slot.
    pub(super) fn touch(directory: Directory, claim: Arc<GrantedClaim>, lease: LeaseId) -> Self {
        let bytes = bytes_of_deletion(&claim.name, None);
        Self { directory, bytes, content: Content::Touch { claim, lease } }
    }

    /// Returns the transaction without the rewrite of a record.
    fn txn(&self) -> Txn {
        match &self.content {
            Content::Claim { put, .. } => put.txn(),
            Content::Release { claim, .. } => claim.delete(),
            Content::Abort { name, .. } => txn::abort(name),
            Content::Touch { claim, lease } => slots::touch(claim, *lease),
        }
    }

    /// Returns the record to rewrite along with it, so that older copies of an attempt have no effect.
    fn record(&self) -> Option<&Record> {
        match &self.content {
            Content::Claim { put, .. } => put.is_repeated().then_some(&put.record),
            Content::Release { record, .. } | Content::Abort { record, .. } => record.as_ref(),
            Content::Touch { .. } => None,
        }
    }

    /// Returns the whole transaction, if it can be sent without being nested in another one: that needs fewer operations.
    fn alone(&self) -> Option<Txn> {
        match &self.content {
            Content::Claim { put, .. } => Some(put.alone()),
            Content::Release { .. } | Content::Abort { .. } | Content::Touch { .. } => {
                self.record().is_none().then(|| self.txn())
            }
        }
    }

    fn is_sent_alone(&self) -> bool {
        matches!(self.content, Content::Claim { .. }) || self.record().is_none()
    }

    /// Returns an operation that needs the same permissions and space, and is never executed.
    fn guard(&self) -> TxnOp {
        match &self.content {
            Content::Claim { put, .. } => TxnOp::put(&*put.name, "", None),
            Content::Touch { claim, .. } => TxnOp::put(&*claim.name, "", None),
            Content::Release { claim, .. } => TxnOp::delete(&*claim.name, None),
            Content::Abort { name, .. } => TxnOp::delete(&**name, None),
        }
    }

    /// Returns the granted claims that it deletes.
    fn released(&self) -> &[Arc<GrantedClaim>] {
        match &self.content {
            Content::Claim { put, .. } => put.released(),
            Content::Release { claim, .. } => std::slice::from_ref(claim),
            Content::Abort { .. } | Content::Touch { .. } => &[],
        }
    }

    /// Notes what an answer says of the granted claims that it deletes.
    fn answered(&self, answer: &Answer) {
        match &self.content {
            Content::Claim { put, .. } => put.note_released(answer),
            Content::Release { claim, .. } => claim.ended(answer.txn.succeeded),
            Content::Abort { .. } | Content::Touch { .. } => {}
        }
    }

    /// Returns the attempt whose claim it puts.
    pub(super) fn attempt(&self) -> Option<AttemptId> {
        match &self.content {
            Content::Claim { attempt, .. } => Some(*attempt),
            Content::Release { .. } | Content::Abort { .. } | Content::Touch { .. } => None,
        }
    }

    /// Returns the releases that a claim also makes.
    pub(super) fn carried(&self) -> Option<&Carried> {
        match &self.content {
            Content::Claim { carried, .. } => carried.as_ref(),
            Content::Release { .. } | Content::Abort { .. } | Content::Touch { .. } => None,
        }
    }

    /// Returns the directory of its claim.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Returns how many bytes it adds to a request, at most.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Returns how many bytes the deletion of a claim adds to a request, at most.
fn bytes_of_deletion(name: &[u8], record: Option<&Record>) -> usize {
    txn::bytes_of_deletion(name) + record.map_or(0, Record::bytes)
}

/// The members of a request in flight. However that ends, it is noted for the granted claims that they delete.
pub(super) struct InFlight<'a>(&'a [&'a Member]);

impl<'a> InFlight<'a> {
    /// Notes that the request is about to be sent.
    pub(super) fn new(members: &'a [&'a Member]) -> Self {
        released(members).for_each(|claim| claim.sending());
        Self(members)
    }

    /// Notes the answers, and returns them. One that is missing may have been any.
    pub(super) fn answered(mut self, answers: Vec<Answer>) -> Vec<Answer> {
        let (answered, missing) = self.0.split_at(answers.len().min(self.0.len()));
        answered.iter().zip(&answers).for_each(|(member, answer)| member.answered(answer));
        self.0 = missing;
        answers
    }

    /// Notes that the request has failed.
    pub(super) fn failed(mut self, error: &BackendError) {
        if !error::may_have_run(error) {
            released(self.0).for_each(|claim| claim.ended(false));
            self.0 = &[];
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        released(self.0).for_each(|claim| claim.ended(true));
    }
}

/// Returns the granted claims that these members delete.
fn released<'a>(members: &[&'a Member]) -> impl Iterator<Item = &'a Arc<GrantedClaim>> {
    members.iter().flat_map(|member| member.released())
}

/// Builds the request of several members. etcd refuses siblings that put the same key, so each record is rewritten once.
pub(super) fn together(members: &[&Member], is_guarded: impl FnOnce() -> bool) -> Txn {
    if let [member] = members
        && let Some(txn) = member.alone()
    {
        return txn;
    }
    let mut records: BTreeMap<&[u8], &Record> = BTreeMap::new();
    for record in members.iter().filter_map(|member| member.record()) {
        let newest = records.entry(&record.name).or_insert(record);
        if newest.version < record.version {
            *newest = record;
        }
    }
    let mut then = Vec::with_capacity(members.len() + records.len());
    then.extend(members.iter().map(|member| TxnOp::txn(member.txn())));
    then.extend(records.into_values().map(|record| TxnOp::txn(record.rewrite())));
    let request = Txn::new().and_then(then);
    if is_guarded() {
        request.or_else(members.iter().map(|member| member.guard()).collect::<Vec<_>>())
    } else {
        request
    }
}

/// Returns the members' answers, in their order.
pub(super) fn split(answer: PbTxnResponse, members: &[&Member]) -> Vec<Answer> {
    let revision = txn::revision(&answer);
    match members {
        [member] if member.is_sent_alone() => vec![Answer { txn: answer, revision }],
        _ => txn::outcomes(answer)
            .take(members.len())
            .map_while(|outcome| match outcome {
                Outcome::ResponseTxn(txn) => Some(Answer { txn, revision }),
                _ => None,
            })
            .collect(),
    }
}
