//! The limits for requests, which are lowered when the server refuses one for its size.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error;
use crate::backend::BackendError;

/// The initial limit for the operations in one transaction. By default etcd accepts 128 at one level.
pub(super) const OPERATIONS: usize = 100;

/// The initial limit for the bytes in one request. By default etcd accepts 1.5 MiB.
const BYTES: usize = 1_400_000;

/// The limits for the requests on a connection.
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
    /// Returns the maximum number of operations in one transaction.
    pub(super) fn operations(&self) -> usize {
        self.operations.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of bytes in one request, unless one operation alone has more.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Sets the maximum number of bytes.
    #[cfg(test)]
    pub(super) fn believe(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Lowers the limit that a refused request has exceeded. Returns whether its size was the reason.
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
