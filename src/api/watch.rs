//! [`Watch`]: the states of a key as a stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;

use crate::engine::{EngineHandle, Entry, Observation};
use crate::error::{LockError, Result};
use crate::info::LockInfo;
use crate::process::{blocking, wakers};

/// A stream of the states of a key: its holders as they change.
///
/// The first item is the present state, `None` if the key is free. Another one follows when the holders, the mode, a
/// [limit](crate::LockRequest::limit) or a [value](crate::LockRequest::value) change: on etcd and Redis usually within milliseconds. An item replaces the one before it, if that was not read: a slow reader sees the last state, not all states between.
/// [`waiters`](LockInfo::waiters) are those at that time, and [`remaining`](LockInfo::remaining) is unknown.
///
/// An error of the server says that the state may be outdated; the next state follows when the server answers. A permanent error,
/// such as a missing permission, is the last item, as is [`LockError::Closed`].
///
/// Nothing is observed before the first poll. The stream keeps its manager running, like a handle.
///
/// # Cancel safety
///
/// Read-only: dropping the stream, or the future of [`next`](Self::next), changes nothing and loses no state.
///
/// ```
/// # leasehold::doctest(async {
/// let manager = leasehold::LockManager::memory();
/// let mut watch = manager.watch("leader");
/// assert!(watch.next().await.expect("a state")?.is_none(), "nobody leads");
/// let _office = manager.lock("leader").value("10.0.0.7:8080").await?;
/// let info = watch.next().await.expect("a state")?.expect("somebody leads");
/// assert_eq!(info.values, [Some("10.0.0.7:8080".to_owned())]);
/// # Ok(()) });
/// ```
#[must_use = "a watch observes nothing unless polled"]
pub struct Watch {
    engine: Arc<EngineHandle>,
    state: State,
}

enum State {
    Start(Result<Arc<Entry>>),
    Observing(Observation, Arc<Entry>),
    Ended,
}

impl Watch {
    pub(super) fn new(engine: Arc<EngineHandle>, entry: Result<Arc<Entry>>) -> Self {
        Self { engine, state: State::Start(entry) }
    }

    /// Returns the next state; `None` after the last item.
    pub async fn next(&mut self) -> Option<Result<Option<LockInfo>>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The same, blocking this thread.
    ///
    /// # Errors
    ///
    /// Those of the watch, and [`LockError::Unsupported`] where blocking would stall an async runtime.
    ///
    /// ```
    /// let manager = leasehold::LockManager::memory();
    /// let mut watch = manager.watch("k");
    /// assert!(watch.wait_next().expect("a state")?.is_none());
    /// # Ok::<_, leasehold::LockError>(())
    /// ```
    pub fn wait_next(&mut self) -> Option<Result<Option<LockInfo>>> {
        blocking::wait(async { self.next().await.transpose() }).transpose()
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Option<LockInfo>>>> {
        if let State::Start(_) = self.state
            && let State::Start(entry) = std::mem::replace(&mut self.state, State::Ended)
        {
            let base = &self.engine.base;
            let opened = entry.and_then(|entry| base.check_open(Some(&entry.key), "watch").map(|()| entry));
            match opened {
                Ok(entry) => self.state = State::Observing(Observation::new(base.clone(), entry.key.clone()), entry),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let State::Observing(observation, entry) = &self.state else { return Poll::Ready(None) };
        let refused = |error| LockError::backend(Some(&entry.key), "watch", error);
        let polled = observation.poll_next(cx).map(|reported| reported.map(|reported| reported.map_err(refused)));
        if let Poll::Ready(None) = polled {
            self.state = State::Ended;
        }
        polled
    }
}

impl Stream for Watch {
    type Item = Result<Option<LockInfo>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        wakers::cooperate(cx, |cx| this.advance(cx))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
