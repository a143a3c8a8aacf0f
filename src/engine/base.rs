//! [`Base`]: what all parts of a manager use: its backend, clock, thread and defaults.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::lifecycle::Lifecycle;
use super::lookup_gate::LookupGate;
use super::recovery::Recovery;
use super::stats::Counters;
use tokio::sync::Notify;

use crate::arbiter::Handover;
use crate::backend::{AttemptId, Backend};
use crate::clock::{Clock, Timestamp};
use crate::error::{BackendError, ErrorKind, LockError, Result};
use crate::info::Holder;
use crate::keeper::Keeper;
use crate::process::foreign::CatchingWaker;
use crate::settings::Settings;

/// The defaults of requests.
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
    pub(crate) handover: Handover,
    pub(crate) drop_wait: Duration,
}

/// The manager's name with these settings.
pub(crate) fn name(settings: &Settings) -> String {
    settings.name.clone().unwrap_or_else(program_name)
}

impl From<&Settings> for Defaults {
    fn from(settings: &Settings) -> Self {
        Self {
            name: name(settings).into(),
            ttl: settings.ttl,
            auto_renew: settings.auto_renew,
            max_hold: settings.max_hold,
            reentrant: settings.reentrant,
            retry_interval: settings.retry_interval,
            max_retries: settings.max_retries,
            timeout: settings.timeout,
            handover: Handover { time: settings.handover.max_time, times: settings.handover.max_count },
            drop_wait: settings.drop_wait,
        }
    }
}

fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(std::path::Path::file_stem);
    name.map_or_else(|| "leasehold".into(), |name| name.to_string_lossy().into_owned())
}

/// The backend, clock, thread and defaults of one manager.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) defaults: Defaults,
    /// The name of this manager in its claims.
    pub(crate) holder: Arc<Holder>,
    pub(crate) counters: Counters,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) recovery: Recovery,
    pub(super) lookups: LookupGate,
    /// Has the keeper check the leases, and for an outage.
    changed: Notify,
}

impl Base {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        clock: Arc<dyn Clock>,
        keeper: Arc<Keeper>,
        defaults: Defaults,
    ) -> Arc<Self> {
        Arc::new(Self {
            recovery: Recovery::new(backend.clone()),
            holder: Arc::new(Holder::this_process(&defaults.name)),
            counters: Counters::new(defaults.name.clone()),
            lifecycle: Lifecycle::default(),
            lookups: LookupGate::default(),
            changed: Notify::new(),
            backend,
            clock,
            keeper,
            defaults,
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The manager's name, for log records.
    pub(crate) fn name(&self) -> &str {
        &self.defaults.name
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.keeper.is_forked()
    }

    /// Fails if the manager was closed, and in a forked child. Locks no mutex.
    pub(crate) fn check_open(&self, key: Option<&str>, operation: &'static str) -> Result<()> {
        if self.is_forked() {
            return Err(LockError::forked(key, operation));
        }
        if self.lifecycle.is_closed() {
            return Err(LockError::closed(key, operation));
        }
        Ok(())
    }

    pub(crate) fn next_attempt(&self) -> AttemptId {
        // Random, so that it cannot be guessed: on Redis, a client that may publish could otherwise report its loss.
        AttemptId(rand::random())
    }

    /// The error of a call that was not answered in time: the last known failure of the server or the connection, if any.
    pub(crate) fn no_answer(&self, limit: Duration) -> BackendError {
        self.backend.outage().unwrap_or_else(|| {
            BackendError::new(ErrorKind::Unreachable, format!("no answer from the server within {limit:?}"))
        })
    }

    /// Bounds a call of the backend by the manager's timeout. Polled inside the keeper's tokio context.
    pub(crate) async fn answer<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let answer = tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(self.no_answer(limit)));
        if answer.is_err() {
            // It may be the first sign of an outage.
            self.check_now();
        }
        answer
    }

    /// Has the keeper check the leases, and for an outage, now.
    pub(super) fn check_now(&self) {
        self.changed.notify_one();
    }

    /// Ends with the next [call for a check](Self::check_now).
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
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
        let base = self.clone();
        let key = key.map(str::to_owned);
        let checked = self.check_open(key.as_deref(), operation);
        WithinKeeper::new(self.keeper.clone(), async move {
            checked?;
            let answer = base.answer(base.defaults.timeout, call).await;
            answer.map_err(|error| LockError::backend(key.as_deref(), operation, error))
        })
    }
}

/// The error of a call that was interrupted by the end of its manager.
pub(super) fn closed() -> BackendError {
    BackendError::new(ErrorKind::Closed, "the manager is closed")
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
            // A mutex that the drop needs may stay locked for ever, by a thread that only the parent has.
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
