//! Whether requests have the operations that etcd checks.
//!
//! etcd 3.4 checks permissions and space only for operations that are not nested. So a request of nested transactions also has
//! operations that need the same, in a branch that is never taken. etcd checks that branch whatever it contains, for a tenth of the
//! work on the request, so it is left out while there is nothing to check: no authentication, and space. That may change at any time,
//! and only a refusal tells. So one request a second always has it, and all have it from the first refusal on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error;
use crate::backend::{BackendError, ErrorKind};

/// The longest time without a request that etcd checks, while there are requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// Whether the requests on a connection have the operations that etcd checks.
#[derive(Debug)]
pub(super) struct Guards {
    are_always_due: AtomicBool,
    /// The time from which the next request has them.
    next: Mutex<Instant>,
}

impl Guards {
    /// Creates them for a connection on which etcd is known to check nothing at present, or not.
    pub(super) fn new(is_open: bool) -> Self {
        Self { are_always_due: AtomicBool::new(!is_open), next: Mutex::new(Instant::now()) }
    }

    /// Returns whether the next request is to have them.
    pub(super) fn are_due(&self) -> bool {
        if self.are_always_due.load(Ordering::Relaxed) {
            return true;
        }
        let (now, mut next) = (Instant::now(), self.next.lock());
        let is_due = now >= *next;
        if is_due {
            *next = now + INTERVAL;
        }
        is_due
    }

    /// All requests are to have them from now on.
    pub(super) fn require(&self) {
        self.are_always_due.store(true, Ordering::Relaxed);
    }

    /// Takes an error of the server into account.
    pub(super) fn refused(&self, error: &BackendError) {
        if error.kind() == ErrorKind::Denied || error::is_no_space(error) {
            self.require();
        }
    }
}
