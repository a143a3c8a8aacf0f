//! [`Caught`]: a backend whose panics become errors.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{self, BoxStream, StreamExt};

use crate::backend::{
    Backend, BackendError, Claim, Completion, ErrorKind, Event, Evict, Features, Grant, Lease, LeaseScope, Result, Wait,
};
use crate::info::{Eviction, LockInfo};
use crate::process::foreign::Catching;
use crate::process::report::{Foreign, catch};

/// Wraps a backend that may panic, against its contract. A panic is reported as an unknown outcome.
pub(crate) struct Caught(Arc<dyn Backend>);

impl Caught {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce(&'a dyn Backend) -> BoxFuture<'a, T>,
        otherwise: impl FnOnce() -> T + Send + 'a,
    ) -> BoxFuture<'a, T> {
        match catch(Foreign::Backend, || call(&*self.0)) {
            Some(future) => {
                let caught = Catching::new(Foreign::Backend, future);
                Box::pin(async move { caught.await.unwrap_or_else(otherwise) })
            }
            None => ready(otherwise()).boxed(),
        }
    }

    fn ask<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce(&'a dyn Backend) -> BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        self.call(call, || Err(panicked()))
    }
}

/// The outcome of an acquire whose future was [`Catching`].
pub(crate) fn acquired(caught: Option<Result<Option<Grant>>>) -> Result<Option<Grant>> {
    caught.unwrap_or_else(|| Err(panicked()))
}

fn panicked() -> BackendError {
    BackendError::new(ErrorKind::Unreachable, "the backend panicked")
}

impl fmt::Debug for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Backend for Caught {
    fn kind(&self) -> &'static str {
        catch(Foreign::Backend, || self.0.kind()).unwrap_or("unknown")
    }
    fn min_ttl(&self) -> Duration {
        catch(Foreign::Backend, || self.0.min_ttl()).unwrap_or_default()
    }
    fn features(&self) -> Features {
        catch(Foreign::Backend, || self.0.features()).unwrap_or_default()
    }
    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        self.ask(move |backend| backend.open(ttl, scope))
    }
    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        self.call(|backend| backend.renew(leases), || leases.iter().map(|_| Err(panicked())).collect())
    }
    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        self.ask(|backend| backend.revoke(lease))
    }
    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        // The caller catches what its future does: see `acquired`.
        let call = catch(Foreign::Backend, || self.0.acquire(claim, wait));
        call.unwrap_or_else(|| ready(Err(panicked())).boxed())
    }
    fn acquire_now(&self, claim: &Claim, wait: Wait) -> Option<Result<Option<Grant>>> {
        catch(Foreign::Backend, || self.0.acquire_now(claim, wait)).unwrap_or_else(|| Some(Err(panicked())))
    }
    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        self.ask(|backend| backend.abort(claim))
    }
    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        self.ask(|backend| backend.release(grant))
    }
    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        // Unwinding drops the completion, which reports an unknown outcome.
        catch(Foreign::Backend, || self.0.begin_release(grant, completion)).flatten()
    }
    fn outage(&self) -> Option<BackendError> {
        catch(Foreign::Backend, || self.0.outage()).flatten()
    }
    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        self.ask(|backend| backend.next_event())
    }
    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        self.ask(move |backend| backend.inspect(key))
    }
    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        // The caller catches what its polls do.
        let states = catch(Foreign::Backend, || self.0.observe(key));
        states.unwrap_or_else(|| stream::once(ready(Err(panicked()))).boxed())
    }
    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        self.ask(move |backend| backend.wanted(grant))
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        self.ask(move |backend| backend.list(prefix))
    }
    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        self.ask(move |backend| backend.evict(key, evict))
    }
    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.ask(|backend| backend.ping())
    }
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.ask(|backend| backend.close())
    }
}
