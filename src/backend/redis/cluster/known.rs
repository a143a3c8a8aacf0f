//! A node of a manager's cluster.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::super::opening::Opening;
use super::map::Member;

/// A node that a manager connects to, or has connected to. Its requests end with it.
pub(super) struct Known {
    pub(super) number: u64,
    pub(super) master: Member,
    pub(super) opening: Arc<Opening>,
    pub(super) connecting: JoinHandle<()>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.connecting.abort();
        self.opening.stop();
    }
}
