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

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::claims::Claims;
use super::connection::Connection;
use super::error;
use super::member::{InFlight, Member, split, together};
use super::releases::{Due, Sent};
use super::txn::Answer;
use crate::backend::{BackendError, ErrorKind, Result};
use crate::process::facade;

/// The maximum number of requests in flight. Of 2, 3 and 4, 3 was the fastest with 64 tasks.
const LANES: usize = 3;

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

impl Inner {
    /// Takes the members of the next request, if it may be sent now.
    fn take(&self, state: &mut State) -> Vec<Queued> {
        if !state.has_room(state.queue.len()) {
            return Vec::new();
        }
        let (mut directories, limits) = (HashSet::new(), self.connection.limits());
        let fitting = state.queue.iter().filter(|(_, queued)| directories.insert(queued.member.directory()));
        let (mut bytes, most) = (0_usize, limits.bytes());
        let numbers: Vec<_> = fitting
            .take(limits.operations())
            .take_while(|(_, queued)| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(queued.member.bytes());
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
                        if let (Some(answer), Some(carried)) = (&answer, member.carried())
                            && answer.txn.succeeded
                        {
                            self.claims.confirm(carried.directory(), carried.claims(), self.connection.endpoints());
                        }
                        reply.send(answer.ok_or_else(|| self.nonsense()));
                    }
                }
                Err(error) if part.len() > 1 && error.kind() != ErrorKind::Unreachable => {
                    in_flight.failed(&error);
                    let bytes = members.iter().map(|member| member.bytes()).sum();
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

#[cfg(test)]
mod tests;
