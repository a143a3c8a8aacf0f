//! Tracking: the server reports the next change of each key that was read on the connection for messages, if that is [able to](Listener).
//!
//! Tracked are holds from a certain age on, and foreign locks by the first in their queues. The connection for commands tracks
//! nothing, so that what is short costs nothing, and waiters' looks do not make each renewal of a lock a message to each of them.
//!
//! A report is a hint. Changes by this process are reported as well: a renewal makes its locks be read, and tracked, again. A hold
//! whose lock has another value is checked by a renewal, and a waiter asks.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::attempt::Attempt;
use super::batch::Batch;
use super::claims::Claims;
use super::listening::Listener;
use super::losses::Losses;
use super::router::Router;
use super::value::{self, LockValue};
use crate::backend::AttemptId;
use crate::info::Mode;
use crate::process::report::debug;

/// How long a manager waits after it has read, at least. A hold is read after one or two such times: shorter ones are not worth it.
const PACE: Duration = Duration::from_millis(50);

/// How long it waits after an error, and the longest time between reads.
const RETRY: Duration = Duration::from_secs(1);

/// How many reads may follow each other at once because of reports.
const BURST: u32 = 5;

/// How many locks are read at once.
const SLICE: usize = 128;

/// How many attempts are registered at least before those that have ended are removed.
const FEW: usize = 64;

/// The tracked locks of one manager.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) claims: Arc<Claims>,
    pub(super) router: Arc<Router>,
    pub(super) batch: Arc<Batch>,
    pub(super) losses: Arc<Losses>,
}

impl Tracker {
    /// A lock that was read for this attempt has changed, or may have.
    fn changed(&self, id: AttemptId) {
        let Some(attempt) = self.claims.get(id) else { return };
        self.batch.untracked().report();
        match attempt.held() {
            Some(_) => self.router.read(&attempt),
            None => self.router.acquire(&attempt),
        }
    }

    /// A lock was read for this attempt.
    fn read(&self, attempt: &Arc<Attempt>, found: &[u8]) {
        let Some(epoch) = attempt.held() else {
            if found.is_empty() {
                self.router.acquire(attempt);
            }
            return;
        };
        let is_held = match attempt.mode {
            Mode::Exclusive => attempt.claim.with(epoch).as_bytes() == found,
            Mode::Shared if attempt.is_limited => found.starts_with(value::LIMITED),
            Mode::Shared => value::read(found) == LockValue::Shared(epoch),
        };
        if !is_held {
            self.losses.check(attempt.clone());
        }
    }
}

/// How long a manager waits after each read: longer and longer while reports follow each other without end, as from a server that
/// forgets what it tracks, because too many keys are tracked there, and reports each as changed.
#[derive(Debug, Default)]
struct Pace {
    /// How many reads have followed each other because of reports.
    reads: u32,
}

impl Pace {
    /// The time to wait after the next read. `follows`: reports demanded it before the last wait ended.
    fn next(&mut self, follows: bool) -> Duration {
        self.reads = if follows { self.reads.saturating_add(1) } else { 0 };
        let doublings = self.reads.saturating_sub(BURST).min(8);
        (PACE * 2_u32.pow(doublings)).min(RETRY)
    }
}

/// The tracked locks of all managers with one connection for messages.
#[derive(Debug)]
pub(super) struct Tracking {
    listener: Mutex<Listener>,
    readers: Mutex<Readers>,
    /// How many changes of keys were reported.
    #[cfg(test)]
    pub(super) reports: std::sync::atomic::AtomicUsize,
}

/// The attempts for which each key was read since its last change.
#[derive(Debug, Default)]
struct Readers {
    keys: HashMap<String, Vec<Reader>>,
    /// How many there are, at most.
    count: usize,
    /// How many of them had not ended when that was last checked.
    live: usize,
}

#[derive(Clone, Debug)]
struct Reader {
    tracker: Weak<Tracker>,
    attempt: AttemptId,
}

impl Reader {
    fn is_live(&self) -> bool {
        self.tracker.upgrade().is_some_and(|tracker| tracker.claims.get(self.attempt).is_some())
    }

    fn changed(&self) {
        if let Some(tracker) = self.tracker.upgrade() {
            tracker.changed(self.attempt);
        }
    }
}

impl Readers {
    /// Adds an attempt. False if it was there.
    fn add(&mut self, tracker: &Arc<Tracker>, attempt: &Attempt) -> bool {
        if self.count > 2 * self.live + FEW {
            self.remove_ended();
        }
        let readers = match self.keys.get_mut(&attempt.name.lock) {
            Some(readers) => readers,
            None => self.keys.entry(attempt.name.lock.clone()).or_default(),
        };
        let is_new = readers.iter().all(|reader| reader.attempt != attempt.id);
        if is_new {
            readers.push(Reader { tracker: Arc::downgrade(tracker), attempt: attempt.id });
            self.count += 1;
        }
        is_new
    }

    fn remove_ended(&mut self) {
        self.keys.retain(|_, readers| {
            readers.retain(Reader::is_live);
            !readers.is_empty()
        });
        self.live = self.keys.values().map(Vec::len).sum();
        self.count = self.live;
    }
}

impl Tracking {
    pub(super) fn new(listener: Listener) -> Arc<Self> {
        Arc::new(Self {
            listener: Mutex::new(listener),
            readers: Mutex::default(),
            #[cfg(test)]
            reports: Default::default(),
        })
    }

    /// The present connection.
    pub(super) fn listener(&self) -> Listener {
        self.listener.lock().clone()
    }

    /// The connection was replaced: on the new one nothing was read yet.
    pub(super) fn replace(&self, listener: Listener) {
        *self.listener.lock() = listener;
        *self.readers.lock() = Readers::default();
    }

    /// A key has changed.
    pub(super) fn changed(&self, key: &str) {
        #[cfg(test)]
        self.reports.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let readers = {
            let mut all = self.readers.lock();
            let readers = all.keys.remove(key).unwrap_or_default();
            all.count = all.count.saturating_sub(readers.len());
            readers
        };
        readers.iter().for_each(Reader::changed);
    }

    /// All keys may have changed.
    pub(super) fn all_changed(&self) {
        let readers = std::mem::take(&mut *self.readers.lock()).keys;
        readers.values().flatten().for_each(Reader::changed);
    }

    /// How many attempts are registered.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.readers.lock().keys.values().map(Vec::len).sum()
    }

    /// Reads the locks of a manager without end.
    pub(super) async fn run(self: Arc<Self>, tracker: Arc<Tracker>) {
        let mut pace = Pace::default();
        loop {
            let ready = Instant::now();
            let (attempts, reported) = tracker.batch.untracked().take().await;
            let pause = pace.next(reported && ready.elapsed() < PACE);
            let is_read = self.read(&tracker, attempts).await;
            sleep(if is_read { pause } else { RETRY }).await;
        }
    }

    /// Reads the locks of these attempts, if their changes are reported then. False if some cannot be read at present.
    async fn read(&self, tracker: &Arc<Tracker>, mut attempts: Vec<Arc<Attempt>>) -> bool {
        let listener = self.listener();
        if !listener.tracks() {
            return true;
        }
        {
            // Registered before the first byte is sent: a report may overtake the answer. A waiter that is there has read it already.
            let mut readers = self.readers.lock();
            attempts.retain(|attempt| readers.add(tracker, attempt) || attempt.held().is_some());
        }
        let read = attempts.chunks(SLICE).map(|slice| {
            let mut listener = listener.clone();
            async move { listener.read(tracker.batch.server(), slice.iter().map(|attempt| &*attempt.name.lock)).await }
        });
        let mut all = true;
        for (slice, found) in attempts.chunks(SLICE).zip(join_all(read).await) {
            match found {
                Ok(found) => slice.iter().zip(found).for_each(|(attempt, found)| tracker.read(attempt, &found)),
                Err(error) => {
                    debug!(target: "leasehold::redis", "locks are not tracked: {error}");
                    slice.iter().for_each(|attempt| tracker.router.read(attempt));
                    all = false;
                }
            }
        }
        all
    }
}
