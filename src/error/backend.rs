//! What a backend can fail with.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::display::Printable;

/// The sort of a backend's failure: decides what leasehold does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No answer, or one that says "later": the outcome is unknown. Tried again within the caller's time.
    Unreachable,
    /// The lease or the claim is gone. Tried again with a new one.
    LeaseLost,
    /// Wrong password, no permission, bad certificate. Final.
    Denied,
    /// What it was told cannot be used: a file that is not there, for example. Final.
    Misconfigured,
    /// The key is in use by something that is no lock of ours. Final.
    Incompatible,
    /// The server refuses for a reason of its own: no space, a limit. Final.
    Refused,
    /// The backend cannot do this. Final.
    Unsupported,
    /// The backend was closed. Final.
    Closed,
}

/// A backend's failure: a kind, a sentence without secrets, and the cause beneath.
#[derive(Clone, Debug)]
pub struct BackendError {
    kind: ErrorKind,
    reason: String,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl BackendError {
    /// Creates an error without a cause.
    pub fn new(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), cause: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Returns the sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The whole reason, and the cause.
    pub(crate) fn into_parts(self) -> (String, Option<Arc<dyn Error + Send + Sync>>) {
        (self.reason, self.cause)
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printable(&self.reason).fmt(f)
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}
