//! [`Pending`], the future of most calls.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;

use crate::error::{LockError, Result};
use crate::process::{blocking, wakers};

/// The future of a call: `.await` it under any executor, or call [`wait`](Self::wait) on a plain thread.
///
/// The call begins with the first poll.
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

    /// Runs the call, blocking this thread until it completes.
    ///
    /// # Errors
    ///
    /// Those of the call, and [`LockError::Unsupported`] where blocking would stall an async runtime: inside a task or a
    /// `block_on`. Inside `spawn_blocking` and `block_in_place` it works. The check makes tokio panic where blocking is refused.
    /// The panic is caught here, but the panic hook prints it, and with `panic = "abort"` it ends the process.
    pub fn wait(self) -> Result<T> {
        blocking::wait(self)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        wakers::cooperate(cx, |cx| self.0.as_mut().poll(cx))
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}
