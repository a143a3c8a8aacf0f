//! The parts of one manager's backend, and its task: it reads the mailbox, and sweeps.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

use super::acquire::Acquirer;
use super::claim::Placed;
use super::error::lost;
use super::inspect::Inspector;
use super::keys::Keys;
use super::leases::Leases;
use super::mailbox::Message;
use super::options::Options;
use super::site::{Site, Sites};
use super::sweep::sweep;
use super::waits::Waits;
use super::watch::watch;
use crate::backend::events::Events;
use crate::backend::{Clock, Grant, Lease, LeaseScope, Result};
use crate::process::fork::ForkDetector;
use crate::process::inbox::Inbox;
use crate::process::report::debug;

/// How often the task does what is not urgent. Well within [`TOUCHED_WITHIN`](super::epoch::TOUCHED_WITHIN).
const TICK: Duration = Duration::from_secs(10);

/// The parts of one manager's backend.
#[derive(Debug)]
pub(super) struct Parts {
    sites: Arc<Sites>,
    pub(super) leases: Arc<Leases>,
    pub(super) acquirer: Acquirer,
    pub(super) inspector: Inspector,
    pub(super) events: Arc<Events>,
    waits: Arc<Waits>,
    fork: ForkDetector,
}

impl Parts {
    /// Opens the directory, and starts the task.
    pub(super) async fn open(options: Options, clock: Arc<dyn Clock>, handle: Handle) -> Result<Arc<Self>> {
        let keys = Keys::new(options.prefix.clone());
        let sites = Arc::new(Sites::open(options, clock, handle).await?);
        let events = Arc::<Events>::default();
        let (waits, leases) = (Arc::<Waits>::default(), Leases::new(sites.clone(), events.clone()));
        let acquirer =
            Acquirer { sites: sites.clone(), keys: keys.clone(), leases: leases.clone(), waits: waits.clone() };
        let inspector = Inspector { sites: sites.clone(), keys };
        let parts = Arc::new(Self { sites, leases, acquirer, inspector, events, waits, fork: ForkDetector::new() });
        parts.serve(&parts.sites.current()?);
        Ok(parts)
    }

    /// Starts the task of a site.
    fn serve(self: &Arc<Self>, site: &Arc<Site>) {
        let (parts, mailbox) = (Arc::downgrade(self), site.mailbox.clone());
        let inbox = Arc::new(Inbox::new(site.mailbox.source.clone(), move || {
            if let Some(parts) = parts.upgrade() {
                parts.receive(mailbox.take());
            }
        }));
        let task = serve(Arc::downgrade(self), site.mailbox.source.for_keeper.clone(), inbox.clone());
        site.read_by(inbox, self.sites.handle().spawn(task).abort_handle());
    }

    pub(super) async fn open_lease(self: &Arc<Self>, ttl: Duration, scope: LeaseScope) -> Result<Lease> {
        let (site, is_new) = self.sites.renewed().await?;
        if is_new {
            self.serve(&site);
        }
        self.leases.open(&site, ttl, scope).await
    }

    /// Releases a grant.
    pub(super) fn release(&self, grant: &Grant) -> Result<()> {
        let is_revoked = self.leases.get(grant.lease.id).is_none_or(|lease| lease.life.is_revoked());
        let placed: Option<Arc<Placed>> = grant.payload.clone().and_then(|placed| placed.downcast().ok());
        // Before it leaves: the next holder may remove the file of the key.
        let is_lost = is_revoked || placed.is_none_or(|placed| placed.is_void().unwrap_or(false));
        let given_up = self.leases.give_up(grant.lease.id, grant.attempt);
        // Without a claim it has ended with its lease, or was evicted and given up then.
        if is_lost || given_up.is_none() { Err(lost()) } else { Ok(()) }
    }

    fn receive(&self, messages: Vec<Message>) {
        for message in messages {
            match message {
                Message::Look { inode, place } => self.waits.wake(inode, place),
                Message::LookAll => self.waits.wake_all(),
                Message::Check => self.leases.check(),
            }
        }
    }

    /// What is not urgent.
    fn tick(&self) {
        let Ok(site) = self.sites.current() else { return };
        if self.leases.is_in_use() {
            site.directory.epochs.touch();
        }
        site.peers.prune();
        let swept = self.sites.aside(move || sweep(&site));
        self.sites.handle().spawn(async {
            if let Err(error) = swept.await.and_then(|swept| swept) {
                debug!(target: "leasehold::file", "the directory was not swept: {error}");
            }
        });
    }

    #[cfg(test)]
    pub(super) fn sweep_now(&self) -> Result<()> {
        sweep(&*self.sites.current()?)
    }

    /// Ends all leases, and the task.
    pub(super) fn close(&self) {
        if self.fork.is_forked() {
            return;
        }
        self.leases.close();
        self.acquirer.keys.close();
        self.sites.close();
    }
}

/// Reads the mailbox until the site or the manager ends.
async fn serve(parts: Weak<Parts>, messages: Arc<OwnedFd>, inbox: Arc<Inbox>) {
    let Some(handle) = parts.upgrade().map(|parts| parts.sites.handle().clone()) else { return };
    let messages = {
        let _within = handle.enter();
        watch(messages, Interest::READABLE)
    };
    let Some(messages) = messages else {
        debug!(target: "leasehold::file", "the mailbox cannot be watched: waiters look every 5 s");
        return;
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut readable = pin!(messages.readable());
        let due = std::future::poll_fn(|cx| match readable.as_mut().poll(cx) {
            Poll::Ready(ready) => Poll::Ready(Some(ready)),
            Poll::Pending => ticks.poll_tick(cx).map(|_| None),
        });
        let due = due.await;
        let Some(parts) = parts.upgrade() else { return };
        match due {
            None => parts.tick(),
            Some(Err(_)) => return,
            Some(Ok(mut ready)) => {
                inbox.deliver();
                // All were taken, and another one is a new event.
                ready.clear_ready();
            }
        }
    }
}
