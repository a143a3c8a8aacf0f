//! The queues of requests of each kind, in the order in which they were added.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::requests::Request;
use super::scripts::{Kind, Op};
use crate::backend::Timestamp;
use crate::backend::backoff::Backoff;

/// The shortest rest of requests that the server has refused for now.
const FIRST_REST: Duration = Duration::from_millis(5);

/// A queue for each kind.
#[derive(Debug, Default)]
pub(super) struct Queues {
    waiting: [VecDeque<Request>; Kind::ALL.len()],
    /// The rests of the kinds that the server has refused for now.
    rests: [Rest; Kind::ALL.len()],
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

impl Queues {
    pub(super) fn push_back(&mut self, request: Request) {
        self.waiting[request.op.kind() as usize].push_back(request);
    }

    pub(super) fn push_front(&mut self, request: Request) {
        self.waiting[request.op.kind() as usize].push_front(request);
    }

    /// Takes at most so many requests of a kind, unless it rests.
    pub(super) fn take(&mut self, kind: Kind, most: usize, now: Timestamp) -> Vec<Request> {
        let mut taken = Vec::new();
        // An acquire must not overtake a release.
        if kind == Kind::Acquire && !self.waiting[Kind::Release as usize].is_empty() {
            return taken;
        }
        if self.rests[kind as usize].until.is_some_and(|until| Instant::now() < until) {
            return taken;
        }
        let queue = &mut self.waiting[kind as usize];
        while taken.len() < most
            && let Some(request) = queue.pop_front()
        {
            if request.is_wanted(now) {
                taken.push(request);
            }
        }
        taken
    }

    /// Takes all requests, each kind in its order.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Request> + use<> {
        std::mem::take(&mut self.waiting).into_iter().flatten()
    }

    /// Takes the requests of which `is_wanted` is true.
    pub(super) fn take_if(&mut self, is_wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        let mut taken = Vec::new();
        for queue in &mut self.waiting {
            if queue.iter().any(&is_wanted) {
                let (wanted, rest): (VecDeque<_>, VecDeque<_>) = queue.drain(..).partition(&is_wanted);
                taken.extend(wanted);
                *queue = rest;
            }
        }
        taken
    }

    /// Puts back what the server has refused for now, oldest first. All requests of its kind rest for a while: `most` at the longest.
    pub(super) fn put_off(&mut self, kind: Kind, refused: Vec<Request>, most: Duration) {
        let rest = &mut self.rests[kind as usize];
        rest.until = Some(Instant::now() + rest.backoff.delay().max(FIRST_REST).min(most));
        for request in refused.into_iter().rev() {
            if let Op::Acquire(attempt) = &request.op {
                attempt.put_off();
            }
            self.push_front(request);
        }
    }

    /// The server serves this kind.
    pub(super) fn served(&mut self, kind: Kind) {
        let rest = &mut self.rests[kind as usize];
        if rest.until.is_some() {
            *rest = Rest::default();
        }
    }

    /// When the next rest of a kind with waiting requests ends.
    pub(super) fn next_rest(&self) -> Option<Instant> {
        let resting = self.rests.iter().zip(&self.waiting).filter(|(_, waiting)| !waiting.is_empty());
        let now = Instant::now();
        resting.filter_map(|(rest, _)| rest.until.filter(|until| *until > now)).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    /// Whether nothing waits, and no kind rests.
    pub(super) fn is_at_rest(&self) -> bool {
        let now = Instant::now();
        self.is_empty() && self.rests.iter().all(|rest| rest.until.is_none_or(|until| until < now))
    }
}
