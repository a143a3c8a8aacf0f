//! When waiters poll the server: one look a second for all waiters of a manager, unless one is due sooner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answers::LifeAnswer;
use super::attempt::Attempt;
use super::place::NextPoll;
use crate::backend::AttemptId;

/// Polls within this time are one: it is as much as jitter separates those of a second.
const TOGETHER: Duration = Duration::from_millis(200);

/// How long an attempt that no longer waits is remembered at most.
const FORGET: Duration = Duration::from_secs(1);

/// How long after a life the next one is sent at the earliest. It lasts for 1.9 s, and waiters poll at least once a second.
const LIFE: Duration = Duration::from_millis(700);

/// How long after a look for orphans the next one follows at the earliest.
const DOUBT: Duration = Duration::from_millis(100);

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
    all_ask: bool,
    /// All waiters are due to look, at their places as well: this manager's life had ended, so they may have been removed.
    all_look: bool,
    /// When all look for [orphans](super::orphans) next, and when they did last.
    doubt: Option<Instant>,
    doubted: Option<Instant>,
    /// The last lives: the only one, or in a cluster one for each slot.
    lives: HashMap<Option<u16>, Life>,
    /// Only waiters, so that the cost of a poll does not depend on the number of holds.
    waiting: HashMap<AttemptId, Arc<Attempt>>,
}

/// A life that was sent.
#[derive(Clone, Copy, Debug)]
struct Life {
    sent: Instant,
    is_answered: bool,
}

/// Waiters that are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Those to ask for, since a look would show nothing new.
    pub(super) ask: Vec<Arc<Attempt>>,
    /// Those to look for.
    pub(super) look: Vec<Arc<Attempt>>,
    /// Whether each looks at its place in any case.
    pub(super) places: bool,
    /// Whether orphans may hold locks.
    pub(super) doubt: bool,
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

    /// Takes the waiters of slots that have left.
    pub(super) fn leave(&self, has_left: impl Fn(u16) -> bool) -> Vec<Arc<Attempt>> {
        let plan = &mut *self.plan.lock();
        plan.lives.retain(|slot, _| !slot.is_some_and(&has_left));
        let left: Vec<_> = plan.waiting.values().filter(|attempt| has_left(attempt.name.slot)).cloned().collect();
        left.iter().for_each(|attempt| drop(plan.waiting.remove(&attempt.id)));
        left
    }

    /// How many attempts are remembered.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.plan.lock().waiting.len()
    }

    /// Makes all waiters ask.
    pub(super) fn all_now(&self) {
        let mut plan = self.plan.lock();
        plan.all_ask = true;
        // Some may have failed.
        plan.lives.clear();
        drop(plan);
        self.changed.notify_one();
    }

    /// Makes all waiters look soon: orphans may hold their locks.
    pub(super) fn doubt(&self) {
        let (mut plan, now) = (self.plan.lock(), Instant::now());
        if plan.doubt.is_none() {
            plan.doubt = Some(plan.doubted.map_or(now, |last| now.max(last + DOUBT)));
            drop(plan);
            self.changed.notify_one();
        }
    }

    /// Returns the attempts that wait.
    pub(super) fn waiting(&self) -> Vec<Arc<Attempt>> {
        self.plan.lock().waiting.values().filter(|attempt| attempt.is_wanted()).cloned().collect()
    }

    /// Whether to send a life now, in a cluster one for this slot. Then it counts as sent.
    pub(super) fn begin_life(&self, slot: Option<u16>) -> bool {
        let (mut plan, now) = (self.plan.lock(), Instant::now());
        let begins = plan.lives.get(&slot).is_none_or(|life| life.is_answered && now - life.sent >= LIFE);
        if begins {
            plan.lives.insert(slot, Life { sent: now, is_answered: false });
        }
        begins
    }

    /// A life was answered, or has failed: then there is no answer.
    pub(super) fn lived(&self, slot: Option<u16>, answer: Option<LifeAnswer>) {
        let mut plan = self.plan.lock();
        if let Some(life) = plan.lives.get_mut(&slot) {
            life.is_answered = true;
        }
        let Some(answer) = answer else { return };
        if answer == LifeAnswer::Alive || plan.waiting.is_empty() {
            return;
        }
        if answer == LifeAnswer::Unknown {
            let concerned = plan.waiting.values().filter(|attempt| slot.is_none_or(|slot| attempt.name.slot == slot));
            concerned.for_each(|attempt| attempt.forget_place());
        }
        plan.all_look = true;
        drop(plan);
        self.changed.notify_one();
    }

    /// Waits until waiters are due. Returns them.
    pub(super) async fn due(&self) -> Due {
        loop {
            let next = {
                let (mut plan, now) = (self.plan.lock(), Instant::now());
                let next = [plan.next, plan.doubt].into_iter().flatten().min();
                if plan.all_ask || plan.all_look || next.is_some_and(|next| next <= now) {
                    return plan.take(now);
                }
                next
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
    /// Returns the waiters that are due soon, or all. Forgets the attempts that no longer wait, and plans for the rest.
    fn take(&mut self, now: Instant) -> Due {
        let until = now + TOGETHER;
        let (all_ask, places) = (std::mem::take(&mut self.all_ask), std::mem::take(&mut self.all_look));
        let doubt = self.doubt.take_if(|at| *at <= now).is_some();
        if doubt {
            self.doubted = Some(now);
        }
        let (mut due, mut next) = (Due { places, doubt, ..Due::default() }, None::<Instant>);
        self.waiting.retain(|_, attempt| match attempt.next_poll() {
            NextPoll::Never => false,
            // The answer plans the next one.
            NextPoll::Pending => true,
            NextPoll::At { at, asks } if all_ask || places || doubt || at <= until => {
                let list = if all_ask || asks { &mut due.ask } else { &mut due.look };
                list.push(attempt.clone());
                true
            }
            NextPoll::At { at, .. } => {
                next = Some(next.map_or(at, |next| next.min(at)));
                true
            }
        });
        self.lives.retain(|_, life| !life.is_answered || now - life.sent < 10 * LIFE);
        let cleanup = (!self.waiting.is_empty()).then_some(until + FORGET);
        self.next = [next, cleanup].into_iter().flatten().min();
        due
    }
}
