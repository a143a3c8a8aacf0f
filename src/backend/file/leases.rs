//! The leases of this manager, with their claims.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::claim::Placed;
use super::error::lost;
use super::kernel::pid_namespace;
use super::life::Life;
use super::record::{Record, VERSION};
use super::site::{Site, Sites};
use crate::backend::events::Events;
use crate::backend::{AttemptId, Event, HEAD_START, Lease, LeaseId, LeaseScope, Result};
use crate::info::Holder;

/// A lease of this manager.
#[derive(Debug)]
pub(super) struct OwnLease {
    pub(super) life: Arc<Life>,
    scope: LeaseScope,
    /// Those in a queue, whether they hold or wait.
    claims: Mutex<HashMap<AttemptId, Arc<Placed>, foldhash::fast::RandomState>>,
}

impl OwnLease {
    pub(super) fn is_session(&self) -> bool {
        self.scope == LeaseScope::Session
    }

    /// Notes a claim, which ends with the lease. Another one of the same attempt leaves its queue.
    pub(super) fn add(&self, placed: &Arc<Placed>) -> Result<()> {
        let mut claims = self.claims.lock();
        if self.life.has_ended() {
            return Err(lost());
        }
        let former = claims.insert(placed.attempt, placed.clone());
        drop(claims);
        if let Some(former) = former {
            former.leave();
        }
        Ok(())
    }

    /// Forgets a claim.
    pub(super) fn remove(&self, attempt: AttemptId) -> Option<Arc<Placed>> {
        self.claims.lock().remove(&attempt)
    }

    pub(super) fn claims(&self) -> Vec<Arc<Placed>> {
        self.claims.lock().values().cloned().collect()
    }

    /// Ends it with all its claims. Its waiters notice.
    pub(super) fn end(&self) {
        let claims = {
            let mut claims = self.claims.lock();
            self.life.mark_ended();
            std::mem::take(&mut *claims)
        };
        for placed in claims.into_values() {
            placed.leave();
            placed.wake.notify_one();
        }
        self.life.remove();
    }
}

impl Drop for OwnLease {
    fn drop(&mut self) {
        if !self.life.is_forked() {
            self.end();
        }
    }
}

/// All leases of this manager.
#[derive(Debug)]
pub(super) struct Leases {
    sites: Arc<Sites>,
    holder: Holder,
    pid_namespace: String,
    events: Arc<Events>,
    known: Mutex<HashMap<LeaseId, Arc<OwnLease>, foldhash::fast::RandomState>>,
}

impl Leases {
    pub(super) fn new(sites: Arc<Sites>, events: Arc<Events>) -> Arc<Self> {
        let holder = Holder::this_process(&sites.options().name);
        Arc::new(Self { sites, holder, pid_namespace: pid_namespace(), events, known: Mutex::default() })
    }

    pub(super) fn pid_namespace(&self) -> &str {
        &self.pid_namespace
    }

    /// Opens a lease in this directory.
    pub(super) async fn open(&self, site: &Site, ttl: Duration, scope: LeaseScope) -> Result<Lease> {
        let ttl_ms = u64::try_from(ttl.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        let ttl = Duration::from_millis(ttl_ms);
        let record = self.record(site, ttl_ms);
        let (directory, sites) = (site.directory.clone(), self.sites.clone());
        let begin = move || Life::begin(&directory, &record, sites.clock());
        let (life, proven) = self.sites.do_path_work(&site.directory, begin).await??;
        let id = life.name.id;
        let lease = Arc::new(OwnLease { life: Arc::new(life), scope, claims: Mutex::default() });
        self.known.lock().insert(id, lease);
        Ok(Lease::new(id, ttl, proven, scope))
    }

    fn record(&self, site: &Site, ttl_ms: u64) -> Record {
        Record {
            version: VERSION,
            name: self.holder.name.clone(),
            host: self.holder.host.clone(),
            pid: self.holder.pid,
            pid_namespace: self.pid_namespace.clone(),
            ttl_ms,
            mailbox: site.mailbox.name.clone(),
        }
    }

    pub(super) fn get(&self, id: LeaseId) -> Option<Arc<OwnLease>> {
        self.known.lock().get(&id).cloned()
    }

    pub(super) fn is_in_use(&self) -> bool {
        !self.known.lock().is_empty()
    }

    /// Renews leases, and looks at their claims.
    pub(super) fn renew(&self, leases: &[Lease]) -> Vec<Result<Lease>> {
        let renewed = leases.iter().map(|lease| {
            let known = self.get(lease.id).ok_or_else(lost)?;
            let proven = self.renew_one(&known).inspect_err(|_| self.end_if_lost(&known, HEAD_START))?;
            self.check_claims(&known);
            Ok(Lease { proven, ..*lease })
        });
        renewed.collect()
    }

    fn renew_one(&self, lease: &OwnLease) -> Result<crate::backend::Timestamp> {
        if !lease.life.directory.is_current() {
            return Err(lost());
        }
        lease.life.renew(self.sites.clock())
    }

    /// Ends a lease that was lost, after some time: its holder has been notified only now, and it may count for the others till then.
    fn end_if_lost(&self, lease: &Arc<OwnLease>, after: Duration) {
        if lease.life.prove().is_ok() && lease.life.directory.is_current() {
            return;
        }
        self.known.lock().remove(&lease.life.name.id);
        let lease = lease.clone();
        self.sites.handle().spawn(async move {
            tokio::time::sleep(after).await;
            lease.end();
        });
    }

    /// Looks whether claims of a lease are void, and reports those.
    fn check_claims(&self, lease: &OwnLease) {
        for placed in lease.claims() {
            if !placed.is_void().unwrap_or(false) {
                continue;
            }
            if placed.is_granted() {
                self.lose(lease, &placed);
            } else {
                // It goes to the new file, or ends.
                placed.wake.notify_one();
            }
        }
    }

    /// Reports that a hold was lost, and gives it up: others may have it already.
    fn lose(&self, lease: &OwnLease, placed: &Arc<Placed>) {
        if lease.remove(placed.attempt).is_some() {
            self.events.push(Event::ClaimLost(placed.attempt));
        }
        placed.leave();
        placed.remove_mark();
    }

    /// Looks at everything, after a message that something was evicted.
    pub(super) fn check(&self) {
        let known: Vec<_> = self.known.lock().values().cloned().collect();
        for lease in known {
            if lease.life.prove().is_err() {
                self.events.push(Event::LeaseLost(lease.life.name.id));
                self.end_if_lost(&lease, if lease.life.is_revoked() { Duration::ZERO } else { HEAD_START });
            } else {
                self.check_claims(&lease);
            }
        }
    }

    /// Ends a lease.
    pub(super) fn revoke(&self, id: LeaseId) {
        let lease = self.known.lock().remove(&id);
        if let Some(lease) = lease {
            lease.end();
        }
    }

    /// Ends the claim of an attempt, with its lease if that is for this claim only. Returns it, if it was in a queue.
    pub(super) fn give_up(&self, id: LeaseId, attempt: AttemptId) -> Option<Arc<Placed>> {
        let lease = self.get(id)?;
        let placed = lease.remove(attempt);
        if let Some(placed) = &placed {
            placed.leave();
            placed.wake.notify_one();
        }
        if !lease.is_session() {
            self.revoke(id);
        }
        placed
    }

    /// Ends all.
    pub(super) fn close(&self) {
        let known = std::mem::take(&mut *self.known.lock());
        known.into_values().for_each(|lease| lease.end());
    }
}
