//! Locks within one process: a complete backend, whose server is a [`Store`] behind a mutex.

mod ids;
mod observed;
mod observer;
mod queue;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod wakes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use futures::stream::{self, StreamExt};
use tokio::sync::oneshot;

use self::observer::{Observer, wait_until_wanted};
use self::state::Answer;
pub(crate) use self::store::Store;
use super::events::Events;
use super::{
    Backend, BackendError, BoxFuture, BoxStream, Claim, Clock, Completion, ErrorKind, Event, Evict, Features, Grant,
    Lease, LeaseScope, Result, Wait,
};
use crate::info::{Eviction, LockInfo};

/// One manager's link to a [`Store`].
///
/// Only a claim in a queue waits, so every other call is ready at its first poll.
#[derive(Debug)]
pub(crate) struct Memory {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    events: Arc<Events>,
    closed: AtomicBool,
}

impl Memory {
    /// Creates a link. `clock` is the manager's, which dates leases.
    pub(crate) fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, events: Arc::default(), closed: AtomicBool::new(false) }
    }

    /// Returns the store, for calls that a closed link refuses: all but releases, aborts and revocations.
    fn store(&self) -> Result<&Store> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(BackendError::new(ErrorKind::Closed, "the link to the memory store is closed"));
        }
        Ok(&self.store)
    }

    fn release_now(&self, grant: &Grant) -> Result<()> {
        if self.store.release(grant.lease.id, grant.attempt) { Ok(()) } else { Err(lost()) }
    }

    /// Passes an acquire to the store whose caller has left. Returns whether it took effect.
    #[cfg(feature = "testing")]
    pub(crate) fn deliver(&self, claim: &Claim, wait: Wait) -> bool {
        matches!(self.store.acquire(claim, wait), Answer::Granted(_) | Answer::Queued(_))
    }

    /// Waits for the grant of a queued claim.
    async fn granted(&self, claim: &Claim, mut answer: oneshot::Receiver<u64>) -> Result<Option<Grant>> {
        loop {
            // There is no background task: a lease ends when a call finds it expired, so a waiter makes such calls.
            let patience = self.store.patience(claim).unwrap_or_default() + Duration::from_millis(1);
            match select(answer, std::pin::pin!(tokio::time::sleep(patience))).await {
                Either::Left((epoch, _)) => {
                    return epoch.map(|epoch| Some(Grant::new(claim, epoch))).map_err(|_| lost());
                }
                Either::Right(((), unanswered)) => answer = unanswered,
            }
            self.store.purge();
        }
    }
}

fn lost() -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, "the lease or the claim no longer exists in the memory store")
}

impl Backend for Memory {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn features(&self) -> Features {
        Features { limits: true, values: true }
    }

    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        Box::pin(async move {
            let proven = self.clock.now();
            let id = self.store()?.open(ttl, scope, &self.events);
            Ok(Lease::new(id, ttl, proven, scope))
        })
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        Box::pin(async move {
            let proven = self.clock.now();
            let store = match self.store() {
                Ok(store) => store,
                Err(closed) => return leases.iter().map(|_| Err(closed.clone())).collect(),
            };
            let lived = store.renew(leases.iter().map(|lease| lease.id));
            let renewed = leases.iter().map(|lease| Lease { proven, ..*lease });
            renewed.zip(lived).map(|(lease, lived)| if lived { Ok(lease) } else { Err(lost()) }).collect()
        })
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.store.revoke(lease.id);
            Ok(())
        })
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        Box::pin(async move {
            match self.store()?.acquire(claim, wait) {
                Answer::Granted(epoch) => Ok(Some(Grant::new(claim, epoch))),
                Answer::Busy => Ok(None),
                Answer::Refused => Err(lost()),
                Answer::Queued(answer) => {
                    claim.queued();
                    // Boxed, so that a call that need not wait has a small allocation.
                    Box::pin(self.granted(claim, answer)).await
                }
            }
        })
    }

    fn acquire_now(&self, claim: &Claim, wait: Wait) -> Option<Result<Option<Grant>>> {
        match self.store().ok()?.acquire(claim, Wait::Never) {
            Answer::Granted(epoch) => Some(Ok(Some(Grant::new(claim, epoch)))),
            Answer::Busy if wait == Wait::Never => Some(Ok(None)),
            Answer::Busy | Answer::Refused | Answer::Queued(_) => None,
        }
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.store.abort(claim.lease.id, claim.attempt);
            Ok(())
        })
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.release_now(grant) })
    }

    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        completion.complete(self.release_now(grant));
        None
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        Box::pin(async move { Ok(self.events.next().await) })
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        Box::pin(async move { Ok(self.store()?.inspect(key)) })
    }

    fn observe<'a>(&'a self, key: &'a str) -> BoxStream<'a, Result<Option<LockInfo>>> {
        let observer = Observer::new(&self.store, key);
        stream::unfold(observer, async |mut observer| Some((Ok(observer.next().await), observer))).boxed()
    }

    fn wanted<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { if wait_until_wanted(&self.store, grant).await { Ok(()) } else { Err(lost()) } })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        Box::pin(async move { Ok(self.store()?.list(prefix)) })
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        Box::pin(async move { Ok(self.store()?.evict(key, evict)) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.store().map(|_| ()) })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.closed.store(true, Ordering::Relaxed);
            Ok(())
        })
    }
}
