//! What an attempt knows of the acquire requests that it has sent.

use crate::backend::Timestamp;

/// The acquire requests of one attempt.
#[derive(Debug, Default)]
pub(super) struct SentRequests {
    /// Whether one is queued or in flight.
    pub(super) pending: bool,
    in_flight: u32,
    /// Whether one was sent that will never be answered, so that a copy of it may still take effect.
    unanswered: bool,
    /// When the first one was sent.
    first: Option<Timestamp>,
}

impl SentRequests {
    /// One is about to be sent.
    pub(super) fn sending(&mut self, now: Timestamp) {
        self.in_flight += 1;
        self.first.get_or_insert(now);
    }

    /// One has had no effect, and will be sent again.
    pub(super) fn put_off(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// One was answered.
    pub(super) fn answered(&mut self) {
        self.put_off();
        self.pending = false;
    }

    /// One will never be answered.
    pub(super) fn unanswered(&mut self) {
        self.answered();
        self.unanswered = true;
    }

    /// Whether copies may still reach the server.
    pub(super) fn may_have_copies(&self) -> bool {
        self.unanswered || self.in_flight > 0
    }

    /// Whether copies may still reach the server; `None` if none was ever sent.
    pub(super) fn copies(&self) -> Option<bool> {
        self.first.map(|_| self.may_have_copies())
    }
}
