//! [`LockFuture`].

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::api::guard::LockGuard;
use crate::api::guards::Guards;
use crate::api::lost::Run;
use crate::api::pending::Pending;
use crate::api::request::LockRequest;
use crate::error::LockError;
use crate::owner::Scope;

/// The future of a response; see [`LockLayer`](super::LockLayer).
#[must_use = "futures do nothing unless polled"]
pub struct LockFuture<S: Service<R>, R, A, G: Guards = LockGuard, P = fn(&mut R, &G)> {
    state: State<S, R, G>,
    answer: A,
    prepare: P,
}

enum State<S: Service<R>, R, G> {
    Acquiring {
        acquiring: Pending<Option<G>>,
        /// What follows.
        next: Option<Next<S, R>>,
    },
    /// The work is dropped before its guards.
    Running {
        work: Run<S::Future>,
        scope: Scope,
        _guards: G,
    },
    /// Without a lock.
    Passing(Pin<Box<S::Future>>),
    Done,
}

struct Next<S, R> {
    service: S,
    request: R,
    scope: Scope,
    /// The error if the lock is not free.
    busy: LockError,
}

impl<S: Service<R>, R, A, G: Guards, P> LockFuture<S, R, A, G, P> {
    pub(super) fn new(
        mut service: S,
        lock: Option<LockRequest<G>>,
        request: R,
        tries: bool,
        answer: A,
        prepare: P,
    ) -> Self {
        let state = match lock {
            Some(mut lock) => {
                let (scope, busy) = (lock.scoped(), lock.busy());
                let acquiring = if tries { lock.try_once() } else { lock.until_granted() };
                State::Acquiring { acquiring, next: Some(Next { service, request, scope, busy }) }
            }
            None => State::Passing(Box::pin(service.call(request))),
        };
        Self { state, answer, prepare }
    }
}

/// The futures in it are pinned apart.
impl<S: Service<R>, R, A, G: Guards, P> Unpin for LockFuture<S, R, A, G, P> {}

impl<S, R, A, G, P> Future for LockFuture<S, R, A, G, P>
where
    S: Service<R>,
    A: Fn(LockError) -> Result<S::Response, S::Error>,
    G: Guards,
    P: Fn(&mut R, &G),
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { state, answer, prepare } = self.get_mut();
        if let State::Acquiring { acquiring, next } = state {
            let acquired = ready!(Pin::new(acquiring).poll(cx));
            let Some(Next { mut service, mut request, scope, busy }) = next.take() else { return Poll::Pending };
            *state = State::Done;
            let guards = match acquired.and_then(|guards| guards.ok_or(busy)) {
                Ok(guards) => guards,
                Err(error) => return Poll::Ready(answer(error)),
            };
            prepare(&mut request, &guards);
            *state = State::Running { work: Run::new(guards.lost(), service.call(request)), scope, _guards: guards };
        }
        let finished = match state {
            State::Running { work, scope, .. } => ready!(scope.poll(cx, |cx| Pin::new(work).poll(cx))),
            State::Passing(work) => Ok(ready!(work.as_mut().poll(cx))),
            State::Acquiring { .. } | State::Done => return Poll::Pending,
        };
        // Drops the work, then releases the lock.
        *state = State::Done;
        Poll::Ready(finished.unwrap_or_else(answer))
    }
}

impl<S: Service<R>, R, A, G: Guards, P> fmt::Debug for LockFuture<S, R, A, G, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockFuture").finish_non_exhaustive()
    }
}
