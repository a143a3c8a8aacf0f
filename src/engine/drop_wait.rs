//! Waiting at the end of a thread for the releases that its drops have sent.
//!
//! The drop of the last manager waits for the releases so far. For a guard that is dropped after its manager, the thread waits when
//! it ends, in the destructor of a thread-local. The main thread waits for all releases of its drops, since the process ends with it,
//! and a manager in a `static` is never dropped; and for the releases of other threads after the drop of their manager, since a scoped
//! thread counts as ended before the destructors of its thread-locals have run.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use super::base::Base;
use crate::process::fork::ForkDetector;

/// The releases of any thread after the drop of its manager, for the main thread to wait for; with the process that they belong to.
static OF_ALL: Mutex<Option<(ForkDetector, Arc<UnconfirmedDrops>)>> = Mutex::new(None);
/// Whether the main thread waits when it ends.
static MAIN_WAITS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static UNCONFIRMED: RefCell<AtThreadEnd> = RefCell::new(AtThreadEnd::new());
}

/// The unconfirmed releases of a thread. They keep nothing of a manager alive.
#[derive(Debug, Default)]
struct UnconfirmedDrops {
    count: Mutex<usize>,
    changed: Condvar,
}

impl UnconfirmedDrops {
    fn add(self: &Arc<Self>) -> Awaited {
        *self.count.lock() += 1;
        Awaited { by: self.clone(), by_main: None }
    }

    fn remove(&self) {
        let mut count = self.count.lock();
        *count -= 1;
        if *count == 0 {
            self.changed.notify_all();
        }
    }

    fn wait(&self, limit: Duration) {
        // A limit that no instant can express is none.
        self.changed.wait_while_for(&mut self.count.lock(), |count| *count > 0, limit);
    }
}

/// Waits in the destructor of the thread's local.
#[derive(Debug)]
struct AtThreadEnd {
    unconfirmed: Arc<UnconfirmedDrops>,
    limit: Duration,
    fork: ForkDetector,
    is_main: bool,
}

impl AtThreadEnd {
    fn new() -> Self {
        let is_main = is_main();
        if is_main {
            MAIN_WAITS.store(true, Ordering::Release);
        }
        Self { unconfirmed: Arc::default(), limit: Duration::ZERO, fork: ForkDetector::new(), is_main }
    }
}

fn is_main() -> bool {
    std::thread::current().name() == Some("main")
}

/// `None` while another thread has the mutex, which in a forked child may be for ever.
fn of_all() -> Option<Arc<UnconfirmedDrops>> {
    let mut of_all = OF_ALL.try_lock_for(Duration::from_millis(100))?;
    let (_, unconfirmed) = match of_all.take().filter(|(fork, _)| !fork.is_forked()) {
        Some(known) => of_all.insert(known),
        None => of_all.insert((ForkDetector::new(), Arc::default())),
    };
    Some(unconfirmed.clone())
}

/// Called when a manager is created: if this is the main thread, it will wait when it ends.
pub(super) fn prepare(limit: Duration) {
    if is_main() && !limit.is_zero() {
        let prepare = |local: &RefCell<AtThreadEnd>| {
            let mut local = local.borrow_mut();
            local.limit = local.limit.max(limit);
        };
        // Too late in a destructor.
        let _ = UNCONFIRMED.try_with(prepare);
    }
}

impl Drop for AtThreadEnd {
    fn drop(&mut self) {
        // In a forked child the releases are the parent's, and the mutex may be locked for ever.
        if self.fork.is_forked() {
            return;
        }
        let began = Instant::now();
        self.unconfirmed.wait(self.limit);
        if self.is_main
            && let Some(of_all) = of_all()
        {
            of_all.wait(self.limit.saturating_sub(began.elapsed()));
        }
    }
}

/// A release that a thread waits for when it ends. [Ended](Self::ended) once the release is confirmed, or never will be.
#[derive(Debug)]
#[must_use = "the thread waits only while this value lives"]
pub(super) struct Awaited {
    by: Arc<UnconfirmedDrops>,
    /// The main thread waits as well.
    by_main: Option<Arc<UnconfirmedDrops>>,
}

impl Awaited {
    /// The release has ended. If it was its manager's last operation, the sessions end too before the thread continues.
    pub(super) async fn ended(self, base: &Base) {
        if base.lifecycle.is_closed() {
            base.lifecycle.ended().await;
        }
        drop(self);
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.by.remove();
        if let Some(main) = &self.by_main {
            main.remove();
        }
    }
}

/// How a thread waits for a release that it has begun.
pub(super) enum DropWait {
    /// Not at all: the manager's drop does.
    None,
    AtThreadEnd(Awaited),
    /// At once: the thread-locals have been destroyed already, or no destructors run when the thread ends.
    Now(Awaited, Now),
}

/// The other side of [`DropWait::Now`].
#[derive(Debug)]
pub(super) struct Now {
    unconfirmed: Arc<UnconfirmedDrops>,
    limit: Duration,
}

impl Now {
    pub(super) fn wait(&self) {
        self.unconfirmed.wait(self.limit);
    }
}

impl DropWait {
    /// Returns the value to keep until the release is confirmed, and the one to wait for now.
    pub(super) fn split(self) -> (Option<Awaited>, Option<Now>) {
        match self {
            Self::None => (None, None),
            Self::AtThreadEnd(awaited) => (Some(awaited), None),
            Self::Now(awaited, now) => (Some(awaited), Some(now)),
        }
    }

    /// Chooses for an unconfirmed release that this thread has begun.
    pub(super) fn new(base: &Base) -> Self {
        let limit = base.defaults.drop_wait;
        let (is_main, manager_is_dropped) = (is_main(), base.lifecycle.is_manager_dropped());
        if limit.is_zero() || !(manager_is_dropped || is_main) || base.keeper.is_current() {
            return Self::None;
        }
        // musl runs no destructors of the main thread's locals.
        let main_waits = MAIN_WAITS.load(Ordering::Acquire) && !cfg!(target_env = "musl");
        // A plain thread may be scoped: it counts as ended before its destructors have run. A runtime's thread is joined.
        let ends_in_time = main_waits || is_main || Handle::try_current().is_ok();
        let at_end = if (cfg!(target_env = "musl") && is_main) || !ends_in_time {
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
            Some(mut awaited) => {
                awaited.by_main = if is_main { None } else { of_all() };
                if let Some(main) = &awaited.by_main {
                    *main.count.lock() += 1;
                }
                Self::AtThreadEnd(awaited)
            }
            None if cfg!(target_env = "musl") && !manager_is_dropped => Self::None,
            None => {
                let unconfirmed = Arc::<UnconfirmedDrops>::default();
                let awaited = unconfirmed.add();
                Self::Now(awaited, Now { unconfirmed, limit })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_no_instant_can_express_is_none() {
        let unconfirmed = Arc::<UnconfirmedDrops>::default();
        unconfirmed.wait(Duration::MAX);
        let awaited = unconfirmed.add();
        let confirms = std::thread::spawn(move || drop(awaited));
        unconfirmed.wait(Duration::MAX);
        assert_eq!(*unconfirmed.count.lock(), 0);
        confirms.join().unwrap();
    }
}
