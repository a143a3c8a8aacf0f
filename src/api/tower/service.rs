//! [`LockService`].

use std::fmt;
use std::marker::PhantomData;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::LockFuture;
use crate::api::guard::LockGuard;
use crate::api::guards::Guards;
use crate::api::request::LockRequest;
use crate::error::LockError;

/// A service that runs each request under a lock; see [`LockLayer`](super::LockLayer), which makes it.
pub struct LockService<S, R, L, A, G = LockGuard, P = fn(&mut R, &G)> {
    inner: S,
    functions: Functions<L, A, P>,
    signature: PhantomData<fn(&R) -> G>,
}

/// The user's functions.
#[derive(Clone)]
pub(super) struct Functions<L, A, P> {
    pub(super) lock: L,
    pub(super) answer: A,
    pub(super) prepare: P,
    /// Whether a request whose lock is not free is answered at once.
    pub(super) tries: bool,
}

impl<S, R, L, A, G, P> LockService<S, R, L, A, G, P> {
    pub(super) fn new(inner: S, functions: Functions<L, A, P>) -> Self {
        Self { inner, functions, signature: PhantomData }
    }
}

impl<S, R, L, A, G, P> Service<R> for LockService<S, R, L, A, G, P>
where
    S: Service<R> + Clone,
    L: Fn(&R) -> Option<LockRequest<G>>,
    A: Fn(LockError) -> Result<S::Response, S::Error> + Clone,
    G: Guards,
    P: Fn(&mut R, &G) + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = LockFuture<S, R, A, G, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let Functions { lock, answer, prepare, tries } = &self.functions;
        // The one that is ready serves this request; its clone becomes ready for the next one.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        LockFuture::new(ready, lock(&request), request, *tries, answer.clone(), prepare.clone())
    }
}

impl<S: Clone, R, L: Clone, A: Clone, G, P: Clone> Clone for LockService<S, R, L, A, G, P> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.functions.clone())
    }
}

impl<S: fmt::Debug, R, L, A, G, P> fmt::Debug for LockService<S, R, L, A, G, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
