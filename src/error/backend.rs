//! [`BackendError`] and its kinds.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::display::Printable;

/// The kind of a backend's failure, which determines whether the operation is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There was no answer, or only a temporary refusal; the outcome is unknown. Retried within the caller's time limit.
    Unreachable,
    /// The lease or the claim no longer exists. Retried with a new one.
    LeaseLost,
    /// Wrong password, missing permission, or invalid certificate. Final.
    Denied,
    /// An option cannot be used: a missing file, for example. Final.
    Misconfigured,
    /// The key is used for something that is not a compatible lock. Final.
    Incompatible,
    /// The server refused the request: no space, or a limit. Final.
    Refused,
    /// The backend does not support the operation. Final.
    Unsupported,
    /// The backend was closed. Final.
    Closed,
}

/// A backend's failure: its kind, a description without secrets, and the underlying cause.
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

    /// Adds the underlying cause.
    #[must_use]
    pub fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    /// Returns the kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The complete description, and the cause.
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
