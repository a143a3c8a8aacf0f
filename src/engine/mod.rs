//! What all objects of one manager share, and what the keeper does for them.

mod backoff;
mod caught;
mod drop_wait;
mod entries;
mod held;
mod histogram;
mod leases;
mod lookup;
mod overdue;
mod release;
mod stats;
mod troubles;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub(crate) use self::backoff::Backoff;
pub(crate) use self::caught::Caught;
pub(crate) use self::entries::Entry;
pub(crate) use self::held::{HeldGrant, Hold};
pub use self::histogram::Histogram;
pub(crate) use self::leases::LeaseFor;
pub(crate) use self::lookup::FRESH;
pub(crate) use self::release::Release;
pub(crate) use self::stats::Counters;
pub use self::stats::{Losses, Stats};
use crate::arbiter::HandOver;
use crate::backend::{AttemptId, Backend, BackendError};
use crate::clock::{Clock, Timestamp};
use crate::foreign::CatchingWaker;
use crate::keeper::Keeper;
use crate::settings::Settings;
use crate::{Holder, LockError, Loss, Result};

/// What a manager was told once and for all.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub(crate) name: Arc<str>,
    pub(crate) ttl: Duration,
    pub(crate) auto_renew: bool,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) reentrant: bool,
    pub(crate) retry_interval: Duration,
    pub(crate) max_retries: u32,
    pub(crate) timeout: Duration,
    pub(crate) hand_over: HandOver,
    pub(crate) drop_wait: Duration,
}

impl From<&Settings> for Defaults {
    fn from(settings: &Settings) -> Self {
        Self {
            name: settings.name.clone().unwrap_or_else(program_name).into(),
            ttl: settings.ttl,
            auto_renew: settings.auto_renew,
            max_hold: settings.max_hold,
            reentrant: settings.reentrant,
            retry_interval: settings.retry_interval,
            max_retries: settings.max_retries,
            timeout: settings.timeout,
            hand_over: HandOver { time: settings.handover.max_time, times: settings.handover.max_count },
            drop_wait: settings.drop_wait,
        }
    }
}

fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(std::path::Path::file_stem);
    name.map_or_else(|| "leasehold".into(), |name| name.to_string_lossy().into_owned())
}

/// The manager's inside. Background work holds it; what users hold is a [`Life`].
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) defaults: Defaults,
    /// Whether the backend's connections are driven by the user's own runtime.
    pub(crate) injected: bool,
    pub(crate) holder: Arc<Holder>,
    pub(crate) counters: Counters,
    entries: Arc<entries::Entries>,
    leases: Mutex<leases::Leases>,
    leases_changed: Notify,
    contended: Mutex<Vec<std::sync::Weak<Entry>>>,
    strays: leases::Strays,
    outage: backoff::Outage,
    troubles: troubles::Troubles,
    closed: AtomicBool,
    /// Whether the last manager has been dropped, though guards or handles may live.
    manager_gone: AtomicBool,
    ended: watch::Sender<bool>,
    /// Releases and the like that the server has not confirmed.
    unconfirmed: AtomicUsize,
    confirmed: Notify,
    /// When the keeper last looked after the leases.
    last_round: AtomicU64,
    /// Whether a thread notifies losses in the keeper's place.
    is_rescuing: AtomicBool,
}

impl Core {
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        keeper: Arc<Keeper>,
        defaults: Defaults,
        injected: bool,
    ) -> Arc<Self> {
        let now = clock.now();
        let core = Arc::new(Self {
            backend,
            clock,
            keeper,
            holder: Arc::new(Holder::this_process(&defaults.name)),
            entries: entries::Entries::new(defaults.hand_over),
            counters: Counters::new(defaults.name.clone()),
            defaults,
            injected,
            leases: Mutex::default(),
            leases_changed: Notify::new(),
            contended: Mutex::default(),
            strays: leases::Strays::default(),
            outage: backoff::Outage::default(),
            troubles: troubles::Troubles::default(),
            closed: AtomicBool::new(false),
            manager_gone: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            unconfirmed: AtomicUsize::new(0),
            confirmed: Notify::new(),
            last_round: AtomicU64::new(now.as_nanos()),
            is_rescuing: AtomicBool::new(false),
        });
        drop_wait::prepare(core.defaults.drop_wait);
        core.keeper.spawn(leases::supervise(core.clone(), leases::keep));
        core.keeper.spawn(leases::supervise(core.clone(), leases::listen));
        let watched: std::sync::Weak<Core> = Arc::downgrade(&core);
        core.keeper.watch(watched);
        core
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Fails in a manager that was closed and in a forked child. Takes no lock.
    pub(crate) fn check_open(&self, key: Option<&str>, operation: &'static str) -> Result<()> {
        if self.keeper.is_forked() {
            return Err(LockError::forked(key, operation));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(LockError::closed(key, operation));
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn entry(&self, key: &str) -> Arc<Entry> {
        self.entries.get(key)
    }

    pub(crate) fn entries_in_use(&self) -> Vec<Arc<Entry>> {
        self.entries.all()
    }

    pub(crate) fn next_attempt(&self) -> AttemptId {
        // Not to be guessed from another one: on Redis, whoever may publish could speak of it.
        AttemptId(rand::random())
    }

    /// Somebody waits at `entry` for a hand-over that may never come: have an eye on it.
    pub(crate) fn watch_over(&self, entry: &Arc<Entry>) {
        self.contended.lock().push(Arc::downgrade(entry));
    }

    /// Runs `call` inside the keeper's tokio context and gives up after the manager's timeout.
    pub(crate) fn bounded<T, F>(
        self: &Arc<Self>,
        key: Option<&str>,
        operation: &'static str,
        call: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BackendError>> + Send + 'static,
    {
        let core = self.clone();
        let key = key.map(str::to_owned);
        let checked = self.check_open(key.as_deref(), operation);
        WithinKeeper::new(self.keeper.clone(), async move {
            checked?;
            let limit = core.defaults.timeout;
            let answer = tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(core.no_answer(limit)));
            answer.map_err(|error| LockError::backend(key.as_deref(), operation, error))
        })
    }

    /// Closes the manager: all holds are lost, all leases revoked, waiters fail.
    ///
    /// Returns whether the server has confirmed everything within `bound`.
    pub(crate) async fn close(self: Arc<Self>, bound: Duration) -> bool {
        self.closed.store(true, Ordering::Release);
        let now = self.now();
        let cells = self.leases.lock().drain();
        for cell in &cells {
            cell.lose(Loss::Closed, now);
        }
        for entry in self.entries_in_use() {
            entry.close(&self, now);
        }
        for cell in cells {
            self.revoke(cell);
        }
        let confirmed = tokio::time::timeout(bound, self.all_confirmed()).await.is_ok();
        if !self.ended.send_replace(true) {
            if !confirmed {
                // Releases go on until the server has confirmed or their leases are over, and need the backend for it.
                let core = self.clone();
                self.keeper.spawn(async move {
                    core.all_confirmed().await;
                    // Nobody is left to be told.
                    let _ = core.backend.close().await;
                });
                return false;
            }
            let closing = self.backend.close();
            return tokio::time::timeout(bound, closing).await.is_ok_and(|closed| closed.is_ok()) && confirmed;
        }
        confirmed
    }

    /// Ends when every release and revocation so far has been confirmed or given up.
    pub(crate) async fn all_confirmed(&self) {
        loop {
            let confirmed = self.confirmed.notified();
            if self.unconfirmed.load(Ordering::Acquire) == 0 {
                return;
            }
            confirmed.await;
        }
    }

    /// The last manager is being dropped: from now on, threads wait for what they drop.
    pub(crate) fn manager_goes(&self) {
        self.manager_gone.store(true, Ordering::Release);
    }

    fn manager_is_gone(&self) -> bool {
        self.manager_gone.load(Ordering::Acquire)
    }

    pub(crate) fn has_unconfirmed(&self) -> bool {
        self.unconfirmed.load(Ordering::Acquire) > 0
    }

    async fn has_ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in self: no error to be had.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// Counts something that the server has yet to confirm.
#[derive(Debug)]
struct Unconfirmed(Arc<Core>);

impl Unconfirmed {
    fn new(core: &Arc<Core>) -> Self {
        core.unconfirmed.fetch_add(1, Ordering::AcqRel);
        Self(core.clone())
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        if self.0.unconfirmed.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.confirmed.notify_waiters();
        }
    }
}

/// Keeps a manager going: managers, handles, requests and guards have one. With the last, its sessions end.
#[derive(Debug)]
pub(crate) struct Life(Arc<Core>);

impl Life {
    pub(crate) fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self(core))
    }
}

impl std::ops::Deref for Life {
    type Target = Arc<Core>;
    fn deref(&self) -> &Arc<Core> {
        &self.0
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.0.keeper.is_forked() {
            // Never to be dropped here: a mutex of the backend may be locked for ever, by a thread that only the parent has.
            std::mem::forget(self.0.clone());
        } else if !self.0.is_closed() {
            let (core, bound) = (self.0.clone(), self.0.defaults.timeout);
            self.0.closed.store(true, Ordering::Release);
            let (awaited, now) = drop_wait::DropWait::new(&core).split();
            self.0.keeper.spawn(async move {
                core.close(bound).await;
                drop(awaited);
            });
            if let Some(now) = now {
                now.wait();
            }
        }
    }
}

/// Polls a future inside the keeper's tokio context.
pub(crate) struct WithinKeeper<F> {
    keeper: Arc<Keeper>,
    /// `None` once it has been dropped.
    future: Option<Pin<Box<F>>>,
    catching: CatchingWaker,
}

impl<F> WithinKeeper<F> {
    pub(crate) fn new(keeper: Arc<Keeper>, future: F) -> Self {
        Self { keeper, future: Some(Box::pin(future)), catching: CatchingWaker::default() }
    }
}

impl<F> Drop for WithinKeeper<F> {
    fn drop(&mut self) {
        if self.keeper.is_forked() {
            // As for an acquire.
            std::mem::forget(self.future.take());
        }
    }
}

impl<T, F: Future<Output = Result<T>>> Future for WithinKeeper<F> {
    type Output = Result<T>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let keeper = self.keeper.clone();
        match keeper.enter() {
            Ok(_within) => {
                let Self { future, catching, .. } = &mut *self;
                catching.poll(cx, |cx| future.as_mut().map_or(Poll::Pending, |future| future.as_mut().poll(cx)))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
