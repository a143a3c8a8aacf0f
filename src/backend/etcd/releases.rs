//! Releases that the server has not confirmed yet.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::names::Directory;
use super::txn::ClaimKey;
use crate::backend::LeaseId;

/// A release that was not confirmed yet.
#[derive(Clone, Debug)]
struct Release {
    claim: Arc<ClaimKey>,
    lease: LeaseId,
    /// Whether a copy of the claim's request may still take effect: then its release has more to do than to delete.
    is_unknown: bool,
    /// Whether a claim that is in flight also makes it.
    is_carried: bool,
}

/// Releases that were not confirmed yet, by directory.
///
/// The next claim of the same key also makes them, or it would queue behind what this process has released already.
#[derive(Debug, Default)]
pub(super) struct Releases {
    pending: Mutex<HashMap<Directory, Vec<Release>>>,
    confirmed: Notify,
}

impl Releases {
    /// Notes a release.
    pub(super) fn add(&self, directory: Directory, claim: Arc<ClaimKey>, lease: LeaseId, is_unknown: bool) {
        let mut pending = self.pending.lock();
        let releases = pending.entry(directory).or_default();
        if !releases.iter().any(|release| release.claim == claim) {
            releases.push(Release { claim, lease, is_unknown, is_carried: false });
        }
    }

    /// Adds up to `limit` releases in a directory that are mere deletions to a claim's request, for as long as the result lives.
    pub(super) fn carry(self: &Arc<Self>, directory: &Directory, limit: usize) -> Carried {
        let mut claims = Vec::new();
        let mut pending = self.pending.lock();
        let releases = pending.get_mut(directory).into_iter().flatten();
        for release in releases.filter(|release| !release.is_unknown).take(limit) {
            release.is_carried = true;
            claims.push(release.claim.clone());
        }
        Carried { releases: self.clone(), directory: directory.clone(), claims }
    }

    /// Waits while a claim that is in flight also makes this release. Returns false if that has confirmed it.
    pub(super) async fn await_uncarried(&self, directory: &Directory, claim: &ClaimKey) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.confirmed.notified());
            // Registered before the check, or a change in between would be missed.
            changed.as_mut().enable();
            let is_carried = {
                let pending = self.pending.lock();
                let mut releases = pending.get(directory).into_iter().flatten();
                releases.find(|release| *release.claim == *claim).map(|release| release.is_carried)
            };
            match is_carried {
                None => return false,
                Some(false) => return true,
                Some(true) => changed.await,
            }
        }
    }

    /// Notes that these claims no longer exist.
    pub(super) fn confirm(&self, directory: &Directory, claims: &[Arc<ClaimKey>]) {
        if claims.is_empty() {
            return;
        }
        let mut pending = self.pending.lock();
        if let Some(releases) = pending.get_mut(directory) {
            releases.retain(|release| !claims.contains(&release.claim));
            if releases.is_empty() {
                pending.remove(directory);
            }
        }
        drop(pending);
        self.confirmed.notify_waiters();
    }

    /// Forgets the releases of claims on a lease that has ended.
    pub(super) fn forget_lease(&self, lease: LeaseId) {
        self.pending.lock().retain(|_, releases| {
            releases.retain(|release| release.lease != lease);
            !releases.is_empty()
        });
        self.confirmed.notify_waiters();
    }

    /// Waits until all releases in a directory are confirmed.
    pub(super) async fn all_confirmed(&self, directory: &Directory) {
        loop {
            let mut confirmed = std::pin::pin!(self.confirmed.notified());
            // Registered before the check, or a confirmation in between would be missed.
            confirmed.as_mut().enable();
            if !self.pending.lock().contains_key(directory) {
                return;
            }
            confirmed.await;
        }
    }
}

/// Releases that a claim's request also makes. If they are not confirmed when this is dropped, they are sent separately.
///
/// It belongs to the request, not to the caller: a caller that is not polled again delays no release.
#[derive(Debug)]
pub(super) struct Carried {
    releases: Arc<Releases>,
    directory: Directory,
    claims: Vec<Arc<ClaimKey>>,
}

impl Carried {
    /// Returns the claims that are released.
    pub(super) fn claims(&self) -> &[Arc<ClaimKey>] {
        &self.claims
    }

    /// Notes that the server has made the releases.
    pub(super) fn confirm(&self) {
        self.releases.confirm(&self.directory, &self.claims);
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        if let Some(releases) = self.releases.pending.lock().get_mut(&self.directory) {
            for release in releases.iter_mut().filter(|release| self.claims.contains(&release.claim)) {
                release.is_carried = false;
            }
        }
        self.releases.confirmed.notify_waiters();
    }
}
