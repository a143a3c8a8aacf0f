//! Releases that the server has not confirmed yet.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::granted::GrantedClaim;
use super::names::Directory;
use crate::backend::{AttemptId, Completion, LeaseId, Result};

/// A release that was not confirmed yet.
#[derive(Debug)]
struct Release {
    claim: Arc<GrantedClaim>,
    lease: LeaseId,
    /// Whether a copy of the claim's request may still take effect: then its release has more to do than to delete.
    is_unknown: bool,
    /// Whether a claim that is in flight also makes it.
    is_carried: bool,
    /// What waits for its outcome, if it was begun without a future.
    begun: Option<Begun>,
}

impl Release {
    fn into_begun(self) -> Option<(Arc<GrantedClaim>, Begun)> {
        let claim = self.claim;
        self.begun.map(|begun| (claim, begun))
    }
}

/// What waits for the outcome of a release.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) attempt: AttemptId,
    pub(super) completion: Completion,
}

/// A release that is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) directory: Directory,
    pub(super) claim: Arc<GrantedClaim>,
    pub(super) lease: LeaseId,
}

/// What gets the outcome of a release that was sent without a future.
pub(super) trait Sent: Send + Sync {
    fn sent(&self, due: Due, outcome: Result<()>);
}

/// Releases that were not confirmed yet, by directory.
///
/// The next claim of the same key also makes them, or it would queue behind what this process has released already.
#[derive(Debug, Default)]
pub(super) struct Releases {
    state: Mutex<State>,
    confirmed: Notify,
    is_due: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<Directory, Vec<Release>>,
    /// Those that were begun, and are to be sent unless a claim makes them before.
    due: Vec<Due>,
}

impl Releases {
    /// Notes a release.
    pub(super) fn add(&self, directory: Directory, claim: Arc<GrantedClaim>, lease: LeaseId, is_unknown: bool) {
        let releases = &mut *self.state.lock();
        let releases = releases.pending.entry(directory).or_default();
        if !releases.iter().any(|release| release.claim == claim) {
            releases.push(Release { claim, lease, is_unknown, is_carried: false, begun: None });
        }
    }

    /// Notes a release that is a mere deletion, and has it sent soon.
    pub(super) fn begin(&self, due: Due, begun: Begun) {
        let was_due = {
            let State { pending, due: all } = &mut *self.state.lock();
            let Due { directory, claim, lease } = due.clone();
            let releases = pending.entry(directory).or_insert_with(|| Vec::with_capacity(1));
            releases.push(Release { claim, lease, is_unknown: false, is_carried: false, begun: Some(begun) });
            all.push(due);
            all.len() > 1
        };
        if !was_due {
            self.is_due.notify_one();
        }
    }

    /// Waits until releases are to be sent, and takes them.
    pub(super) async fn due(&self) -> Vec<Due> {
        loop {
            {
                let State { pending, due } = &mut *self.state.lock();
                let mut due = std::mem::take(due);
                due.retain(|due| {
                    let mut releases = pending.get(&due.directory).into_iter().flatten();
                    releases.any(|release| !release.is_carried && Arc::ptr_eq(&release.claim, &due.claim))
                });
                if !due.is_empty() {
                    return due;
                }
            }
            self.is_due.notified().await;
        }
    }

    /// Takes what waits for the outcome of a release that has failed.
    pub(super) fn failed(&self, due: &Due) -> Option<Begun> {
        let mut state = self.state.lock();
        let mut releases = state.pending.get_mut(&due.directory).into_iter().flatten();
        releases.find(|release| release.claim == due.claim)?.begun.take()
    }

    /// Returns whether there are releases in a directory.
    pub(super) fn are_pending(&self, directory: &Directory) -> bool {
        self.state.lock().pending.contains_key(directory)
    }

    /// Adds the release in a directory to a claim's lean request, for as long as the result lives. `None` if the request cannot be lean:
    /// if there are other releases than one that is a mere deletion, or any if it `carries` none.
    pub(super) fn carry_lean(self: &Arc<Self>, directory: &Directory, carries: bool) -> Option<Option<Carried>> {
        let mut state = self.state.lock();
        let Some(releases) = state.pending.get_mut(directory) else { return Some(None) };
        match &mut releases[..] {
            [release] if carries && !release.is_unknown => {
                release.is_carried = true;
                let claims = vec![release.claim.clone()];
                Some(Some(Carried { releases: self.clone(), directory: directory.clone(), claims }))
            }
            _ => None,
        }
    }

    /// Adds up to `limit` releases in a directory that are mere deletions to a claim's request, for as long as the result lives.
    pub(super) fn carry(self: &Arc<Self>, directory: &Directory, limit: usize) -> Carried {
        let mut claims = Vec::new();
        let mut state = self.state.lock();
        let releases = state.pending.get_mut(directory).into_iter().flatten();
        for release in releases.filter(|release| !release.is_unknown).take(limit) {
            release.is_carried = true;
            claims.push(release.claim.clone());
        }
        Carried { releases: self.clone(), directory: directory.clone(), claims }
    }

    /// Waits while a claim that is in flight also makes this release. Returns false if that has confirmed it.
    pub(super) async fn await_uncarried(&self, directory: &Directory, claim: &GrantedClaim) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.confirmed.notified());
            // Registered before the check, or a change in between would be missed.
            changed.as_mut().enable();
            let is_carried = {
                let state = self.state.lock();
                let mut releases = state.pending.get(directory).into_iter().flatten();
                releases.find(|release| *release.claim == *claim).map(|release| release.is_carried)
            };
            match is_carried {
                None => return false,
                Some(false) => return true,
                Some(true) => changed.await,
            }
        }
    }

    /// Notes that these claims no longer exist. Returns what waits for that, except for outcomes that depend on other requests in
    /// flight.
    pub(super) fn confirm(
        &self,
        directory: &Directory,
        claims: &[Arc<GrantedClaim>],
    ) -> Vec<(Arc<GrantedClaim>, Begun)> {
        let mut begun = Vec::new();
        if claims.is_empty() {
            return begun;
        }
        {
            let mut state = self.state.lock();
            if let Some(releases) = state.pending.get_mut(directory) {
                let confirmed =
                    releases.extract_if(.., |release| claims.contains(&release.claim) && !release.claim.is_undecided());
                begun.extend(confirmed.filter_map(Release::into_begun));
                if releases.is_empty() {
                    state.pending.remove(directory);
                }
            }
        }
        self.confirmed.notify_waiters();
        begun
    }

    /// Forgets the releases of claims on a lease that has ended, except for those that were begun and are in flight: their answers tell
    /// whether they were lost. Returns what waits for them.
    pub(super) fn forget_lease(&self, lease: LeaseId) -> Vec<(Arc<GrantedClaim>, Begun)> {
        let mut begun = Vec::new();
        self.state.lock().pending.retain(|_, releases| {
            let is_awaited = |release: &Release| release.begun.is_some() && release.claim.is_undecided();
            let ended = releases.extract_if(.., |release| release.lease == lease && !is_awaited(release));
            begun.extend(ended.filter_map(Release::into_begun));
            !releases.is_empty()
        });
        self.confirmed.notify_waiters();
        begun
    }

    /// Waits until all releases in a directory are confirmed.
    pub(super) async fn all_confirmed(&self, directory: &Directory) {
        loop {
            let mut confirmed = std::pin::pin!(self.confirmed.notified());
            // Registered before the check, or a confirmation in between would be missed.
            confirmed.as_mut().enable();
            if !self.are_pending(directory) {
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
    claims: Vec<Arc<GrantedClaim>>,
}

impl Carried {
    /// Returns the claims that are released.
    pub(super) fn claims(&self) -> &[Arc<GrantedClaim>] {
        &self.claims
    }

    /// Returns their directory.
    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let is_due = {
            let State { pending, due } = &mut *self.releases.state.lock();
            let before = due.len();
            let releases = pending.get_mut(&self.directory).into_iter().flatten();
            for release in releases.filter(|release| self.claims.contains(&release.claim)) {
                release.is_carried = false;
                if release.begun.is_some() {
                    let (directory, claim, lease) = (self.directory.clone(), release.claim.clone(), release.lease);
                    due.push(Due { directory, claim, lease });
                }
            }
            due.len() > before
        };
        self.releases.confirmed.notify_waiters();
        if is_due {
            self.releases.is_due.notify_one();
        }
    }
}
