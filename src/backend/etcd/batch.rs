//! Group commit: transactions that arrive while others are in flight are sent together, nested in the next request.
//!
//! A request costs the server far more than its contents. So a manager has at most three requests in flight, and the next one is sent
//! as soon as it is no smaller than those. A single transaction is sent at once; a release in flight does not delay the next claim; and
//! under load there are few requests, and large ones. No timer delays anything.
//!
//! Requests belong to the keeper, with everything that others need: the lane, the time limit and the releases that a claim also makes.
//! A caller has a place in the queue and later its answer, so a future that is not polled delays no other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbTxnResponse;
use etcd_client::{Txn, TxnOp};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::claims::Claims;
use super::connection::Connection;
use super::error;
use super::granted::GrantedClaim;
use super::names::{Directory, Name};
use super::releases::{Carried, Due, Sent};
use super::slots;
use super::txn::{self, Answer, Outcome, PutClaim, Record};
use crate::backend::{AttemptId, BackendError, ErrorKind, LeaseId, Result};
use crate::process::facade;

/// The maximum number of requests in flight. Of 2, 3 and 4, 3 was the fastest with 64 tasks.
const LANES: usize = 3;

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

    fn attempt(&self) -> Option<AttemptId> {
        match &self.content {
            Content::Claim { attempt, .. } => Some(*attempt),
            Content::Release { .. } | Content::Abort { .. } | Content::Touch { .. } => None,
        }
    }
}

/// Returns how many bytes the deletion of a claim adds to a request, at most.
fn bytes_of_deletion(name: &[u8], record: Option<&Record>) -> usize {
    txn::bytes_of_deletion(name) + record.map_or(0, Record::bytes)
}

/// Sends the transactions of one manager, those that meet in one request.
pub(super) struct Batcher(Arc<Inner>);

struct Inner {
    connection: Arc<Connection>,
    claims: Arc<Claims>,
    state: Mutex<State>,
}

struct State {
    /// The number of members in flight, for each lane in use.
    lanes: Vec<usize>,
    last: u64,
    queue: BTreeMap<u64, Queued>,
}

struct Queued {
    member: Member,
    reply: Reply,
}

/// Where the outcome of a member goes.
pub(super) enum Reply {
    /// A caller that waits for it; one that was dropped aborts the attempt.
    Caller(oneshot::Sender<Result<Answer>>),
    /// A release that was begun without a future.
    Begun(Arc<dyn Sent>, Due),
}

impl Reply {
    fn send(self, outcome: Result<Answer>) {
        match self {
            Self::Caller(reply) => drop(reply.send(outcome)),
            Self::Begun(sent, due) => sent.sent(due, outcome.map(drop)),
        }
    }
}

/// A request in flight. However its task ends, the lane is given back.
struct Lane {
    inner: Arc<Inner>,
    /// `None` once it was given back.
    members: Option<usize>,
}

/// The members of a request in flight. However that ends, it is noted for the granted claims that they delete.
struct InFlight<'a>(&'a [&'a Member]);

/// A place in the queue for a lane.
struct Ticket<'a> {
    inner: &'a Inner,
    number: u64,
    answer: oneshot::Receiver<Result<Answer>>,
}

impl Batcher {
    pub(super) fn new(connection: Arc<Connection>, claims: Arc<Claims>) -> Self {
        let state = Mutex::new(State { lanes: Vec::new(), last: 0, queue: BTreeMap::new() });
        Self(Arc::new(Inner { connection, claims, state }))
    }

    /// Sends a transaction once, alone or with others, and waits for its own outcome.
    ///
    /// `limit` bounds each request, so the wait takes at most twice as long. An attempt is noted as sent when it is sent: if this is
    /// dropped before, nothing was sent.
    pub(super) async fn send(&self, limit: Duration, member: Member) -> Result<Answer> {
        let mut ticket = self.queue(member);
        // The request in flight, and its own.
        let answer = tokio::time::timeout(limit.saturating_mul(2), &mut ticket.answer).await;
        let answer = answer.map_err(|_| error::no_answer(self.0.connection.endpoints(), limit))?;
        // No answer: the task has panicked, or the keeper has ended.
        answer.unwrap_or_else(|_| Err(self.0.nonsense()))
    }

    fn queue(&self, member: Member) -> Ticket<'_> {
        let mut state = self.0.state.lock();
        state.last += 1;
        let number = state.last;
        let (reply, answer) = oneshot::channel();
        state.queue.insert(number, Queued { member, reply: Reply::Caller(reply) });
        let batch = self.0.take(&mut state);
        drop(state);
        self.0.start(batch);
        Ticket { inner: &self.0, number, answer }
    }

    /// Sends transactions once, without waiting for their outcomes.
    pub(super) fn queue_all(&self, members: impl Iterator<Item = (Member, Reply)>) {
        let batch = {
            let mut state = self.0.state.lock();
            for (member, reply) in members {
                state.last += 1;
                let number = state.last;
                state.queue.insert(number, Queued { member, reply });
            }
            self.0.take(&mut state)
        };
        self.0.start(batch);
    }
}

impl State {
    /// Returns whether another request with this many members may be sent.
    fn has_room(&self, members: usize) -> bool {
        self.lanes.len() < LANES && self.lanes.iter().all(|others| *others <= members)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // Dropped after the lock is released: a member gives back the releases that it carries.
        let left = self.inner.state.lock().queue.remove(&self.number);
        drop(left);
    }
}

impl Lane {
    /// Gives the lane back. Returns the next request.
    fn give_back(&mut self) -> Vec<Queued> {
        self.members.take().map(|members| self.inner.returned(members)).unwrap_or_default()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let batch = self.give_back();
        self.inner.start(batch);
    }
}

impl<'a> InFlight<'a> {
    /// Notes that the request is about to be sent.
    fn new(members: &'a [&'a Member]) -> Self {
        released(members).for_each(|claim| claim.sending());
        Self(members)
    }

    /// Notes the answers, and returns them. One that is missing may have been any.
    fn answered(mut self, answers: Vec<Answer>) -> Vec<Answer> {
        let (answered, missing) = self.0.split_at(answers.len().min(self.0.len()));
        answered.iter().zip(&answers).for_each(|(member, answer)| member.answered(answer));
        self.0 = missing;
        answers
    }

    /// Notes that the request has failed.
    fn failed(mut self, error: &BackendError) {
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

impl Inner {
    /// Takes the members of the next request, if it may be sent now.
    fn take(&self, state: &mut State) -> Vec<Queued> {
        if !state.has_room(state.queue.len()) {
            return Vec::new();
        }
        let (mut directories, limits) = (HashSet::new(), self.connection.limits());
        let fitting = state.queue.iter().filter(|(_, queued)| directories.insert(&queued.member.directory));
        let (mut bytes, most) = (0_usize, limits.bytes());
        let numbers: Vec<_> = fitting
            .take(limits.operations())
            .take_while(|(_, queued)| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(queued.member.bytes);
                first || bytes <= most
            })
            .map(|(number, _)| *number)
            .collect();
        if numbers.is_empty() || !state.has_room(numbers.len()) {
            return Vec::new();
        }
        let batch: Vec<_> = numbers.into_iter().filter_map(|number| state.queue.remove(&number)).collect();
        state.lanes.push(batch.len());
        // Before the lock is released: an attempt that is no longer in the queue was sent.
        for attempt in batch.iter().filter_map(|queued| queued.member.attempt()) {
            self.claims.sending(attempt);
        }
        batch
    }

    /// Gives back the lane of a request with this many members. Returns the next request.
    fn returned(&self, members: usize) -> Vec<Queued> {
        let mut state = self.state.lock();
        if let Some(lane) = state.lanes.iter().position(|lane| *lane == members) {
            state.lanes.swap_remove(lane);
        }
        self.take(&mut state)
    }

    fn start(self: &Arc<Self>, batch: Vec<Queued>) {
        if !batch.is_empty() {
            self.connection.handle().spawn(run(self.clone(), batch));
        }
    }

    /// Sends a batch and gives each member its outcome. A batch that is refused is halved until the refused member is alone.
    async fn send(&self, batch: Vec<Queued>) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let members: Vec<_> = part.iter().map(|queued| &queued.member).collect();
            let limit = self.connection.patience(self.connection.timeout());
            let request = together(&members, || self.connection.guards().are_due());
            facade::sent_together("etcd", members.len());
            let in_flight = InFlight::new(&members);
            match self.connection.txn_here(limit, request).await {
                Ok(answer) => {
                    let mut answers = in_flight.answered(split(answer, &members)).into_iter();
                    for Queued { member, reply } in part {
                        let answer = answers.next();
                        if let (Some(answer), Content::Claim { carried: Some(carried), .. }) =
                            (&answer, &member.content)
                            && answer.txn.succeeded
                        {
                            self.claims.confirm(carried.directory(), carried.claims(), self.connection.endpoints());
                        }
                        reply.send(answer.ok_or_else(|| self.nonsense()));
                    }
                }
                Err(error) if part.len() > 1 && error.kind() != ErrorKind::Unreachable => {
                    in_flight.failed(&error);
                    let bytes = members.iter().map(|member| member.bytes).sum();
                    self.connection.limits().refused(&error, members.len(), bytes);
                    let half = part.len() / 2;
                    parts.push(part.split_off(half));
                    parts.push(part);
                }
                Err(error) => {
                    in_flight.failed(&error);
                    for Queued { member, reply } in part {
                        drop(member);
                        reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    fn nonsense(&self) -> BackendError {
        error::nonsense(self.connection.endpoints())
    }
}

/// Sends a batch, and then those that have gathered meanwhile.
async fn run(inner: Arc<Inner>, mut batch: Vec<Queued>) {
    while !batch.is_empty() {
        let mut lane = Lane { inner: inner.clone(), members: Some(batch.len()) };
        inner.send(batch).await;
        batch = lane.give_back();
    }
}

/// Builds the request of several members. etcd refuses siblings that put the same key, so each record is rewritten once.
fn together(members: &[&Member], is_guarded: impl FnOnce() -> bool) -> Txn {
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
fn split(answer: PbTxnResponse, members: &[&Member]) -> Vec<Answer> {
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

#[cfg(test)]
mod tests {
    use futures::future::{BoxFuture, FutureExt, join_all};

    use super::super::names::Names;
    use super::super::parts::Parts;
    use super::super::tests::{Client, Server, connect, fixed, run};
    use super::*;
    use crate::backend::{Backend, Claim, Grant, Wait};
    use crate::info::Mode;

    /// Takes all lanes, so that the members that are sent from now on meet.
    fn full(parts: &Parts) -> Vec<Lane> {
        let inner = &parts.releaser.batcher.0;
        inner.state.lock().lanes.extend([1; LANES]);
        (0..LANES).map(|_| Lane { inner: inner.clone(), members: Some(1) }).collect()
    }

    fn queued(client: &Client) -> usize {
        client.etcd.parts().unwrap().releaser.batcher.0.state.lock().queue.len()
    }

    fn claims(client: &Client, count: usize) -> Vec<Claim> {
        (0..count).map(|n| client.claim(&format!("k{n}"), Mode::Exclusive)).collect()
    }

    type Acquiring<'a> = BoxFuture<'a, Result<Option<Grant>>>;

    /// Begins to acquire all of them, until they wait for a lane.
    fn begin<'a>(client: &'a Client, claims: &'a [Claim], wait: Wait) -> Vec<Acquiring<'a>> {
        let mut begun: Vec<_> = claims.iter().map(|claim| client.etcd.acquire(claim, wait)).collect();
        for acquiring in &mut begun {
            assert!(acquiring.now_or_never().is_none());
        }
        assert_eq!(queued(client), claims.len());
        begun
    }

    /// The store's revision, which grows by one with each transaction that writes.
    async fn revision(client: &Client) -> i64 {
        let found = client.etcd.parts().unwrap().connection.get(b"nothing", None).await.unwrap();
        found.header.unwrap().revision
    }

    #[test]
    fn a_lane_is_given_back_however_its_task_ends() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let claims = claims(&client, 3);
            let begun = begin(&client, &claims, Wait::UntilGranted);
            let failing = tokio::spawn(async move {
                let _lanes = lanes;
                panic!("as a client may at an answer that it cannot read");
            });
            assert!(failing.await.unwrap_err().is_panic());
            for granted in join_all(begun).await {
                granted.unwrap().unwrap();
            }
            assert_eq!(parts.releaser.batcher.0.state.lock().lanes, [0; 0]);
        });
    }

    #[test]
    fn members_that_meet_are_sent_in_one_write() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let claims = claims(&client, 30);
            let before = revision(&client).await;
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let begun = begin(&client, &claims, Wait::UntilGranted);
            drop(lanes);
            let grants: Vec<_> = join_all(begun).await.into_iter().map(|grant| grant.unwrap().unwrap()).collect();
            assert_eq!(revision(&client).await, before + 1);
            assert_eq!(server.claims().len(), 30);
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let mut released: Vec<_> = grants.iter().map(|grant| client.etcd.release(grant)).collect();
            while queued(&client) < 30 {
                for releasing in &mut released {
                    assert!(releasing.now_or_never().is_none());
                }
            }
            drop(lanes);
            join_all(released).await.into_iter().for_each(|released| released.unwrap());
            assert_eq!(revision(&client).await, before + 2);
            assert_eq!(server.claims(), Vec::<String>::new());
            assert_eq!(client.etcd.parts().unwrap().releaser.batcher.0.state.lock().lanes, [0; 0], "a lane was lost");
        });
    }

    #[test]
    fn each_member_has_its_own_outcome() {
        run(async {
            let server = Server::start().await;
            let (client, other) = (Client::new(&server, "p/").await, Client::new(&server, "p/").await);
            let held = other.lock("k1").await;
            let claims = claims(&client, 3);
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let tries = begin(&client, &claims, Wait::Never);
            drop(lanes);
            let outcomes = join_all(tries).await;
            let granted: Vec<_> = outcomes.into_iter().map(|granted| granted.unwrap().map(|grant| grant.key)).collect();
            assert_eq!(granted, [Some("k0".into()), None, Some("k2".into())]);
            other.etcd.release(&held).await.unwrap();
        });
    }

    #[test]
    fn a_refused_member_fails_no_other() {
        run(async {
            let server = Server::start().await;
            let client = server.limited_to(&["p/%session/", "p/k0/", "p/k2/"]).await;
            let claims = claims(&client, 3);
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let begun = begin(&client, &claims, Wait::UntilGranted);
            drop(lanes);
            let outcomes = join_all(begun).await;
            let kinds: Vec<_> =
                outcomes.iter().map(|outcome| outcome.as_ref().map(|_| ()).map_err(|e| e.kind())).collect();
            assert_eq!(kinds, [Ok(()), Err(ErrorKind::Denied), Ok(())]);
        });
    }

    /// Locks three keys in one request until that is refused, and returns the kinds of those errors, and how many requests passed.
    async fn passed_until_refused(client: &Client) -> (usize, Vec<ErrorKind>) {
        let parts = client.etcd.parts().unwrap();
        for passed in 0.. {
            let claims = claims(client, 3);
            let lanes = full(&parts);
            let begun = begin(client, &claims, Wait::UntilGranted);
            drop(lanes);
            let outcomes = join_all(begun).await;
            let errors: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
            if !errors.is_empty() {
                return (passed, errors.into_iter().map(BackendError::kind).collect());
            }
            for granted in outcomes {
                // It may be refused as well: then the key is left to the next claim.
                let _ = client.etcd.release(&granted.unwrap().unwrap()).await;
            }
        }
        unreachable!("the loop ends with a refusal");
    }

    #[test]
    fn authentication_that_is_switched_on_later_is_noticed_by_batches() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let parts = client.etcd.parts().unwrap();
            parts.connection.guards().are_due();
            assert!(!parts.connection.guards().are_due(), "nothing is checked, so this is only for once a second");
            server.ctl(&["user", "add", "root:secret"]);
            server.ctl(&["auth", "enable"]);
            let start = tokio::time::Instant::now();
            let (passed, kinds) = passed_until_refused(&client).await;
            println!("{passed} passed, until {:?}", start.elapsed());
            assert_eq!(kinds, [ErrorKind::Denied; 3]);
            for _ in 0..3 {
                assert_eq!(passed_until_refused(&client).await, (0, vec![ErrorKind::Denied; 3]));
            }
        });
    }

    #[test]
    fn a_lack_of_space_is_noticed_by_batches() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let parts = client.etcd.parts().unwrap();
            parts.connection.guards().are_due();
            let mut maintenance = etcd_client::Client::connect([server.endpoint()], None).await.unwrap();
            let status = maintenance.status().await.unwrap();
            let mut alarm = etcd_client::AlarmOptions::new();
            alarm.with_member(status.header().unwrap().member_id());
            let (on, space) = (etcd_client::AlarmAction::Activate, etcd_client::AlarmType::Nospace);
            maintenance.alarm(on, space, Some(alarm)).await.unwrap();
            let (passed, kinds) = passed_until_refused(&client).await;
            println!("{passed} passed");
            assert_eq!(kinds, [ErrorKind::Refused; 3]);
            for _ in 0..3 {
                assert_eq!(passed_until_refused(&client).await, (0, vec![ErrorKind::Refused; 3]));
            }
            assert_eq!(server.claims(), Vec::<String>::new());
        });
    }

    #[test]
    fn what_is_known_to_be_checked_is_always_sent_for_checks() {
        run(async {
            let server = Server::start().await;
            for command in
                [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
            {
                server.ctl(command);
            }
            let mut options = server.options("p/");
            options.account = fixed("root", "secret");
            let etcd = connect(options).await.unwrap();
            for _ in 0..3 {
                assert!(etcd.parts().unwrap().connection.guards().are_due());
            }
        });
    }

    #[test]
    fn a_batch_that_is_too_large_for_the_server_is_halved() {
        run(async {
            let server = Server::start_with(&["--max-txn-ops", "10"]).await;
            let client = Client::new(&server, "p/").await;
            let claims = claims(&client, 35);
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let begun = begin(&client, &claims, Wait::UntilGranted);
            drop(lanes);
            for granted in join_all(begun).await {
                granted.unwrap().unwrap();
            }
            assert_eq!(server.claims().len(), 35);
            let most = client.etcd.parts().unwrap().connection.limits().operations();
            // A nested transaction may have as many operations as are left.
            assert!((4..=8).contains(&most), "{most} next time");
        });
    }

    /// Also a request over the limit for a message, 2 MiB by default, which the budget prevents otherwise.
    #[test]
    fn a_batch_with_too_many_bytes_for_the_server_is_halved_and_no_outage() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let parts = client.etcd.parts().unwrap();
            parts.connection.limits().believe(usize::MAX);
            let key = |n| format!("{}{n:02}", "/".repeat(2500));
            let claims: Vec<_> = (0..100).map(|n| client.claim(&key(n), Mode::Exclusive)).collect();
            for wait in [Wait::Never, Wait::UntilGranted] {
                let lanes = full(&parts);
                let begun = begin(&client, &claims, wait);
                drop(lanes);
                for granted in join_all(begun).await {
                    client.etcd.release(&granted.unwrap().unwrap()).await.unwrap();
                }
            }
            let bytes = parts.connection.limits().bytes();
            assert!((500_000..5_000_000).contains(&bytes), "{bytes} next time");
            assert_eq!(parts.connection.generation(), 0, "the connection was replaced");
        });
    }

    #[test]
    fn answers_that_are_too_large_together_are_requested_separately() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let claims = claims(&client, 4);
            let parts = client.etcd.parts().unwrap();
            // Of another client, with names of 4 MiB together.
            let ahead: Vec<_> =
                (0..4).map(|n| [format!("p/k{n}/").as_bytes(), &vec![b'x'; 1_300_000]].concat()).collect();
            for name in &ahead {
                parts.connection.txn(Txn::new().and_then([TxnOp::put(name.clone(), "", None)])).await.unwrap();
            }
            let lanes = full(&parts);
            let mut begun = begin(&client, &claims, Wait::UntilGranted);
            drop(lanes);
            let mut all = join_all(begun.iter_mut());
            let waiting = tokio::time::timeout(Duration::from_millis(500), &mut all).await;
            assert!(waiting.is_err(), "{waiting:?}");
            assert_eq!(server.claims().iter().filter(|name| name.len() < 100).count(), 4);
            for name in &ahead {
                parts.connection.txn(Txn::new().and_then([TxnOp::delete(name.clone(), None)])).await.unwrap();
            }
            for granted in all.await {
                client.etcd.release(&granted.unwrap().unwrap()).await.unwrap();
            }
            assert_eq!(server.claims(), Vec::<String>::new());
            assert_eq!(parts.connection.generation(), 0, "the connection was replaced");
        });
    }

    #[test]
    fn a_member_that_is_dropped_in_the_queue_was_never_sent() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let claims = claims(&client, 3);
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let mut begun = begin(&client, &claims, Wait::UntilGranted);
            drop(begun.remove(1));
            assert_eq!(queued(&client), 2);
            assert_eq!(client.etcd.parts().unwrap().releaser.claims.outcome(claims[1].attempt), None);
            let before = revision(&client).await;
            client.etcd.abort(&claims[1]).await.unwrap();
            assert_eq!(revision(&client).await, before, "there was nothing to abort");
            drop(lanes);
            for granted in join_all(begun).await {
                granted.unwrap().unwrap();
            }
            assert_eq!(server.claims().len(), 2);
        });
    }

    #[test]
    fn a_batch_has_one_member_of_each_directory() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            // No manager does this; two in one transaction would both be the oldest.
            let claims = [client.claim("k", Mode::Exclusive), client.claim("k", Mode::Exclusive)];
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let mut begun = begin(&client, &claims, Wait::UntilGranted);
            drop(lanes);
            let (one, other) = (begun.remove(0), begun.remove(0));
            let (first, mut second) = futures::future::select(one, other).await.factor_first();
            let grant = first.unwrap().unwrap();
            assert!(tokio::time::timeout(Duration::from_millis(200), &mut second).await.is_err());
            client.etcd.release(&grant).await.unwrap();
            assert!(second.await.unwrap().unwrap().epoch > grant.epoch);
        });
    }

    #[test]
    fn repeated_claims_rewrite_the_record_once() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let claims = claims(&client, 20);
            let session = client.etcd.parts().unwrap().leases.session(client.lease.id).unwrap();
            for claim in &claims {
                // As after a request whose answer was lost.
                let directory = Names::new("p/".into()).directory(&claim.key);
                client.etcd.parts().unwrap().releaser.claims.begin(claim.attempt, &session, &directory);
                client.etcd.parts().unwrap().releaser.claims.sending(claim.attempt);
            }
            let before = session.record().version;
            let parts = client.etcd.parts().unwrap();
            let lanes = full(&parts);
            let begun = begin(&client, &claims, Wait::UntilGranted);
            drop(lanes);
            for granted in join_all(begun).await {
                granted.unwrap().unwrap();
            }
            assert_eq!(session.record().version, before + 1);
        });
    }
}
