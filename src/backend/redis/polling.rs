//! When waiters poll the server: one call a second for all waiters of a manager, unless one is due sooner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::{Attempt, NextPoll};
use crate::backend::AttemptId;

/// Polls within this time are one: it is as much as jitter separates those of a second.
const TOGETHER: Duration = Duration::from_millis(200);

/// How long an attempt that no longer waits is remembered at most.
const FORGET: Duration = Duration::from_secs(1);

/// The queued attempts, and the next poll.
#[derive(Debug, Default)]
pub(super) struct Polling {
    plan: Mutex<Plan>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Plan {
    next: Option<Instant>,
    /// All waiters are due, because messages may have been lost.
    all: bool,
    /// Only waiters, so that the cost of a poll does not depend on the number of holds.
    waiting: HashMap<AttemptId, Arc<Attempt>>,
}

impl Polling {
    /// Plans a poll of a waiter.
    pub(super) fn plan(&self, attempt: &Arc<Attempt>, at: Instant) {
        let mut plan = self.plan.lock();
        plan.waiting.entry(attempt.id).or_insert_with(|| attempt.clone());
        if plan.next.is_none_or(|next| at < next) {
            plan.next = Some(at);
            drop(plan);
            self.changed.notify_one();
        }
    }

    /// How many attempts are remembered.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.plan.lock().waiting.len()
    }

    /// Makes all waiters due.
    pub(super) fn all_now(&self) {
        self.plan.lock().all = true;
        self.changed.notify_one();
    }

    /// Waits until waiters are due. Returns them.
    pub(super) async fn due(&self) -> Vec<Arc<Attempt>> {
        loop {
            let next = {
                let mut plan = self.plan.lock();
                if plan.all || plan.next.is_some_and(|next| next <= Instant::now()) {
                    return plan.take(Instant::now() + TOGETHER);
                }
                plan.next
            };
            let timer = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = timer => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

impl Plan {
    /// Returns the waiters that are due by `until`, or all. Forgets the attempts that no longer wait, and plans for the rest.
    fn take(&mut self, until: Instant) -> Vec<Arc<Attempt>> {
        let all = std::mem::take(&mut self.all);
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        self.waiting.retain(|_, attempt| match attempt.next_poll() {
            NextPoll::Never => false,
            // The answer plans the next one.
            NextPoll::Pending => true,
            NextPoll::At(at) if all || at <= until => {
                due.push(attempt.clone());
                true
            }
            NextPoll::At(at) => {
                next = Some(next.map_or(at, |next| next.min(at)));
                true
            }
        });
        let cleanup = (!self.waiting.is_empty()).then_some(until + FORGET);
        self.next = [next, cleanup].into_iter().flatten().min();
        due
    }
}
