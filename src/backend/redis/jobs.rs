//! What is to be done on the server, until it is done.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use redis::Value;
use tokio::sync::oneshot;

use super::attempt::Attempt;
use super::failure;
use super::scripts::{Kind, Part};
use crate::backend::{BackendError, Result, Timestamp};

/// Something to be done for one lock. It may be done twice, unless it is an eviction.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) part: Part,
    /// Who wants the answer. An attempt takes it itself.
    reply: Option<oneshot::Sender<Result<Value>>>,
}

/// The answer to come.
#[derive(Debug)]
pub(super) struct Answer(oneshot::Receiver<Result<Value>>);

impl Future for Answer {
    type Output = Result<Value>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Value>> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(failure::closed())))
    }
}

impl Job {
    pub(super) fn for_attempt(attempt: Arc<Attempt>) -> Self {
        Self { part: Part::Acquire(attempt), reply: None }
    }

    pub(super) fn with_answer(part: Part) -> (Self, Answer) {
        let (reply, answer) = oneshot::channel();
        (Self { part, reply: Some(reply) }, Answer(answer))
    }

    /// Whether it is to be sent now. What is given up goes even if nobody waits for that any more.
    fn is_wanted(&self, now: Timestamp) -> bool {
        match &self.part {
            Part::Acquire(attempt) => attempt.sending(now),
            Part::Release(..) => true,
            Part::Renew(..) | Part::Inspect(_) | Part::Evict(_) => {
                !self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
            }
        }
    }

    pub(super) fn fail(self, error: BackendError) {
        if let Part::Acquire(attempt) = &self.part {
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

/// The queue, by kind.
#[derive(Debug, Default)]
pub(super) struct Jobs(Mutex<[VecDeque<Job>; 5]>);

impl Jobs {
    pub(super) fn add(&self, new: impl IntoIterator<Item = Job>) {
        let mut jobs = self.0.lock();
        for job in new {
            jobs[job.part.kind() as usize].push_back(job);
        }
    }

    /// Takes the jobs for one call.
    pub(super) fn take(&self, kind: Kind, now: Timestamp) -> Vec<Job> {
        let mut taken = Vec::new();
        let mut jobs = self.0.lock();
        // What is taken must not overtake what is given back.
        if kind == Kind::Acquire && !jobs[Kind::Release as usize].is_empty() {
            return taken;
        }
        let queue = &mut jobs[kind as usize];
        while taken.len() < kind.most()
            && let Some(job) = queue.pop_front()
        {
            if job.is_wanted(now) {
                taken.push(job);
            }
        }
        taken
    }

    /// Puts back what was sent and is not answered, oldest first.
    pub(super) fn take_back(&self, sent: Vec<Job>, error: &BackendError) {
        let mut evictions = Vec::new();
        let mut jobs = self.0.lock();
        for job in sent.into_iter().rev() {
            match &job.part {
                // A second time it would be the successor's turn.
                Part::Evict(_) => {
                    evictions.push(job);
                    continue;
                }
                Part::Acquire(attempt) => {
                    attempt.unanswered();
                    if !attempt.ask() {
                        continue;
                    }
                }
                Part::Release(..) | Part::Renew(..) | Part::Inspect(_) => {}
            }
            jobs[job.part.kind() as usize].push_front(job);
        }
        drop(jobs);
        evictions.into_iter().for_each(|job| job.fail(error.clone()));
    }

    /// Fails all of them.
    pub(super) fn fail(&self, error: &BackendError) {
        let jobs = std::mem::take(&mut *self.0.lock());
        jobs.into_iter().flatten().for_each(|job| job.fail(error.clone()));
    }
}
