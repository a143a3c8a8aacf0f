//! Locks among the processes of one machine, in a directory.
//!
//! The kernel's table of locks is the queue: a claim is a lock on one byte of the key's file, and the number of the byte is its ticket
//! and its lease. A lease is a FIFO: its name is its right, its reader is its life, its time is its last renewal. Files have no
//! content that could be outdated after a kill, and no process waits for one that has been stopped, other than for its turn.

mod acquire;
mod claim;
mod clock;
mod directory;
#[cfg(feature = "cli")]
mod doctor;
mod epoch;
mod error;
mod folder;
#[cfg(test)]
mod gates;
mod inspect;
mod kernel;
mod key;
mod keys;
mod leases;
mod life;
mod locks;
mod mailbox;
mod names;
mod options;
mod parts;
mod peers;
mod queue;
mod record;
mod release;
#[cfg(test)]
mod scratch;
mod search;
mod site;
mod sweep;
#[cfg(test)]
mod tests;
mod ticket;
mod verdict;
mod waits;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::ready;
use tokio::runtime::Handle;

pub(crate) use self::clock::AwakeClock;
#[cfg(feature = "cli")]
pub(crate) use self::doctor::examine;
pub(crate) use self::options::Options;
use self::parts::Parts;
use super::{Backend, BoxFuture, Claim, Clock, Completion, Event, Evict, Grant, Lease, LeaseScope, Result, Wait};
use crate::info::{Eviction, LockInfo};

/// Locks in a directory, of one manager.
#[derive(Debug)]
pub(crate) struct File(Arc<Parts>);

impl File {
    /// Opens the directory.
    pub(crate) async fn open(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Self> {
        Parts::open(options, clock, handle).await.map(Self)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Backend for File {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn open(&self, ttl: Duration, scope: LeaseScope) -> BoxFuture<'_, Result<Lease>> {
        self.0.open_lease(ttl, scope).boxed()
    }

    fn renew<'a>(&'a self, leases: &'a [Lease]) -> BoxFuture<'a, Vec<Result<Lease>>> {
        async { self.0.leases.renew(leases) }.boxed()
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        async {
            self.0.leases.revoke(lease.id);
            Ok(())
        }
        .boxed()
    }

    fn acquire<'a>(&'a self, claim: &'a Claim, wait: Wait) -> BoxFuture<'a, Result<Option<Grant>>> {
        self.0.acquirer.acquire(claim, wait).boxed()
    }

    fn acquire_now(&self, claim: &Claim, wait: Wait) -> Option<Result<Option<Grant>>> {
        self.0.acquirer.acquire_now(claim, wait)
    }

    fn abort<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<()>> {
        async {
            self.0.leases.give_up(claim.lease.id, claim.attempt);
            Ok(())
        }
        .boxed()
    }

    fn release<'a>(&'a self, grant: &'a Grant) -> BoxFuture<'a, Result<()>> {
        // At the call: a later claim of the key comes after it.
        ready(self.0.release(grant)).boxed()
    }

    fn begin_release(&self, grant: &Grant, completion: Completion) -> Option<Completion> {
        completion.complete(self.0.release(grant));
        None
    }

    fn next_event(&self) -> BoxFuture<'_, Result<Event>> {
        async { Ok(self.0.events.next().await) }.boxed()
    }

    fn inspect<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<LockInfo>>> {
        self.0.inspector.inspect(key).boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<LockInfo>>> {
        self.0.inspector.list(prefix).boxed()
    }

    fn evict<'a>(&'a self, key: &'a str, evict: &'a Evict) -> BoxFuture<'a, Result<Eviction>> {
        self.0.inspector.evict(key, evict).boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.0.inspector.ping().boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.close();
        ready(Ok(())).boxed()
    }
}
