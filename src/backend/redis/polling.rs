//! When waiters look by themselves: one call a second for all that a manager waits for, unless something is sooner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempt::{Attempt, NextPoll};
use crate::backend::AttemptId;

/// Polling that are this close to one another are one: as far apart as jitter takes those of a second.
const TOGETHER: Duration = Duration::from_millis(200);

/// How long somebody is remembered at most who waits no more.
const FORGET: Duration = Duration::from_secs(1);

/// Those who wait in a queue, and the next look that is planned.
#[derive(Debug, Default)]
pub(super) struct Polling {
    plan: Mutex<Plan>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Plan {
    next: Option<Instant>,
    /// Everyone is to look, because messages may have been lost.
    all: bool,
    /// Only these, so that a look costs nothing for all that is held.
    waiting: HashMap<AttemptId, Arc<Attempt>>,
}

impl Polling {
    /// Plans a look of an attempt that waits.
    pub(super) fn plan(&self, attempt: &Arc<Attempt>, at: Instant) {
        let mut plan = self.plan.lock();
        plan.waiting.entry(attempt.id).or_insert_with(|| attempt.clone());
        if plan.next.is_none_or(|next| at < next) {
            plan.next = Some(at);
            drop(plan);
            self.changed.notify_one();
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.plan.lock().waiting.len()
    }

    /// Everyone is to look now.
    pub(super) fn at_all(&self) {
        self.plan.lock().all = true;
        self.changed.notify_one();
    }

    /// Waits until it is time. Returns those whose time it is.
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
    /// Those who are to look by `until`, or all. Forgets those who wait no more, and plans for the rest.
    fn take(&mut self, until: Instant) -> Vec<Arc<Attempt>> {
        let all = std::mem::take(&mut self.all);
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        self.waiting.retain(|_, attempt| match attempt.look() {
            NextPoll::Never => false,
            // Its answer plans the next one.
            NextPoll::Asking => true,
            NextPoll::At(at) if all || at <= until => {
                due.push(attempt.clone());
                true
            }
            NextPoll::At(at) => {
                next = Some(next.map_or(at, |next| next.min(at)));
                true
            }
        });
        // Those who wait no more then are forgotten then.
        let again = (!self.waiting.is_empty()).then_some(until + FORGET);
        self.next = [next, again].into_iter().flatten().min();
        due
    }
}
