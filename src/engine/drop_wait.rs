//! Waiting, where a thread ends, for what its drops have sent.
//!
//! The drop of the last manager waits for the releases so far. A guard that is dropped after its manager has nobody to wait for it:
//! then the thread does that when it ends, in the destructor of a thread-local. The main thread does so for all that it has dropped,
//! since the process ends with it, and a manager in a `static` is never dropped.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Core;
use crate::fork::ForkDetector;

thread_local! {
    static UNCONFIRMED: RefCell<AtThreadEnd> = RefCell::new(AtThreadEnd::new());
}

/// What a thread has dropped and the server has not confirmed yet. Nothing of a manager is kept alive by it.
#[derive(Debug, Default)]
struct Unconfirmed {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Unconfirmed {
    fn add(self: &Arc<Self>) -> Awaited {
        *self.count.lock() += 1;
        Awaited(self.clone())
    }

    fn wait(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut count = self.count.lock();
        while *count > 0 && !self.changed.wait_until(&mut count, deadline).timed_out() {}
    }
}

/// Waits in the destructor of the thread's local.
#[derive(Debug)]
struct AtThreadEnd {
    unconfirmed: Arc<Unconfirmed>,
    limit: Duration,
    fork: ForkDetector,
}

impl AtThreadEnd {
    fn new() -> Self {
        Self { unconfirmed: Arc::default(), limit: Duration::ZERO, fork: ForkDetector::new() }
    }
}

impl Drop for AtThreadEnd {
    fn drop(&mut self) {
        // In a forked child the releases are the parent's, and the mutex may be locked for ever.
        if !self.fork.is_forked() {
            self.unconfirmed.wait(self.limit);
        }
    }
}

/// Something that a thread waits for when it ends. Drop it once it is confirmed, or will never be.
#[derive(Debug)]
#[must_use = "nothing is waited for unless it is kept"]
pub(super) struct Awaited(Arc<Unconfirmed>);

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut count = self.0.count.lock();
        *count -= 1;
        if *count == 0 {
            self.0.changed.notify_all();
        }
    }
}

/// How a thread waits for something that it has begun.
pub(super) enum DropWait {
    /// Not at all: the manager's drop does.
    None,
    AtThreadEnd(Awaited),
    /// At once: this thread's locals have ended already, or nothing is run when it ends.
    Now(Awaited, Now),
}

/// The other side of [`DropWait::Now`].
#[derive(Debug)]
pub(super) struct Now {
    unconfirmed: Arc<Unconfirmed>,
    limit: Duration,
}

impl Now {
    pub(super) fn wait(&self) {
        self.unconfirmed.wait(self.limit);
    }
}

impl DropWait {
    /// What to keep until it is confirmed, and what to wait for now.
    pub(super) fn split(self) -> (Option<Awaited>, Option<Now>) {
        match self {
            Self::None => (None, None),
            Self::AtThreadEnd(awaited) => (Some(awaited), None),
            Self::Now(awaited, now) => (Some(awaited), Some(now)),
        }
    }

    /// Chooses for something that this thread has begun and the server has yet to confirm.
    pub(super) fn new(core: &Core) -> Self {
        let limit = core.defaults.drop_wait;
        let is_main = std::thread::current().name() == Some("main");
        let manager_is_gone = core.manager_is_gone();
        if limit.is_zero() || !(manager_is_gone || is_main) || core.keeper.is_current() {
            return Self::None;
        }
        // musl runs no destructors of the main thread's locals.
        let at_end = if cfg!(target_env = "musl") && is_main {
            None
        } else {
            let add = |local: &RefCell<AtThreadEnd>| {
                let mut local = local.borrow_mut();
                local.limit = local.limit.max(limit);
                local.unconfirmed.add()
            };
            UNCONFIRMED.try_with(add).ok()
        };
        match at_end {
            Some(awaited) => Self::AtThreadEnd(awaited),
            None if cfg!(target_env = "musl") && !manager_is_gone => Self::None,
            None => {
                let unconfirmed = Arc::<Unconfirmed>::default();
                let awaited = unconfirmed.add();
                Self::Now(awaited, Now { unconfirmed, limit })
            }
        }
    }
}
