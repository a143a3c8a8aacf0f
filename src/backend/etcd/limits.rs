//! How much goes in one request: less, once the server has refused what it was sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error;
use crate::backend::BackendError;

/// Operations in one transaction. By default etcd takes 128 at one level.
const OPERATIONS: usize = 100;

/// Bytes in one request. By default etcd takes 1.5 MiB.
const BYTES: usize = 1_400_000;

/// The limits for requests, which the managers on a connection share.
#[derive(Debug)]
pub(super) struct Limits {
    operations: AtomicUsize,
    bytes: AtomicUsize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { operations: AtomicUsize::new(OPERATIONS), bytes: AtomicUsize::new(BYTES) }
    }
}

impl Limits {
    /// Returns how many operations go in one transaction at most.
    pub(super) fn operations(&self) -> usize {
        self.operations.load(Ordering::Relaxed)
    }

    /// Returns how many bytes go in one request at most, unless one operation alone has more.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Sends so many bytes until the server refuses them.
    #[cfg(test)]
    pub(super) fn believe(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Learns from the refusal of a request that could have been smaller. Returns whether its size was the reason.
    pub(super) fn refused(&self, error: &BackendError, operations: usize, bytes: usize) -> bool {
        if error::is_too_many(error) {
            self.operations.fetch_min((operations / 2).max(1), Ordering::Relaxed);
        } else if error::is_too_large(error) {
            self.bytes.fetch_min((bytes / 2).max(1), Ordering::Relaxed);
        } else {
            return false;
        }
        true
    }
}
