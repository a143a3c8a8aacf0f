//! [`Completion`]: where a backend reports the outcome of a release.

use std::fmt;
use std::sync::Arc;

use crate::error::{BackendError, ErrorKind};

type Result<T> = std::result::Result<T, BackendError>;

/// What waits for the outcome of a release.
pub(crate) trait Completes: Send + Sync {
    /// Receives the outcome. The caller may be any thread, and locks no mutex.
    fn complete(self: Arc<Self>, outcome: Result<()>);
}

/// Reports the outcome of a release that [`begin_release`](super::Backend::begin_release) has begun.
///
/// Dropping it reports an unknown outcome.
#[must_use = "dropping it reports an unknown outcome"]
pub struct Completion(Option<Arc<dyn Completes>>);

impl Completion {
    pub(crate) fn new(completes: Arc<dyn Completes>) -> Self {
        Self(Some(completes))
    }

    /// Reports the outcome. Call it without holding a mutex: it may wake a task of the user's.
    pub fn complete(mut self, outcome: Result<()>) {
        if let Some(completes) = self.0.take() {
            completes.complete(outcome);
        }
    }

    /// Reports nothing: the backend has done nothing.
    pub(crate) fn decline(mut self) {
        self.0 = None;
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(completes) = self.0.take() {
            let reason = "the backend has ended a release without an outcome";
            completes.complete(Err(BackendError::new(ErrorKind::Unreachable, reason)));
        }
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").finish_non_exhaustive()
    }
}
