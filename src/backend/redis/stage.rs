//! How far an attempt has come, and how it ends.

use std::task::Waker;

use tokio::time::Instant;

use super::place::{Place, Won};
use crate::backend::{BackendError, Limit, Timestamp};

/// How far an attempt has come.
#[derive(Debug)]
pub(super) enum Stage {
    Waiting {
        place: Place,
        /// When to poll the server; `None` while a request or a look is pending.
        next_poll: Option<Instant>,
        /// Whether to ask at the next poll: a look would show nothing new.
        asks: bool,
        waker: Option<Waker>,
    },
    /// Granted, but not returned yet.
    Granted {
        won: Won,
        place: Place,
    },
    Busy,
    Failed(BackendError),
    /// The grant was returned.
    Held {
        epoch: u64,
        limit: Option<Limit>,
        /// The time from which its TTL counts.
        proven: Timestamp,
        /// When the last renewal of its lease began that has not confirmed it: its lease promises more since, and only a later
        /// confirmation lifts the limit.
        doubted: Timestamp,
    },
    /// Given up: no acquire is sent for it from now on.
    Ended {
        /// Whether it held the lock, and its release has not been answered.
        releasing: bool,
        /// Whether a release has found the hold, or one that will never be answered may have found it.
        released: bool,
    },
}

impl Stage {
    pub(super) fn waiting(place: Place) -> Self {
        Self::Waiting { place, next_poll: None, asks: false, waker: None }
    }

    /// The epoch of the grant, returned or not.
    pub(super) fn epoch(&self) -> Option<u64> {
        match self {
            Self::Granted { won, .. } => Some(won.epoch),
            Self::Held { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }
}

/// The outcome of an attempt.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Granted(Won),
    /// The grant may have ended: the server has to be asked.
    Verify,
    Busy,
    Failed(BackendError),
    GivenUp,
}
