//! The queue of requests to the server. Each stays here, or in a call in flight, until it has an outcome.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::answers::Answer;
use super::error;
use super::scripts::{Kind, Op};
use crate::backend::backoff::Backoff;
use crate::backend::{BackendError, Completion, Result, Timestamp};

/// The shortest rest of requests that the server has refused for now.
const FIRST_REST: Duration = Duration::from_millis(5);

/// An operation on one lock. It may be performed twice, unless it is an eviction.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: Op,
    reply: Reply,
}

/// Where the answer goes. An attempt reads it in any case.
#[derive(Debug)]
enum Reply {
    Nowhere,
    Caller(oneshot::Sender<Result<Value>>),
    /// The outcome of a release.
    Completion(Completion),
}

/// The answer to a request.
#[derive(Debug)]
pub(super) struct PendingAnswer(oneshot::Receiver<Result<Value>>);

impl Future for PendingAnswer {
    type Output = Result<Value>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Value>> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(error::closed())))
    }
}

impl Request {
    /// Creates a request whose answer nothing waits for.
    pub(super) fn unattended(op: Op) -> Self {
        Self { op, reply: Reply::Nowhere }
    }

    pub(super) fn with_answer(op: Op) -> (Self, PendingAnswer) {
        let (reply, answer) = oneshot::channel();
        (Self { op, reply: Reply::Caller(reply) }, PendingAnswer(answer))
    }

    /// Creates a release whose outcome is reported.
    pub(super) fn with_completion(op: Op, completion: Completion) -> Self {
        Self { op, reply: Reply::Completion(completion) }
    }

    /// Whether it has a caller, which sees to what follows from the answer.
    pub(super) fn has_caller(&self) -> bool {
        matches!(self.reply, Reply::Caller(_))
    }

    /// Whether to send it now. A release is sent even if nothing waits for it any more.
    fn is_wanted(&self, now: Timestamp) -> bool {
        match &self.op {
            Op::Acquire(attempt) => attempt.sending(now),
            Op::Release(..) | Op::Admit(_) | Op::Life => true,
            Op::Renew(..) | Op::Inspect(_) | Op::Evict(..) => {
                matches!(&self.reply, Reply::Caller(reply) if !reply.is_closed())
            }
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

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Requests {
    queues: Mutex<Queues>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    waiting: [VecDeque<Request>; Kind::ALL.len()],
    /// The rests of the kinds that the server has refused for now.
    rests: [Rest; Kind::ALL.len()],
    commands: VecDeque<Command>,
}

/// How long a kind of requests is not sent.
#[derive(Debug)]
struct Rest {
    until: Option<Instant>,
    backoff: Backoff,
}

impl Default for Rest {
    fn default() -> Self {
        Self { until: None, backoff: Backoff::at_once() }
    }
}

impl Requests {
    pub(super) fn add(&self, new: impl IntoIterator<Item = Request>) {
        let mut queues = self.queues.lock();
        for request in new {
            queues.waiting[request.op.kind() as usize].push_back(request);
        }
        drop(queues);
        self.added.notify_one();
    }

    pub(super) fn add_command(&self, command: Cmd) -> oneshot::Receiver<Result<Value>> {
        let (reply, answer) = oneshot::channel();
        self.queues.lock().commands.push_back(Command { command, reply });
        self.added.notify_one();
        answer
    }

    /// Waits until something was added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Takes the requests for one call.
    pub(super) fn take(&self, kind: Kind, now: Timestamp) -> Vec<Request> {
        let mut taken = Vec::new();
        let mut queues = self.queues.lock();
        // An acquire must not overtake a release.
        if kind == Kind::Acquire && !queues.waiting[Kind::Release as usize].is_empty() {
            return taken;
        }
        if queues.rests[kind as usize].until.is_some_and(|until| Instant::now() < until) {
            return taken;
        }
        let queue = &mut queues.waiting[kind as usize];
        while taken.len() < kind.max_ops()
            && let Some(request) = queue.pop_front()
        {
            if request.is_wanted(now) {
                taken.push(request);
            }
        }
        taken
    }

    pub(super) fn take_command(&self) -> Option<Command> {
        self.queues.lock().commands.pop_front()
    }

    /// Puts back what the server has refused for now, oldest first. All requests of its kind rest for a while: `most` at the longest.
    pub(super) fn put_off(&self, kind: Kind, refused: Vec<Request>, most: Duration) {
        let mut queues = self.queues.lock();
        let rest = &mut queues.rests[kind as usize];
        rest.until = Some(Instant::now() + rest.backoff.delay().max(FIRST_REST).min(most));
        for request in refused.into_iter().rev() {
            if let Op::Acquire(attempt) = &request.op {
                attempt.put_off();
            }
            queues.waiting[kind as usize].push_front(request);
        }
    }

    /// The server serves this kind.
    pub(super) fn served(&self, kind: Kind) {
        let rest = &mut self.queues.lock().rests[kind as usize];
        if rest.until.is_some() {
            *rest = Rest::default();
        }
    }

    /// Waits until the rest of a kind with waiting requests ends.
    pub(super) async fn rested(&self) {
        match self.next_rest() {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    fn next_rest(&self) -> Option<Instant> {
        let queues = self.queues.lock();
        let resting = queues.rests.iter().zip(&queues.waiting).filter(|(_, waiting)| !waiting.is_empty());
        let now = Instant::now();
        resting.filter_map(|(rest, _)| rest.until.filter(|until| *until > now)).min()
    }

    /// Puts back what was in flight on a connection that broke, oldest first.
    pub(super) fn take_back(&self, sent: Vec<Request>, error: &BackendError) {
        let mut evictions = Vec::new();
        let mut queues = self.queues.lock();
        for request in sent.into_iter().rev() {
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
                Op::Renew(..) | Op::Inspect(_) | Op::Admit(_) | Op::Life => {}
            }
            queues.waiting[request.op.kind() as usize].push_front(request);
        }
        drop(queues);
        evictions.into_iter().for_each(|request| request.fail(error.clone()));
    }

    /// Fails all that wait.
    pub(super) fn fail(&self, error: &BackendError) {
        let (waiting, commands) = {
            let mut queues = self.queues.lock();
            (std::mem::take(&mut queues.waiting), std::mem::take(&mut queues.commands))
        };
        waiting.into_iter().flatten().for_each(|request| request.fail(error.clone()));
        commands.into_iter().for_each(|command| drop(command.reply.send(Err(error.clone()))));
    }
}
