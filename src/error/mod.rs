//! [`LockError`].

mod backend;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

pub use self::backend::{BackendError, ErrorKind};
use crate::display::Printable;
use crate::info::{Holder, Loss};

/// A `Result` whose error type is [`LockError`] by default.
pub type Result<T, E = LockError> = std::result::Result<T, E>;

/// The error of a lock operation.
///
/// Branch on the variant or on [`code`](Self::code). The underlying cause, if any, is the [`source`](std::error::Error::source).
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let error = manager.lock("").await.unwrap_err();
/// assert_eq!(error.code(), "INVALID_KEY");
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The lock was not acquired in time.
    #[error("lock {:?} not acquired within {after:?}{}{}{}", Printable(.key), held_by(.holder), if *.own { OWN } else { "" }, because(.source))]
    #[non_exhaustive]
    Timeout {
        /// The key.
        key: String,
        /// How long the caller waited.
        after: Duration,
        /// The holder of the key shortly before, if known.
        holder: Option<Holder>,
        /// Whether another owner of the same task or thread held the key, so that the caller may have waited for itself: for
        /// example a `FuturesUnordered` branch of the task that holds the lock. See [`guide::ownership`](crate::guide::ownership).
        own: bool,
        /// The last failure of the server, if the server and not a holder prevented the acquire.
        source: Option<Box<BackendError>>,
    },
    /// This manager does not hold the key.
    #[error("lock {:?} is not held by this manager", Printable(.key))]
    #[non_exhaustive]
    NotHeld {
        /// The key.
        key: String,
    },
    /// The owner already holds the key in a mode that excludes the request.
    #[error("lock {:?} is already held: {reason}", Printable(.key))]
    #[non_exhaustive]
    AlreadyHeld {
        /// The key.
        key: String,
        /// The conflict.
        reason: &'static str,
    },
    /// The hold was lost.
    #[error("lock {:?} was lost: {cause}", Printable(.key))]
    #[non_exhaustive]
    Expired {
        /// The key.
        key: String,
        /// The cause of the loss.
        cause: Loss,
    },
    /// The key is not 1 to 1,024 bytes of UTF-8 without control characters or bidirectional control characters.
    #[error("invalid key {:?}: {reason}", Printable(.key))]
    #[non_exhaustive]
    InvalidKey {
        /// The key.
        key: String,
        /// What is wrong with the key.
        reason: &'static str,
    },
    /// An option, a URL or a duration is invalid.
    #[error("invalid configuration: {reason}")]
    #[non_exhaustive]
    InvalidConfig {
        /// The name of the option, and the reason.
        reason: String,
    },
    /// The manager was closed, or this process is a fork of the one that created it.
    #[error("cannot {operation}{}: {}", of_key(.key), if *.forked { FORKED } else { "the manager is closed" })]
    #[non_exhaustive]
    Closed {
        /// The key, where there is one.
        key: Option<String>,
        /// What was being done.
        operation: &'static str,
        /// Whether this process is a fork of the one that created the manager.
        forked: bool,
    },
    /// The backend, the build, or the place of the call does not support the operation.
    #[error("unsupported: {what}")]
    #[non_exhaustive]
    Unsupported {
        /// What is not supported.
        what: String,
    },
    /// The server refused the request or could not be reached.
    #[error("cannot {operation}{}: {}", of_key(.key), Printable(.reason))]
    #[non_exhaustive]
    Backend {
        /// The key, where there is one.
        key: Option<String>,
        /// What was being done.
        operation: &'static str,
        /// The kind of failure.
        kind: ErrorKind,
        /// The backend's description of the failure.
        reason: String,
        /// The underlying error of the client library or the system.
        #[source]
        cause: Option<Arc<dyn StdError + Send + Sync>>,
    },
}

impl LockError {
    /// Returns a stable name of the variant, for logs and other languages.
    ///
    /// One of `LOCK_TIMEOUT`, `LOCK_NOT_HELD`, `LOCK_ALREADY_HELD`, `LOCK_EXPIRED`, `INVALID_KEY`, `INVALID_CONFIG`,
    /// `CLOSED`, `UNSUPPORTED`, `BACKEND`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "LOCK_TIMEOUT",
            Self::NotHeld { .. } => "LOCK_NOT_HELD",
            Self::AlreadyHeld { .. } => "LOCK_ALREADY_HELD",
            Self::Expired { .. } => "LOCK_EXPIRED",
            Self::InvalidKey { .. } => "INVALID_KEY",
            Self::InvalidConfig { .. } => "INVALID_CONFIG",
            Self::Closed { .. } => "CLOSED",
            Self::Unsupported { .. } => "UNSUPPORTED",
            Self::Backend { .. } => "BACKEND",
        }
    }

    /// Returns the key of the operation, if it had one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Timeout { key, .. }
            | Self::NotHeld { key }
            | Self::AlreadyHeld { key, .. }
            | Self::Expired { key, .. }
            | Self::InvalidKey { key, .. } => Some(key),
            Self::Closed { key, .. } | Self::Backend { key, .. } => key.as_deref(),
            Self::InvalidConfig { .. } | Self::Unsupported { .. } => None,
        }
    }

    pub(crate) fn config(reason: impl Into<String>) -> Self {
        Self::InvalidConfig { reason: reason.into() }
    }

    pub(crate) fn closed(key: Option<&str>, operation: &'static str) -> Self {
        Self::Closed { key: key.map(Into::into), operation, forked: false }
    }

    pub(crate) fn forked(key: Option<&str>, operation: &'static str) -> Self {
        Self::Closed { key: key.map(Into::into), operation, forked: true }
    }

    /// The caller's error for a backend's failure.
    pub(crate) fn backend(key: Option<&str>, operation: &'static str, error: BackendError) -> Self {
        match error.kind() {
            ErrorKind::Closed => Self::closed(key, operation),
            ErrorKind::Misconfigured => Self::config(error.to_string()),
            ErrorKind::Unsupported => Self::Unsupported { what: error.to_string() },
            kind => {
                let (reason, cause) = error.into_parts();
                Self::Backend { key: key.map(Into::into), operation, kind, reason, cause }
            }
        }
    }
}

const FORKED: &str = "this process is a fork of the one that created the manager; create another manager here";

const OWN: &str = "; another owner of the same task or thread holds it, so the caller may have waited for itself";

fn held_by(holder: &Option<Holder>) -> String {
    holder.as_ref().map(|holder| format!(", held by {holder}")).unwrap_or_default()
}

fn because(source: &Option<Box<BackendError>>) -> String {
    source.as_ref().map(|error| format!("; {error}")).unwrap_or_default()
}

fn of_key(key: &Option<String>) -> String {
    key.as_ref().map(|key| format!(" {:?}", Printable(key))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_error_keeps_its_cause_out_of_the_text() {
        let io = std::io::Error::other("broken wire");
        let error =
            LockError::backend(Some("k"), "lock", BackendError::new(ErrorKind::Unreachable, "no answer").because(io));
        assert_eq!(error.code(), "BACKEND");
        assert_eq!(error.to_string(), "cannot lock \"k\": no answer");
        let source = error.source().unwrap();
        assert_eq!(source.to_string(), "broken wire");
    }

    #[test]
    fn what_others_have_written_is_escaped_and_cut_in_the_text_only() {
        let hostile = format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(1 << 20));
        let holder = Holder::new(hostile.clone(), hostile.clone(), 7);
        let refused = |kind| LockError::backend(Some(&hostile), "lock", BackendError::new(kind, hostile.clone()));
        let (key, after) = (hostile.clone(), Duration::ZERO);
        for error in [
            LockError::Timeout { key: key.clone(), after, holder: Some(holder), own: true, source: None },
            LockError::NotHeld { key: key.clone() },
            LockError::AlreadyHeld { key: key.clone(), reason: "shared" },
            LockError::Expired { key: key.clone(), cause: Loss::Revoked },
            crate::key::check(&key).unwrap_err(),
            refused(ErrorKind::Closed),
            refused(ErrorKind::Misconfigured),
            refused(ErrorKind::Unsupported),
            refused(ErrorKind::Refused),
        ] {
            let text = error.to_string();
            assert!(text.len() < 1000 && text.contains(r"\u{1b}[2J\u{a}\u{202e}xxx"), "{text}");
            assert!(!crate::display::has_control(&text), "{text:?}");
            assert!(error.key().is_none_or(|whole| whole == key));
        }
        let LockError::Backend { reason, .. } = refused(ErrorKind::Denied) else { panic!("another error") };
        assert_eq!(reason, hostile);
    }
}
