//! A loss that is set once and read without a lock.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::info::Loss;

/// Why something was lost, if it was. The first cause stays.
#[derive(Debug, Default)]
pub(crate) struct LossFlag(AtomicU8);

impl LossFlag {
    pub(crate) fn get(&self) -> Option<Loss> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(Loss::Revoked),
            2 => Some(Loss::Expired),
            3 => Some(Loss::Unreachable),
            4 => Some(Loss::Closed),
            5 => Some(Loss::MaxHold),
            _ => None,
        }
    }

    /// Sets the cause, unless one is set.
    pub(crate) fn set(&self, loss: Loss) {
        let code = match loss {
            Loss::Revoked => 1,
            Loss::Expired => 2,
            Loss::Unreachable => 3,
            Loss::Closed => 4,
            Loss::MaxHold => 5,
        };
        let _ = self.0.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }
}
