//! The options of this backend.

use std::path::PathBuf;

/// Where the locks are, and whose they are.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The absolute path.
    pub(crate) directory: PathBuf,
    /// The permissions of a directory that has to be made: 0700 by default.
    pub(crate) mode: Option<u32>,
    pub(crate) prefix: String,
    /// The manager's name in its leases.
    pub(crate) name: String,
}
