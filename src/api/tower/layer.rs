//! [`LockLayer`].

use std::fmt;
use std::marker::PhantomData;

use tower_layer::Layer;

use super::service::{Functions, LockService};
use crate::api::guard::LockGuard;
use crate::api::guards::Guards;
use crate::api::request::LockRequest;
use crate::error::LockError;

/// A layer that runs each request `R` under a lock.
///
/// A request waits for its lock, then for the inner service, whose future is dropped at its current await point if the lock is lost. The
/// lock is released when the inner service has answered: a body that is streamed afterwards is not under the lock.
///
/// Requests exclude each other also in one task: each is an [`Owner`](crate::Owner) of its own, as the closure of
/// [`with_lock`](crate::LockManager::with_lock) is. What the inner service locks in the same task is inside, so it can lock the key again;
/// and a request that is made by a task which holds the key is inside of that hold.
///
/// # Errors
///
/// Every [`LockError`] goes to the function `answer`, which makes a response or an error of the service from it. Errors of the inner
/// service are passed on.
///
/// # Cancel safety
///
/// Dropping the future of a response at any point drops the future of the inner service, releases the lock, and leaves nothing behind.
///
/// # Readiness
///
/// The layer is ready when the inner service is. A request that waits for its lock keeps what the inner service has reserved for it, such
/// as a permit of a concurrency limit: put such a limit outside of the layer to bound the requests that wait, too.
pub struct LockLayer<R, L, A, G = LockGuard, P = fn(&mut R, &G)> {
    functions: Functions<L, A, P>,
    /// Uses of these types only.
    signature: PhantomData<fn(&R) -> G>,
}

impl<R, G, L, A, O> LockLayer<R, L, A, G>
where
    L: Fn(&R) -> Option<LockRequest<G>>,
    A: Fn(LockError) -> O,
    G: Guards,
{
    /// Creates a layer.
    ///
    /// `lock` returns the lock that a request needs with its options, of one key or [several](crate::LockManager::lock_all), or `None` if
    /// it needs none.
    ///
    /// `answer` returns the `Result` of a request that was not run to its end:
    ///
    /// - [`LockError::Timeout`]: the lock was not free, for the time of [`LockRequest::timeout`] or with [`try_once`](Self::try_once) at
    ///   once;
    /// - [`LockError::Expired`]: the lock was lost, and the future of the inner service has been dropped;
    /// - others: those of the acquire, see [`LockRequest`].
    pub fn new(lock: L, answer: A) -> Self {
        let functions = Functions { lock, answer, prepare: nothing as fn(&mut R, &G), tries: false };
        Self { functions, signature: PhantomData }
    }
}

fn nothing<R, G>(_: &mut R, _: &G) {}

impl<R, L, A, G, P> LockLayer<R, L, A, G, P> {
    /// Sets a function that changes each request once it has its lock: it can put the [token](LockGuard::token) where the inner service
    /// finds it, among the request's extensions for example.
    pub fn prepare<Q: Fn(&mut R, &G)>(self, prepare: Q) -> LockLayer<R, L, A, G, Q> {
        let Functions { lock, answer, tries, .. } = self.functions;
        LockLayer { functions: Functions { lock, answer, prepare, tries }, signature: PhantomData }
    }

    /// Answers a request whose lock is not free at once, with [`LockError::Timeout`]. By default it waits, for the time of
    /// [`LockRequest::timeout`] if there is one.
    #[must_use = "returns another layer"]
    pub fn try_once(mut self) -> Self {
        self.functions.tries = true;
        self
    }
}

impl<S, R, L: Clone, A: Clone, G, P: Clone> Layer<S> for LockLayer<R, L, A, G, P> {
    type Service = LockService<S, R, L, A, G, P>;

    fn layer(&self, inner: S) -> Self::Service {
        LockService::new(inner, self.functions.clone())
    }
}

impl<R, L: Clone, A: Clone, G, P: Clone> Clone for LockLayer<R, L, A, G, P> {
    fn clone(&self) -> Self {
        Self { functions: self.functions.clone(), signature: PhantomData }
    }
}

impl<R, L, A, G, P> fmt::Debug for LockLayer<R, L, A, G, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockLayer").field("try_once", &self.functions.tries).finish_non_exhaustive()
    }
}
