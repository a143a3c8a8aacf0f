//! [`Share`]: the part of a guard in the engine.

use std::sync::Arc;

use super::hold::{HeldGrant, Hold};
use super::keys::Entry;
use super::release::InFlight;
use crate::clock::Timestamp;
use crate::error::{LockError, Result};
use crate::info::Loss;

/// One share of a hold. The hold ends at the drop of its last share.
#[derive(Debug)]
pub(crate) struct Share {
    hold: Arc<Hold>,
    entry: Arc<Entry>,
    /// Whether it has been returned to the arbiter.
    left: bool,
}

impl Share {
    /// Creates the value for a share that the arbiter has counted.
    pub(super) fn new(hold: Arc<Hold>, entry: Arc<Entry>) -> Self {
        Self { hold, entry, left: false }
    }

    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    pub(crate) fn held(&self) -> &Arc<HeldGrant> {
        &self.hold.held
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The cause of the loss, if the hold is lost.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.hold.loss(self.held().now())
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.loss().is_some()
    }

    /// Takes one more share of the same hold.
    ///
    /// # Errors
    ///
    /// `Expired` if the hold is lost, `AlreadyHeld` if there are too many shares, `Closed` in a forked child.
    pub(crate) fn reenter(&self) -> Result<Self> {
        let held = self.held();
        if held.is_forked() {
            return Err(LockError::forked(Some(&held.key), "reenter"));
        }
        if let Some(cause) = self.loss() {
            return Err(held.expired(cause));
        }
        let reentered = self.entry.arbiter().reenter(self.hold.id);
        match reentered {
            Some(Ok(_)) => Ok(Self::new(self.hold.clone(), self.entry.clone())),
            Some(Err(reason)) => Err(LockError::AlreadyHeld { key: held.key.to_string(), reason }),
            None => Err(held.expired(Loss::Expired)),
        }
    }

    /// Ends the share. Returns the release, if the grant is released.
    ///
    /// # Errors
    ///
    /// `Closed` in a forked child, where the lock is the parent's.
    pub(crate) fn give_up(&mut self) -> Result<Option<InFlight>> {
        if self.held().is_forked() {
            return Err(LockError::forked(Some(&self.held().key), "unlock"));
        }
        self.left = true;
        Ok(self.leave())
    }

    fn leave(&self) -> Option<InFlight> {
        let (hold, base) = (&self.hold, &self.held().sessions.base);
        // Above depth 1 nothing depends on the time, and reading the clock would be a third of the work.
        let mut read = None;
        let mut now = || -> Timestamp { *read.get_or_insert_with(|| base.now()) };
        let (left, mut effects, owner) = {
            let mut arbiter = self.entry.arbiter();
            let (left, effects) = arbiter.leave(hold.id, &mut now);
            let left = left.unwrap_or_else(|| hold.leave_lost());
            let owner = if left == 0 { hold.end(now()) } else { None };
            (left, effects, owner)
        };
        drop(owner);
        let lost = hold.loss_before_end();
        if left == 0 {
            base.counters.held_for(hold.age(now()));
            hold.span.ended(lost);
        }
        if lost.is_some() {
            // Found under the mutex, where listeners could not be woken.
            hold.held.cell.signal.fire();
        }
        let release = effects.release.take().map(|held| super::release::release(held, now()));
        self.entry.apply(effects);
        release
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // In a forked child the lock is the parent's, and mutexes may stay locked for ever.
        if !self.left && !self.held().is_forked() {
            drop(self.leave());
        }
    }
}
