//! The requests to one server that wait to be sent. Each stays here, or in a call in flight, until it has an outcome.
//!
//! In a cluster a call has locks of one slot only, and slots move from one node to another. A slot that its node does not serve at
//! present has queues [apart](Apart), so that the others go on. One that has moved leaves with all its requests, in their order, when
//! none of them is in flight here any more.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};

use super::options::Node;
use super::queues::Queues;
use super::requests::{Command, Request, Way};
use super::scripts::{Kind, Op};
use crate::backend::{BackendError, Result, Timestamp};

type Hasher = foldhash::fast::RandomState;

/// The most calls of one batch in a cluster.
const CALLS: usize = 128;

/// The requests to one server.
#[derive(Debug)]
pub(super) struct Requests {
    /// Whether a call has locks of one slot only.
    are_by_slot: bool,
    all: Mutex<All>,
    added: Notify,
}

#[derive(Debug, Default)]
struct All {
    queues: Queues,
    commands: VecDeque<Command>,
    /// Slots with queues of their own.
    apart: HashMap<u16, Apart, Hasher>,
    /// How many calls of each slot are in flight.
    in_flight: HashMap<u16, usize, Hasher>,
}

/// The requests of a slot that the node does not serve at present.
#[derive(Debug, Default)]
struct Apart {
    queues: Queues,
    moving: Option<Moving>,
}

/// A slot that is at another node now.
#[derive(Debug)]
struct Moving {
    to: Node,
    /// Whether it may leave, and that was reported.
    is_reported: bool,
}

impl All {
    /// The queues of a slot; in a cluster, the queues apart if it has some.
    fn of(&mut self, slot: Option<u16>) -> &mut Queues {
        match slot.filter(|_| !self.apart.is_empty()).and_then(|slot| self.apart.get_mut(&slot)) {
            Some(apart) => &mut apart.queues,
            None => &mut self.queues,
        }
    }

    fn set_apart(&mut self, slot: u16) -> &mut Apart {
        let Self { queues, apart, .. } = self;
        apart.entry(slot).or_insert_with(|| {
            let mut apart = Apart::default();
            let waiting = queues.take_if(|request| request.op.slot() == Some(slot));
            waiting.into_iter().for_each(|request| apart.queues.push_back(request));
            apart
        })
    }

    fn is_in_flight(&self, slot: u16) -> bool {
        self.in_flight.contains_key(&slot)
    }

    /// The node to which a slot moves, if it may leave and that was not reported yet.
    fn report(&mut self, slot: u16) -> Option<Node> {
        if self.is_in_flight(slot) {
            return None;
        }
        let moving = self.apart.get_mut(&slot)?.moving.as_mut()?;
        (!std::mem::replace(&mut moving.is_reported, true)).then(|| moving.to.clone())
    }
}

impl Requests {
    pub(super) fn new(are_by_slot: bool) -> Self {
        Self { are_by_slot, all: Mutex::default(), added: Notify::new() }
    }

    pub(super) fn add(&self, new: impl IntoIterator<Item = Request>) {
        let mut all = self.all.lock();
        for request in new {
            all.of(request.op.slot()).push_back(request);
        }
        drop(all);
        self.added.notify_one();
    }

    pub(super) fn add_command(&self, command: Cmd) -> oneshot::Receiver<Result<Value>> {
        let (reply, answer) = oneshot::channel();
        self.all.lock().commands.push_back(Command { command, reply });
        self.added.notify_one();
        answer
    }

    /// Waits until something was added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Takes the requests for the next calls of a kind, which are sent together.
    pub(super) fn take(&self, kind: Kind, now: Timestamp) -> Vec<Vec<Request>> {
        let mut all = self.all.lock();
        if !self.are_by_slot {
            let taken = all.queues.take(kind, kind.max_ops(), now);
            return if taken.is_empty() { Vec::new() } else { vec![taken] };
        }
        let mut taken = all.queues.take(kind, CALLS, now);
        let All { apart, in_flight, .. } = &mut *all;
        apart.retain(|slot, apart| {
            if apart.moving.is_some() {
                return true;
            }
            let count = taken.len();
            taken.extend(apart.queues.take(kind, CALLS.saturating_sub(count), now));
            // What is taken may be refused again, and has to rest for longer then.
            taken.len() > count || !apart.queues.is_at_rest() || in_flight.contains_key(slot)
        });
        let calls = by_slot(taken);
        calls.iter().filter_map(|call| call.first()?.op.slot()).for_each(|slot| {
            *in_flight.entry(slot).or_default() += 1;
        });
        calls
    }

    pub(super) fn take_command(&self) -> Option<Command> {
        self.all.lock().commands.pop_front()
    }

    /// A call of this slot was answered. Returns the node to which the slot has moved, if it may leave now.
    pub(super) fn call_ended(&self, slot: u16) -> Option<Node> {
        let mut all = self.all.lock();
        if let Some(count) = all.in_flight.get_mut(&slot) {
            *count -= 1;
            if *count == 0 {
                all.in_flight.remove(&slot);
            }
        }
        all.report(slot)
    }

    /// Puts back what the server has refused for now, oldest first. All requests of its kind, and in a cluster of its slot, rest for a
    /// while: `most` at the longest.
    pub(super) fn put_off(&self, kind: Kind, refused: Vec<Request>, most: Duration) {
        let mut all = self.all.lock();
        match refused.first().and_then(|request| request.op.slot()).filter(|_| self.are_by_slot) {
            Some(slot) => {
                all.set_apart(slot).queues.put_off(kind, refused, most);
            }
            None => all.queues.put_off(kind, refused, most),
        }
    }

    /// The server serves this kind, in a cluster of this slot.
    pub(super) fn served(&self, kind: Kind, slot: Option<u16>) {
        let mut all = self.all.lock();
        match slot.filter(|_| self.are_by_slot) {
            None => all.queues.served(kind),
            Some(slot) => {
                if let Some(apart) = all.apart.get_mut(&slot) {
                    apart.queues.served(kind);
                }
            }
        }
    }

    /// Waits until the rest of a kind with waiting requests ends.
    pub(super) async fn rested(&self) {
        let next = {
            let all = self.all.lock();
            let apart = all.apart.values().filter(|apart| apart.moving.is_none()).map(|apart| &apart.queues);
            apart.chain([&all.queues]).filter_map(Queues::next_rest).min()
        };
        match next {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// The node has answered to these, of one slot, that the slot is at another node. They wait until it leaves.
    pub(super) fn moved(&self, slot: u16, to: Node, requests: Vec<Request>) {
        let mut all = self.all.lock();
        let apart = all.set_apart(slot);
        requests.into_iter().rev().for_each(|request| apart.queues.push_front(request));
        let moving = apart.moving.get_or_insert_with(|| Moving { to: to.clone(), is_reported: false });
        moving.to = to;
    }

    /// Takes all requests of a slot that has left.
    pub(super) fn leave(&self, slot: u16) -> Vec<Request> {
        let mut all = self.all.lock();
        let apart = all.apart.remove(&slot);
        let waiting = all.queues.take_if(|request| request.op.slot() == Some(slot));
        apart.into_iter().flat_map(|mut apart| apart.queues.take_all()).chain(waiting).collect()
    }

    /// Slots have left to the nodes that `to` tells. Takes their requests, except for those that have some in flight: these leave later.
    /// Returns the latter slots as well.
    pub(super) fn leave_all(&self, to: impl Fn(u16) -> Option<Node>) -> (Vec<Request>, Vec<u16>) {
        let mut all = self.all.lock();
        let moving: Vec<_> = all.in_flight.keys().filter_map(|slot| Some((*slot, to(*slot)?))).collect();
        let mut later = Vec::with_capacity(moving.len());
        for (slot, to) in moving {
            all.set_apart(slot).moving = Some(Moving { to, is_reported: false });
            later.push(slot);
        }
        let All { queues, apart, in_flight, .. } = &mut *all;
        let mut left = Vec::new();
        apart.retain(|slot, apart| {
            let stays = in_flight.contains_key(slot) || to(*slot).is_none();
            if !stays {
                left.extend(apart.queues.take_all());
            }
            stays
        });
        left.extend(queues.take_if(|request| request.op.slot().is_some_and(|slot| to(slot).is_some())));
        (left, later)
    }

    /// A slot stays, since the other node is not known, and rests for a while.
    pub(super) fn stay(&self, slot: u16, most: Duration) {
        if let Some(apart) = self.all.lock().apart.get_mut(&slot) {
            apart.moving = None;
            Kind::ALL.into_iter().for_each(|kind| apart.queues.put_off(kind, Vec::new(), most));
        }
        self.added.notify_one();
    }

    /// Whether nothing waits, and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        let all = self.all.lock();
        all.queues.is_empty() && all.apart.values().all(|apart| apart.queues.is_empty()) && all.in_flight.is_empty()
    }

    /// Puts back what was in flight on a connection that broke, oldest first. Returns the slots that may leave, and where to.
    pub(super) fn take_back(&self, sent: Vec<Request>, error: &BackendError) -> Vec<(u16, Node)> {
        let mut evictions = Vec::new();
        let mut all = self.all.lock();
        for mut request in sent.into_iter().rev() {
            match &request.op {
                // A second one would evict the successor.
                Op::Evict(..) => {
                    evictions.push(request);
                    continue;
                }
                Op::Acquire(attempt) => {
                    attempt.unanswered();
                    if !attempt.begin_request() {
                        continue;
                    }
                }
                Op::Release(attempt, _) => attempt.release_unanswered(),
                Op::Renew(..) | Op::Inspect(..) | Op::Listen(..) | Op::Admit(_) | Op::Life(_) => {}
            }
            request.way = Way::default();
            all.of(request.op.slot()).push_front(request);
        }
        all.in_flight.clear();
        let slots: Vec<_> = all.apart.keys().copied().collect();
        let leaving = slots.into_iter().filter_map(|slot| Some((slot, all.report(slot)?))).collect();
        drop(all);
        evictions.into_iter().for_each(|request| request.fail(error.clone()));
        leaving
    }

    /// Fails what waits and ends no hold if it fails.
    pub(super) fn refuse(&self, error: &BackendError) {
        let is_new =
            |request: &Request| matches!(request.op, Op::Acquire(_) | Op::Inspect(..) | Op::Listen(..) | Op::Evict(..));
        let refused: Vec<_> = {
            let All { queues, apart, .. } = &mut *self.all.lock();
            let apart = apart.values_mut().flat_map(|apart| apart.queues.take_if(is_new));
            queues.take_if(is_new).into_iter().chain(apart).collect()
        };
        refused.into_iter().for_each(|request| request.fail(error.clone()));
    }

    /// Fails all that wait.
    pub(super) fn fail(&self, error: &BackendError) {
        let (waiting, commands) = {
            let mut all = self.all.lock();
            let apart: Vec<_> = all.apart.drain().flat_map(|(_, mut apart)| apart.queues.take_all()).collect();
            let waiting: Vec<_> = all.queues.take_all().chain(apart).collect();
            (waiting, std::mem::take(&mut all.commands))
        };
        waiting.into_iter().for_each(|request| request.fail(error.clone()));
        commands.into_iter().for_each(|command| drop(command.reply.send(Err(error.clone()))));
    }
}

/// Distributes requests to calls, of one slot each, in their order.
fn by_slot(mut taken: Vec<Request>) -> Vec<Vec<Request>> {
    taken.sort_by_key(|request| request.op.slot());
    let mut calls: Vec<Vec<Request>> = Vec::new();
    for request in taken {
        let fits = |call: &Vec<Request>| {
            let last = call.last().map(|last| (last.op.slot(), last.way));
            last == Some((request.op.slot(), Way::Together)) && request.way == Way::Together
        };
        match calls.last_mut().filter(|call| fits(call)) {
            Some(call) if !matches!(request.op, Op::Life(_)) => call.push(request),
            _ => calls.push(vec![request]),
        }
    }
    calls
}
