//! Losses that the server reported before the grant was here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::backend::AttemptId;

/// Attempts whose claims were lost of late: for some the grant was still on its way, so that nothing had it yet.
#[derive(Debug, Default)]
pub(crate) struct EarlyLosses {
    any: AtomicBool,
    recent: Mutex<VecDeque<AttemptId>>,
}

impl EarlyLosses {
    /// The grants of most are here by then, so only a burst could push one out whose grant is not.
    pub(super) const MOST: usize = 4096;

    pub(super) fn add(&self, attempt: AttemptId) {
        let mut recent = self.recent.lock();
        if recent.len() == Self::MOST {
            recent.pop_front();
        }
        recent.push_back(attempt);
        self.any.store(true, Ordering::Release);
    }

    /// Whether the server has reported that this attempt's claim is lost.
    pub(crate) fn contains(&self, attempt: AttemptId) -> bool {
        self.any.load(Ordering::Acquire) && self.recent.lock().contains(&attempt)
    }
}
