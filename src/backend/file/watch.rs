//! Descriptors that the library's thread watches.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watched descriptor, which may have other users.
pub(super) type Watched = AsyncFd<Arc<OwnedFd>>;

/// Watches a descriptor. `None` if the system refuses.
#[allow(deprecated, reason = "the other way is unsafe, against types whose descriptor changes: this one's does not")]
pub(super) fn watch(fd: Arc<OwnedFd>, interest: Interest) -> Option<Watched> {
    AsyncFd::with_interest(fd, interest).ok()
}
