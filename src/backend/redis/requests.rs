//! What is to be done on the server, until it is done.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error;
use super::scripts::{Kind, Op};
use crate::backend::backoff::Backoff;
use crate::backend::{BackendError, Result, Timestamp};

/// How long jobs rest at least that the server has refused for now.
const FIRST_REST: Duration = Duration::from_millis(5);

/// Something to be done for one lock. It may be done twice, unless it is an eviction.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) part: Op,
    /// Who wants the answer. An attempt takes it itself.
    reply: Option<oneshot::Sender<Result<Value>>>,
}

/// The answer to come.
#[derive(Debug)]
pub(super) struct Answer(oneshot::Receiver<Result<Value>>);

impl Future for Answer {
    type Output = Result<Value>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Value>> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(error::closed())))
    }
}

impl Request {
    /// Nobody waits for the answer. An attempt takes it itself.
    pub(super) fn unattended(part: Op) -> Self {
        Self { part, reply: None }
    }

    pub(super) fn with_answer(part: Op) -> (Self, Answer) {
        let (reply, answer) = oneshot::channel();
        (Self { part, reply: Some(reply) }, Answer(answer))
    }

    /// Whether somebody wanted the answer, and sees to what follows from it.
    pub(super) fn has_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// Whether it is to be sent now. What is given up goes even if nobody waits for that any more.
    fn is_wanted(&self, now: Timestamp) -> bool {
        match &self.part {
            Op::Acquire(attempt) => attempt.sending(now),
            Op::Release(..) => true,
            Op::Renew(..) | Op::Inspect(_) | Op::Evict(..) => {
                self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
            }
        }
    }

    pub(super) fn fail(self, error: BackendError) {
        if let Op::Acquire(attempt) = &self.part {
            attempt.refused(error.clone());
        }
        self.answer(Err(error));
    }

    pub(super) fn answer(self, answer: Result<Value>) {
        if let Some(reply) = self.reply {
            // Nobody waits any more only if it does not matter.
            let _ = reply.send(answer);
        }
    }
}

/// The queues.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<Queues>);

#[derive(Debug, Default)]
struct Queues {
    waiting: [VecDeque<Request>; 5],
    /// The server has refused these kinds for now: until then, none is sent.
    rest: [Rest; 5],
}

/// How long a kind of jobs is not sent.
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
        let mut queues = self.0.lock();
        for job in new {
            queues.waiting[job.part.kind() as usize].push_back(job);
        }
    }

    /// Takes the jobs for one call.
    pub(super) fn take(&self, kind: Kind, now: Timestamp) -> Vec<Request> {
        let mut taken = Vec::new();
        let mut queues = self.0.lock();
        // What is taken must not overtake what is given back.
        if kind == Kind::Acquire && !queues.waiting[Kind::Release as usize].is_empty() {
            return taken;
        }
        if queues.rest[kind as usize].until.is_some_and(|until| Instant::now() < until) {
            return taken;
        }
        let queue = &mut queues.waiting[kind as usize];
        while taken.len() < kind.most()
            && let Some(job) = queue.pop_front()
        {
            if job.is_wanted(now) {
                taken.push(job);
            }
        }
        taken
    }

    /// Puts back what the server has refused for now, oldest first. It is sent again after a while, as is all of its kind: `most`
    /// at the longest.
    pub(super) fn put_off(&self, kind: Kind, refused: Vec<Request>, most: Duration) {
        let mut queues = self.0.lock();
        let rest = &mut queues.rest[kind as usize];
        rest.until = Some(Instant::now() + rest.backoff.delay().max(FIRST_REST).min(most));
        for job in refused.into_iter().rev() {
            if let Op::Acquire(attempt) = &job.part {
                attempt.put_off();
            }
            queues.waiting[kind as usize].push_front(job);
        }
    }

    /// The server serves this kind.
    pub(super) fn served(&self, kind: Kind) {
        let rest = &mut self.0.lock().rest[kind as usize];
        if rest.until.is_some() {
            *rest = Rest::default();
        }
    }

    /// When the next kind that rests is to be sent.
    pub(super) fn rest(&self) -> Option<Instant> {
        let queues = self.0.lock();
        let resting = queues.rest.iter().zip(&queues.waiting).filter(|(_, waiting)| !waiting.is_empty());
        let now = Instant::now();
        resting.filter_map(|(rest, _)| rest.until.filter(|until| *until > now)).min()
    }

    /// Puts back what was sent and is not answered, oldest first.
    pub(super) fn take_back(&self, sent: Vec<Request>, error: &BackendError) {
        let mut evictions = Vec::new();
        let mut queues = self.0.lock();
        for job in sent.into_iter().rev() {
            match &job.part {
                // A second time it would be the successor's turn.
                Op::Evict(..) => {
                    evictions.push(job);
                    continue;
                }
                Op::Acquire(attempt) => {
                    attempt.unanswered();
                    if !attempt.ask() {
                        continue;
                    }
                }
                Op::Release(attempt, _) => attempt.release_unanswered(),
                Op::Renew(..) | Op::Inspect(_) => {}
            }
            queues.waiting[job.part.kind() as usize].push_front(job);
        }
        drop(queues);
        evictions.into_iter().for_each(|job| job.fail(error.clone()));
    }

    /// Fails all of them.
    pub(super) fn fail(&self, error: &BackendError) {
        let jobs = std::mem::take(&mut self.0.lock().waiting);
        jobs.into_iter().flatten().for_each(|job| job.fail(error.clone()));
    }
}
