//! Calls under way.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use crate::error::{LockError, Result};
use crate::process::blocking;

/// A call that has not been made yet: `.await` it in async code, under any executor, or [`wait`](Self::wait) for it on a plain
/// thread. It begins with the first poll.
///
/// ```
/// # fn main() -> leasehold::Result<()> {
/// let manager = leasehold::LockManager::memory();
/// assert!(!manager.is_locked("k").wait()?);
/// # Ok(()) }
/// ```
#[must_use = "futures do nothing unless awaited or waited for"]
pub struct Pending<T>(BoxFuture<'static, Result<T>>);

impl<T> Pending<T> {
    pub(crate) fn new(call: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self(Box::pin(call))
    }

    pub(crate) fn failed(error: LockError) -> Self
    where
        T: Send + 'static,
    {
        Self::new(std::future::ready(Err(error)))
    }

    /// Makes the call and blocks this thread until it is done.
    ///
    /// # Errors
    ///
    /// Those of the call, and [`LockError::Unsupported`] where blocking would stop an async runtime: inside a task or a
    /// `block_on`. It works in `spawn_blocking` and in `block_in_place`. tokio tells the places apart by a panic, which is caught
    /// here; the panic hook prints it all the same, and with `panic = "abort"` it ends the process.
    pub fn wait(self) -> Result<T> {
        blocking::wait(self)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
