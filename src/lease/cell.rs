//! A lease as its guards see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{LossFlag, Policy, Renewal, Signal, Step};
use crate::backend::{BackendError, Lease, LeaseId, LeaseScope};
use crate::clock::Timestamp;
use crate::info::Loss;

/// One lease, shared by the keeper and all who hold something on it.
///
/// Guards ask [`loss`](Self::loss), which takes no lock while the lease lives. Once it has said "lost" it says so for ever.
#[derive(Debug)]
pub(crate) struct LeaseCell {
    id: LeaseId,
    scope: LeaseScope,
    taken: AtomicBool,
    deadline: AtomicU64,
    lost: LossFlag,
    renewal: Mutex<Renewal>,
    policy: Policy,
    /// Why the last renewal failed, if it did.
    failure: Mutex<Option<BackendError>>,
    pub(crate) signal: Signal,
}

impl LeaseCell {
    pub(crate) fn new(lease: Lease, policy: Policy) -> Self {
        let renewal = Renewal::new(lease, policy);
        Self {
            id: lease.id,
            scope: lease.scope,
            taken: AtomicBool::new(false),
            deadline: AtomicU64::new(renewal.deadline().as_nanos()),
            lost: LossFlag::default(),
            renewal: Mutex::new(renewal),
            policy,
            failure: Mutex::new(None),
            signal: Signal::default(),
        }
    }

    pub(crate) fn id(&self) -> LeaseId {
        self.id
    }

    pub(crate) fn is_session(&self) -> bool {
        self.scope == LeaseScope::Session
    }

    /// Takes it for a claim. False if it is for one claim only, and has one.
    pub(crate) fn take(&self) -> bool {
        self.is_session() || !self.taken.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// A renewal has failed.
    pub(crate) fn failed(&self, error: &BackendError) {
        *self.failure.lock() = Some(error.clone());
    }

    /// A renewal has succeeded.
    pub(crate) fn recovered(&self) {
        *self.failure.lock() = None;
    }

    /// Why the last renewal failed, if it did.
    pub(crate) fn failure(&self) -> Option<BackendError> {
        self.failure.lock().clone()
    }

    /// What to add to a loss for this cause: why it was not renewed.
    pub(crate) fn because(&self, cause: Loss) -> String {
        let failure = self.failure().filter(|_| matches!(cause, Loss::Expired | Loss::Unreachable));
        failure.map(|error| format!("; the last renewal failed: {error}")).unwrap_or_default()
    }

    /// The lease as it was last proven.
    pub(crate) fn lease(&self) -> Lease {
        self.renewal.lock().lease()
    }

    pub(crate) fn deadline(&self) -> Timestamp {
        Timestamp::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// Why it is lost, if it is by `now`.
    pub(crate) fn loss(&self, now: Timestamp) -> Option<Loss> {
        match self.lost.get() {
            None if now < self.deadline() => None,
            None => self.update(now, |_| ()),
            lost => lost,
        }
    }

    /// Whether the loss has been found.
    pub(crate) fn is_known_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// The same in a forked child, where another thread of the parent may have the mutex for ever.
    pub(crate) fn loss_in_child(&self, now: Timestamp) -> Option<Loss> {
        self.lost.get().or_else(|| (now >= self.deadline()).then_some(Loss::Expired))
    }

    /// Ends it for a reason from outside; keeps an earlier reason.
    pub(crate) fn lose(&self, cause: Loss, now: Timestamp) -> Option<Loss> {
        self.update(now, |renewal| {
            renewal.lost_by(now);
            renewal.lose(cause);
        })
    }

    /// What the keeper is to do about it.
    pub(crate) fn step(&self, now: Timestamp) -> Step {
        let mut step = Step::Sleep(now);
        self.update(now, |renewal| step = renewal.step(now));
        step
    }

    /// As [`loss`](Self::loss), but wakes nobody, so that it may be asked under a mutex: the keeper does it soon.
    pub(crate) fn quiet_loss(&self, now: Timestamp) -> Option<Loss> {
        match self.lost.get() {
            None if now < self.deadline() => None,
            None => self.change(now, |_| ()),
            lost => lost,
        }
    }

    /// Changes the state and publishes the outcome.
    pub(crate) fn update(&self, now: Timestamp, change: impl FnOnce(&mut Renewal)) -> Option<Loss> {
        let loss = self.change(now, change);
        if loss.is_some() {
            // Perhaps not for the first time: who found the loss may not have been free to wake anybody.
            self.signal.fire();
        }
        loss
    }

    /// Changes the state and wakes nobody.
    pub(crate) fn change(&self, now: Timestamp, change: impl FnOnce(&mut Renewal)) -> Option<Loss> {
        let mut renewal = self.renewal.lock();
        change(&mut renewal);
        let loss = renewal.lost_by(now);
        self.deadline.store(renewal.deadline().as_nanos(), Ordering::Release);
        if let Some(loss) = loss {
            self.lost.set(loss);
        }
        loss
    }
}
