//! The watchdog thread: writes the keeper's log records and metrics, and notifies losses that the keeper is late with.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use parking_lot::Mutex;

use crate::process::report::{self, Job};

/// The longest pause between two checks of the keeper while there are holds.
const EVERY: Duration = Duration::from_millis(50);
/// The shortest pause between two checks.
const SHORTEST: Duration = Duration::from_millis(2);

/// A set of leases that the watchdog checks.
pub(crate) trait Checked: Send + Sync {
    /// Notifies the losses that the keeper is late with. Returns the time until the next possible loss, if there can be any.
    fn check(self: Arc<Self>) -> Option<Duration>;
}

/// The keeper's handle to the watchdog thread, which ends after the keeper.
#[derive(Debug)]
pub(super) struct Watchdog {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Vec<Weak<dyn Checked>>>,
    /// Whether the thread waits for a job without a timeout.
    asleep: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl Watchdog {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = sync_channel(report::QUEUE);
        let shared = Arc::<Shared>::default();
        let its = shared.clone();
        thread::Builder::new().name("leasehold-watchdog".into()).spawn(move || its.run(&queue))?;
        Ok(Self { jobs, shared })
    }

    /// The queue for the keeper's records.
    pub(super) fn queue(&self) -> SyncSender<Job> {
        self.jobs.clone()
    }

    pub(super) fn watch(&self, watched: Weak<dyn Checked>) {
        let mut all = self.shared.watched.lock();
        all.retain(|watched| watched.strong_count() > 0);
        all.push(watched);
    }

    /// There are holds from now on.
    pub(super) fn rouse(&self) {
        if self.shared.asleep.swap(false, Ordering::AcqRel) {
            // A full queue wakes it as well.
            let _ = self.jobs.try_send(Box::new(|| ()));
        }
    }
}

impl Shared {
    fn run(&self, queue: &Receiver<Job>) {
        let (mut checked, mut pause) = (Instant::now(), EVERY);
        loop {
            let job = if self.asleep.load(Ordering::Acquire) {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(pause.saturating_sub(checked.elapsed()))
            };
            match job {
                Ok(job) => {
                    job();
                    report::report_dropped();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if checked.elapsed() >= pause {
                checked = Instant::now();
                self.asleep.store(true, Ordering::Release);
                let next = self.check();
                pause = next.unwrap_or(EVERY).clamp(SHORTEST, EVERY);
                if next.is_some() {
                    self.asleep.store(false, Ordering::Release);
                }
            }
        }
    }

    fn check(&self) -> Option<Duration> {
        let watched: Vec<_> = self.watched.lock().iter().filter_map(Weak::upgrade).collect();
        watched.into_iter().filter_map(|watched| watched.check()).min()
    }
}
