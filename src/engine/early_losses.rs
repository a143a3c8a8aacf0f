//! Losses that the server reported before the grant arrived.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::backend::AttemptId;

/// Attempts whose claims were lost recently: the grants of some may not have arrived yet.
#[derive(Debug, Default)]
pub(crate) struct EarlyLosses {
    any: AtomicBool,
    recent: Mutex<VecDeque<AttemptId>>,
}

impl EarlyLosses {
    /// Most grants have arrived before their entry is overwritten; only a burst of losses could overwrite one too early.
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
