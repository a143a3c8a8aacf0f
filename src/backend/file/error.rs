//! Errors of the system, as those of a backend.

use std::io;

use rustix::io::Errno;

use crate::backend::{BackendError, ErrorKind};

/// What failed, with the system's reason.
pub(super) fn failed(what: &str, error: impl Into<io::Error>) -> BackendError {
    let error = error.into();
    let (kind, advice) = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => (ErrorKind::Denied, ""),
        Some(Errno::MFILE | Errno::NFILE) => {
            (ErrorKind::Refused, "; each key that is held or awaited needs a descriptor: raise the limit (ulimit -n)")
        }
        Some(Errno::NOLCK) => (ErrorKind::Refused, ""),
        Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR) => (ErrorKind::Incompatible, ""),
        None if error.kind() == io::ErrorKind::InvalidData => (ErrorKind::Incompatible, ""),
        // A full disk, for one: it may have room again.
        _ => (ErrorKind::Unreachable, ""),
    };
    BackendError::new(kind, format!("cannot {what}: {error}{advice}")).because(error)
}

pub(super) fn closed() -> BackendError {
    BackendError::new(ErrorKind::Closed, "the backend is closed")
}

pub(super) fn lost() -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, "the lease or the claim no longer exists in the directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_whether_to_try_again() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::Unreachable),
            (Errno::NOENT, ErrorKind::Unreachable),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::MFILE, ErrorKind::Refused),
            (Errno::LOOP, ErrorKind::Incompatible),
        ] {
            assert_eq!(failed("open the key's file", errno).kind(), kind, "{errno}");
        }
        let text = failed("open the key's file", Errno::MFILE).to_string();
        assert!(text.contains("ulimit -n"), "{text}");
    }
}
