//! Requests: operations whose outcome is awaited.

use std::pin::Pin;
use std::task::{Context, Poll};

use redis::{Cmd, Value};
use tokio::sync::oneshot;

use super::answers::Answer;
use super::error;
use super::redirect::Redirect;
use super::scripts::Op;
use crate::backend::{BackendError, Completion, Result, Timestamp};

/// How often a request is sent to another node without being served.
pub(super) const MOST_REDIRECTS: u8 = 8;

/// An operation on one lock. It may be performed twice, unless it is an eviction.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: Op,
    reply: Reply,
    pub(super) way: Way,
    redirects: u8,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// In one call with others.
    #[default]
    Together,
    /// In a call of its own: while a slot is being moved, its keys may be at different nodes.
    Alone,
    /// The same, to the node to which its slot is being moved.
    Asking,
}

/// Where the answer goes. An attempt reads it in any case.
#[derive(Debug)]
enum Reply {
    Nowhere,
    Caller(oneshot::Sender<Result<Value>>),
    /// The same, if this node has served the request, and no other one.
    Bound(oneshot::Sender<BoundAnswer>),
    /// The outcome of a release.
    Completion(Completion),
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct PendingAnswer(oneshot::Receiver<Result<Value>>);

/// The answer of one node.
pub(super) type BoundAnswer = std::result::Result<Value, NotServed>;

/// Why a node has not served a request.
#[derive(Debug)]
pub(super) enum NotServed {
    /// Another one may.
    Elsewhere(Redirect),
    Failed(BackendError),
}

impl Future for PendingAnswer {
    type Output = Result<Value>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Value>> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(error::closed())))
    }
}

impl PendingAnswer {
    /// No answer comes: there is no server.
    pub(super) fn never() -> Self {
        Self(oneshot::channel().1)
    }
}

impl Request {
    fn new(op: Op, reply: Reply) -> Self {
        Self { op, reply, way: Way::default(), redirects: 0 }
    }

    /// Creates a request whose answer nothing waits for.
    pub(super) fn unattended(op: Op) -> Self {
        Self::new(op, Reply::Nowhere)
    }

    pub(super) fn with_answer(op: Op) -> (Self, PendingAnswer) {
        let (reply, answer) = oneshot::channel();
        (Self::new(op, Reply::Caller(reply)), PendingAnswer(answer))
    }

    /// Creates a request that is not sent on to another node.
    pub(super) fn bound(op: Op, way: Way) -> (Self, oneshot::Receiver<BoundAnswer>) {
        let (reply, answer) = oneshot::channel();
        (Self { way, ..Self::new(op, Reply::Bound(reply)) }, answer)
    }

    /// Creates a release whose outcome is reported.
    pub(super) fn with_completion(op: Op, completion: Completion) -> Self {
        Self::new(op, Reply::Completion(completion))
    }

    /// Whether it has a caller, which sees to what follows from the answer.
    pub(super) fn has_caller(&self) -> bool {
        matches!(self.reply, Reply::Caller(_))
    }

    /// A node has answered that another one serves it. Returns whether to go there.
    pub(super) fn redirected(&mut self, way: Way) -> bool {
        if let Op::Acquire(attempt) = &self.op {
            attempt.put_off();
        }
        self.way = way;
        self.redirects += 1;
        self.redirects <= MOST_REDIRECTS
    }

    /// Whether only this node may serve it.
    pub(super) fn is_bound(&self) -> bool {
        matches!(self.reply, Reply::Bound(_))
    }

    /// Another node may serve it, which a bound request leaves to its caller.
    pub(super) fn turn_away(self, redirect: &Redirect) {
        if let Reply::Bound(reply) = self.reply {
            // A caller that has left does not need it.
            let _ = reply.send(Err(NotServed::Elsewhere(redirect.clone())));
        }
    }

    /// Whether it was sent from one node to another and back.
    pub(super) fn is_sent_about(&self) -> bool {
        self.redirects > 2
    }

    /// The server has stopped in the middle of it: the next answer does not tell what this one has done.
    pub(super) fn ended_halfway(&self) {
        if let Op::Release(attempt, _) = &self.op {
            attempt.release_unanswered();
        }
    }

    /// It is to be repeated after a while.
    pub(super) fn rest(&mut self, way: Way) {
        self.way = way;
        self.redirects = 0;
    }

    /// Whether to send it now. A release is sent even if nothing waits for it any more.
    pub(super) fn is_wanted(&self, now: Timestamp) -> bool {
        match &self.op {
            Op::Acquire(attempt) => attempt.sending(now),
            Op::Release(..) | Op::Admit(_) | Op::Life(_) => true,
            Op::Renew(..) | Op::Inspect(..) | Op::Evict(..) | Op::Listen(..) => match &self.reply {
                Reply::Caller(reply) => !reply.is_closed(),
                Reply::Bound(reply) => !reply.is_closed(),
                Reply::Nowhere | Reply::Completion(_) => false,
            },
        }
    }

    pub(super) fn fail(self, error: BackendError) {
        if let Op::Acquire(attempt) = &self.op {
            attempt.refused(error.clone());
        }
        self.answer(Err(error.clone()), || error);
    }

    /// It was answered. `lost` is the error of a release that did not find its hold.
    pub(super) fn answer(self, answer: Result<Answer<'_>>, lost: impl FnOnce() -> BackendError) {
        match self.reply {
            Reply::Nowhere => {}
            Reply::Caller(reply) => {
                // A caller that has left does not need it.
                let _ = reply.send(answer.map(Answer::into_value));
            }
            Reply::Bound(reply) => {
                let _ = reply.send(answer.map(Answer::into_value).map_err(NotServed::Failed));
            }
            Reply::Completion(completion) => {
                let was_released = matches!(&self.op, Op::Release(attempt, _) if attempt.was_released());
                completion.complete(answer.and_then(|_| if was_released { Ok(()) } else { Err(lost()) }));
            }
        }
    }
}

/// A plain command. It is not repeated if its connection breaks.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) command: Cmd,
    pub(super) reply: oneshot::Sender<Result<Value>>,
}
