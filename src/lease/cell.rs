//! [`LeaseCell`]: a lease, as the keeper and the guards share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{LossFlag, Policy, Renewal, Signal, Step};
use crate::backend::{BackendError, Lease, LeaseId, LeaseScope};
use crate::clock::Timestamp;
use crate::info::Loss;

/// One lease, shared by the keeper and all holds on it.
///
/// Guards call [`loss`](Self::loss), which takes no mutex while the lease lives. A loss is final: it never returns `None` again.
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

    /// Takes the lease for a claim. False if the lease is for one claim only, and is taken.
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

    /// The text to add to a loss with this cause: why the lease was not renewed.
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

    /// The cause of the loss, if the lease is lost by `now`.
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

    /// As [`loss`](Self::loss), in a forked child, where the mutex may stay locked for ever by a thread of the parent.
    pub(crate) fn loss_in_child(&self, now: Timestamp) -> Option<Loss> {
        self.lost.get().or_else(|| (now >= self.deadline()).then_some(Loss::Expired))
    }

    /// Ends the lease with this cause; keeps an earlier cause.
    pub(crate) fn lose(&self, cause: Loss, now: Timestamp) -> Option<Loss> {
        self.update(now, |renewal| {
            renewal.lost_by(now);
            renewal.lose(cause);
        })
    }

    /// What the keeper has to do for the lease.
    pub(crate) fn step(&self, now: Timestamp) -> Step {
        let mut step = Step::Sleep(now);
        self.update(now, |renewal| step = renewal.step(now));
        step
    }

    /// Like [`loss`](Self::loss), but wakes no listeners, so that it may be called under a mutex: the keeper wakes them soon.
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
            // Perhaps not for the first time: the call that found the loss may not have been allowed to wake listeners.
            self.signal.fire();
        }
        loss
    }

    /// Changes the state, and wakes no listeners.
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
