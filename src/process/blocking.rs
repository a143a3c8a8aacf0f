//! Blocking waits on plain threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use tokio::runtime::Handle;

#[cfg(all(feature = "file", target_os = "linux"))]
use super::inbox::{self, Bell, Inbox};

use crate::error::{LockError, Result};

struct Parker {
    thread: Thread,
    #[cfg(all(feature = "file", target_os = "linux"))]
    bell: Bell,
}

impl Parker {
    fn of_this_thread() -> Arc<Self> {
        Arc::new(Self {
            thread: thread::current(),
            #[cfg(all(feature = "file", target_os = "linux"))]
            bell: Bell::default(),
        })
    }

    /// Waits for a wake since the last call of [`reset`](Self::reset). A stale one causes one additional poll, which is harmless.
    fn park(&self) {
        #[cfg(all(feature = "file", target_os = "linux"))]
        if self.bell.wait() {
            return;
        }
        thread::park();
    }

    fn reset(&self) {
        #[cfg(all(feature = "file", target_os = "linux"))]
        self.bell.reset();
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        #[cfg(all(feature = "file", target_os = "linux"))]
        if self.bell.ring() {
            return;
        }
        self.thread.unpark();
    }
}

thread_local! {
    static PARKER: Arc<Parker> = Parker::of_this_thread();
}

/// Whether `waker` is the one that [`wait`] polls with on this thread.
pub(crate) fn is_this_thread(waker: &Waker) -> bool {
    // will_wake distinguishes copies of one vtable, see `process::wakers`. No other waker has this data pointer.
    let is_own = PARKER.try_with(|own| std::ptr::addr_eq(Arc::as_ptr(own), waker.data()));
    // After the thread-local was destroyed, each wait creates a waker.
    is_own.unwrap_or_else(|_| *waker.vtable() == *Waker::from(Parker::of_this_thread()).vtable())
}

/// Has this thread read an inbox while it waits, if `waker` is its own.
#[cfg(all(feature = "file", target_os = "linux"))]
pub(crate) fn attend(waker: &Waker, inbox: &Arc<Inbox>) {
    if is_this_thread(waker) {
        inbox::attend(inbox);
    }
}

/// Polls `future` on this thread until it completes.
///
/// # Errors
///
/// [`LockError::Unsupported`] where blocking would stall an async runtime: inside a task or a `block_on`, and where that cannot
/// be determined.
pub(crate) fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    refuse_async_context()?;
    let _entered = futures::executor::enter().map_err(|_| in_async_context())?;
    // In the destructor of another thread-local, this one may already be destroyed.
    let parker = PARKER.try_with(Arc::clone).unwrap_or_else(|_| Parker::of_this_thread());
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        parker.reset();
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(result) => return result,
            Poll::Pending => parker.park(),
        }
    }
}

/// Runs tokio's check for blocking, through the only public call that has it. It passes on plain threads, in `spawn_blocking` and
/// in `block_in_place`, and panics in tasks and in `block_on`.
fn refuse_async_context() -> Result<()> {
    thread_local! {
        static FREE: tokio::sync::Mutex<()> = const { tokio::sync::Mutex::const_new(()) };
    }
    match Handle::try_current() {
        Ok(_) => {}
        Err(error) if error.is_thread_local_destroyed() => {
            return Err(cannot_tell("in the destructor of a thread-local"));
        }
        Err(_) => return Ok(()),
    }
    // The check may panic, which aborts the process in a panic hook and while a thread unwinds.
    if thread::panicking() {
        return Err(cannot_tell("while a thread with a tokio runtime panics"));
    }
    FREE.try_with(|free| catch_unwind(AssertUnwindSafe(|| drop(free.blocking_lock()))))
        .map_or(Ok(()), |checked| checked.map_err(|_| in_async_context()))
}

fn cannot_tell(place: &str) -> LockError {
    LockError::Unsupported {
        what: format!("wait() cannot determine whether it may block {place}; drop the guard to release it"),
    }
}

fn in_async_context() -> LockError {
    LockError::Unsupported { what: "wait() would block an async runtime here; use .await, or spawn_blocking".into() }
}
