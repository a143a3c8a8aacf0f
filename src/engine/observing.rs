//! [`Observation`]: the states of a key, as the backend reports them to a task on the keeper.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::StreamExt;
use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::base::{Base, closed};
use crate::backend::backoff::Backoff;
use crate::error::{BackendError, ErrorKind};
use crate::info::LockInfo;
use crate::process::foreign::{self, Catching};
use crate::process::report::Foreign;

/// What is reported: a state of the key, or the reason why it is not known.
type Reported = Result<Option<LockInfo>, BackendError>;

/// An observed key. The task ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Observation {
    latest: Arc<Mutex<Latest>>,
    base: Arc<Base>,
    task: AbortHandle,
}

/// The report that has not been read, of which there is one at most, and who reads it.
#[derive(Debug, Default)]
struct Latest {
    unread: Option<Reported>,
    read: Option<Reported>,
    has_ended: bool,
    waker: Option<Waker>,
}

impl Observation {
    /// Begins to observe a key.
    pub(crate) fn new(base: Arc<Base>, key: Arc<str>) -> Self {
        let latest = Arc::<Mutex<Latest>>::default();
        let task = base.keeper.spawn_abortable(observe(base.clone(), key, latest.clone()));
        Self { latest, base, task }
    }

    /// The next report; `None` after the last one.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Reported>> {
        let waker = foreign::cloned(cx.waker());
        let (polled, old) = {
            let mut latest = self.latest.lock();
            let polled = match latest.unread.take() {
                Some(report) => {
                    latest.read = Some(report.clone());
                    Poll::Ready(Some(report))
                }
                None if latest.has_ended => Poll::Ready(None),
                None => Poll::Pending,
            };
            (polled, latest.waker.replace(waker))
        };
        foreign::drop_all(old);
        polled
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        if self.base.is_forked() {
            return;
        }
        self.task.abort();
        let waker = self.latest.lock().waker.take();
        foreign::drop_all(waker);
    }
}

impl Latest {
    fn report(&mut self, mut report: Reported) -> Option<Waker> {
        if let Ok(Some(info)) = &mut report {
            // It would be outdated when it is read.
            info.remaining = None;
        }
        if self.read.as_ref().is_some_and(|read| is_same(read, &report)) {
            // What has come and gone in between was not read.
            self.unread = None;
            return None;
        }
        self.unread = Some(report);
        self.waker.take()
    }
}

/// Whether two reports say the same about the holders.
fn is_same(one: &Reported, other: &Reported) -> bool {
    let shown = |info: &LockInfo| {
        let LockInfo { mode, token, limit, foreign, .. } = info;
        (*mode, *token, *limit, *foreign)
    };
    match (one, other) {
        (Ok(Some(one)), Ok(Some(other))) => {
            shown(one) == shown(other)
                && one.holders == other.holders
                && one.values == other.values
                && one.claims == other.claims
        }
        (Ok(None), Ok(None)) => true,
        (Err(one), Err(other)) => one.kind() == other.kind(),
        _ => false,
    }
}

/// Observes a key until the manager is closed, or the backend refuses it.
async fn observe(base: Arc<Base>, key: Arc<str>, latest: Arc<Mutex<Latest>>) {
    let report = |report: Reported| {
        let waker = latest.lock().report(report);
        waker.into_iter().for_each(foreign::wake);
    };
    let refused = match select(pin!(until_refused(&base, &key, &report)), pin!(base.lifecycle.ended())).await {
        Either::Left((refused, _)) => refused,
        Either::Right(_) => closed(),
    };
    report(Err(refused));
    let waker = {
        let mut latest = latest.lock();
        latest.has_ended = true;
        latest.waker.take()
    };
    waker.into_iter().for_each(foreign::wake);
}

/// Reports the states of a key. Returns the error after which there are none.
async fn until_refused(base: &Base, key: &str, report: &(impl Fn(Reported) + Sync)) -> BackendError {
    let mut pauses = Backoff::slow();
    loop {
        let observed = Box::pin(observe_once(base, key, report));
        match Catching::new(Foreign::Backend, observed).await {
            Some((_, Some(refused))) => return refused,
            Some((true, None)) => pauses = Backoff::slow(),
            Some((false, None)) | None => {}
        }
        report(Err(base.no_answer(base.defaults.timeout)));
        base.recovery.pause(&mut pauses).await;
    }
}

/// Reports the states of a key until the backend's stream ends. Returns whether there was one, and the error that is final.
async fn observe_once(base: &Base, key: &str, report: &impl Fn(Reported)) -> (bool, Option<BackendError>) {
    let mut states = base.backend.observe(key);
    let mut is_answered = false;
    while let Some(state) = states.next().await {
        match &state {
            Ok(_) => is_answered = true,
            Err(error) if error.kind() == ErrorKind::Unreachable => {}
            Err(error) => return (is_answered, Some(error.clone())),
        }
        report(state);
    }
    (is_answered, None)
}
