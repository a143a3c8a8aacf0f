//! The keeper: the library's background thread with a tokio runtime, and its watchdog thread.

mod watchdog;

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;
use tokio::runtime::{Builder, EnterGuard, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

pub(crate) use self::watchdog::Checked;
use self::watchdog::Watchdog;
use crate::error::{LockError, Result};
use crate::process::fork::ForkDetector;
use crate::process::{report, wakers};

/// One named thread with a separate tokio runtime, shared by all managers of the process.
///
/// It drives connections, renewals, watches and releases, so that none of them depends on the user's runtime. It is started by
/// the first manager and ends after the last.
#[derive(Debug)]
pub(crate) struct Keeper {
    runtime: Handle,
    thread: ThreadId,
    fork: ForkDetector,
    watchdog: Watchdog,
    /// Ends the thread when it is dropped.
    _stop: oneshot::Sender<()>,
}

/// Whether this thread has entered a runtime. It is created after tokio's own thread-local, so it is destroyed before that one.
struct Entered(Cell<bool>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

thread_local! {
    static ENTERED: Entered = const { Entered(Cell::new(false)) };
}

static KEEPER: Mutex<Weak<Keeper>> = Mutex::new(Weak::new());

impl Keeper {
    /// Returns this process's keeper, and starts it if there is none.
    ///
    /// # Errors
    ///
    /// Those of starting a thread.
    pub(crate) fn shared() -> io::Result<Arc<Self>> {
        let mut shared = KEEPER.lock();
        match shared.upgrade() {
            // A fork has no copy of the parent's thread.
            Some(keeper) if !keeper.is_forked() => Ok(keeper),
            _ => {
                let keeper = Arc::new(Self::start()?);
                *shared = Arc::downgrade(&keeper);
                Ok(keeper)
            }
        }
    }

    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let watchdog = Watchdog::start()?;
        let records = watchdog.queue();
        let (learnt, wakers_are_known) = std::sync::mpsc::channel::<()>();
        let thread = thread::Builder::new().name("leasehold-keeper".into()).spawn(move || {
            wakers::learn(&runtime);
            report::defer(records);
            drop(learnt);
            // Ends with an error, when the sender is dropped.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        // Ends with an error, when the sender is dropped. It takes some microseconds.
        let _ = wakers_are_known.recv();
        Ok(Self { runtime: handle, thread: thread.thread().id(), fork: ForkDetector::new(), watchdog, _stop: stop })
    }

    /// Lets the caller poll futures that need tokio's timers and sockets.
    ///
    /// # Errors
    ///
    /// `Unsupported` in the destructor of a thread-local that runs after tokio's own.
    pub(crate) fn enter(&self) -> Result<EnterGuard<'_>> {
        if ENTERED.try_with(|entered| entered.0.get()).unwrap_or(false) {
            return Ok(self.runtime.enter());
        }
        match Handle::try_current() {
            Err(error) if error.is_thread_local_destroyed() => Err(LockError::Unsupported {
                what: "calls in the destructor of a thread-local; drop the guard to release it".into(),
            }),
            _ => {
                let within = self.runtime.enter();
                // Fails in a destructor, where the slower path is good enough.
                let _ = ENTERED.try_with(|entered| entered.0.set(true));
                Ok(within)
            }
        }
    }

    /// Has the watchdog thread check `watched` as well.
    pub(crate) fn watch(&self, watched: Weak<dyn Checked>) {
        self.watchdog.watch(watched);
    }

    /// Notifies the watchdog thread that there are holds from now on.
    pub(crate) fn rouse(&self) {
        self.watchdog.rouse();
    }

    /// Whether this is the keeper's thread, which must not wait for its own work.
    pub(crate) fn is_current(&self) -> bool {
        thread::current().id() == self.thread
    }

    #[cfg(any(feature = "etcd", feature = "redis", all(feature = "file", target_os = "linux")))]
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs a future on the thread, so that its progress does not depend on the caller's runtime. The future is dropped with the
    /// returned one; `None` if the thread ends first.
    #[cfg(any(feature = "etcd", feature = "redis", all(feature = "file", target_os = "linux")))]
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
        struct EndOnDrop<T>(tokio::task::JoinHandle<T>);
        impl<T> Drop for EndOnDrop<T> {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let mut running = EndOnDrop(self.runtime.spawn(future));
        (&mut running.0).await.ok()
    }

    /// Runs a future on the thread.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// The same, to be ended before its time.
    pub(crate) fn spawn_abortable(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.runtime.spawn(future).abort_handle()
    }

    /// Whether this is a fork of the process that started the thread.
    pub(crate) fn is_forked(&self) -> bool {
        self.fork.is_forked()
    }
}
