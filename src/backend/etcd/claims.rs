//! What this process has on the server: its attempts, its grants, and its releases that were not confirmed yet.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::names::Directory;
use super::txn::ClaimKey;
use super::watch::hub::WatchId;
use crate::backend::{AttemptId, LeaseId};

/// A claim that holds its key.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) claim: ClaimKey,
    /// The revision at which it held the key: its epoch.
    pub(super) proof: i64,
    /// The watch on it, once it is old enough for one.
    pub(super) watch: Option<WatchId>,
}

#[derive(Debug)]
struct Attempt {
    lease: LeaseId,
    /// The number in the name of its claim.
    number: u64,
    sent: bool,
    /// Whether a copy of its request may still take effect.
    unknown: bool,
    held: Option<Held>,
}

/// The attempts of which something may be on the server.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<AttemptId, Attempt>>);

impl Claims {
    /// Begins an attempt, and returns the number of its claim: a new one, unless the attempt is known.
    pub(super) fn begin(&self, attempt: AttemptId, lease: LeaseId, number: impl FnOnce() -> u64) -> u64 {
        let mut attempts = self.0.lock();
        let begun = || Attempt { lease, number: number(), sent: false, unknown: false, held: None };
        attempts.entry(attempt).or_insert_with(begun).number
    }

    /// Returns the number of an attempt's claim.
    pub(super) fn number(&self, attempt: AttemptId) -> Option<u64> {
        self.0.lock().get(&attempt).map(|attempt| attempt.number)
    }

    /// Notes that a request is about to be sent.
    pub(super) fn sending(&self, attempt: AttemptId) {
        if let Some(attempt) = self.0.lock().get_mut(&attempt) {
            (attempt.sent, attempt.unknown) = (true, true);
        }
    }

    /// Notes what is known after the answer.
    pub(super) fn answered(&self, attempt: AttemptId, unknown: bool) {
        if let Some(attempt) = self.0.lock().get_mut(&attempt) {
            attempt.unknown = unknown;
        }
    }

    /// Notes a grant.
    pub(super) fn hold(&self, attempt: AttemptId, held: Held) {
        if let Some(attempt) = self.0.lock().get_mut(&attempt) {
            attempt.held = Some(held);
        }
    }

    /// Returns whether a copy of a request may still take effect, or `None` if nothing was ever sent.
    pub(super) fn outcome(&self, attempt: AttemptId) -> Option<bool> {
        self.0.lock().get(&attempt).filter(|attempt| attempt.sent).map(|attempt| attempt.unknown)
    }

    /// Returns the claims that hold their keys, each with its epoch.
    pub(super) fn proofs(&self) -> HashMap<ClaimKey, i64> {
        let attempts = self.0.lock();
        let held = attempts.values().filter_map(|attempt| attempt.held.as_ref());
        held.map(|held| (held.claim.clone(), held.proof)).collect()
    }

    /// Returns the grant of an attempt.
    pub(super) fn held(&self, attempt: AttemptId) -> Option<Held> {
        self.0.lock().get(&attempt)?.held.clone()
    }

    /// Notes the watch on a grant. Returns false if it is not held any more.
    pub(super) fn watched(&self, attempt: AttemptId, watch: WatchId) -> bool {
        let mut attempts = self.0.lock();
        let held = attempts.get_mut(&attempt).and_then(|attempt| attempt.held.as_mut());
        held.map(|held| held.watch = Some(watch)).is_some()
    }

    /// Notes that a grant is not held any more. Returns its watch.
    pub(super) fn let_go(&self, attempt: AttemptId) -> Option<WatchId> {
        self.0.lock().get_mut(&attempt)?.held.take()?.watch
    }

    /// Forgets an attempt of which nothing is left. Returns the number of its claim.
    pub(super) fn forget(&self, attempt: AttemptId) -> Option<u64> {
        self.0.lock().remove(&attempt).map(|attempt| attempt.number)
    }

    /// Forgets all attempts on a lease that is over. Returns their watches.
    pub(super) fn forget_lease(&self, lease: LeaseId) -> Vec<WatchId> {
        let mut watches = Vec::new();
        self.0.lock().retain(|_, attempt| {
            let keep = attempt.lease != lease;
            if !keep {
                watches.extend(attempt.held.take().and_then(|held| held.watch));
            }
            keep
        });
        watches
    }
}

/// A release that was not confirmed yet.
#[derive(Clone, Debug)]
struct Release {
    claim: ClaimKey,
    lease: LeaseId,
    /// Whether a copy of the claim's request may still take effect: then its release has more to do than to delete.
    unknown: bool,
    /// Whether a claim that is on its way takes it along.
    carried: bool,
}

/// Releases that were not confirmed yet, by directory.
///
/// The next claim of the same key takes them along, or it would queue behind what this process has given up already.
#[derive(Debug, Default)]
pub(super) struct Releases {
    pending: Mutex<HashMap<Directory, Vec<Release>>>,
    confirmed: Notify,
}

impl Releases {
    /// Notes a release.
    pub(super) fn add(&self, directory: Directory, claim: ClaimKey, lease: LeaseId, unknown: bool) {
        let mut pending = self.pending.lock();
        let releases = pending.entry(directory).or_default();
        if !releases.iter().any(|release| release.claim == claim) {
            releases.push(Release { claim, lease, unknown, carried: false });
        }
    }

    /// Adds up to `most` releases in a directory that are no more than deletions to a claim's request, for as long as the result
    /// lives.
    pub(super) fn carry(self: &Arc<Self>, directory: &Directory, most: usize) -> Carried {
        let mut claims = Vec::new();
        let mut pending = self.pending.lock();
        let releases = pending.get_mut(directory).into_iter().flatten();
        for release in releases.filter(|release| !release.unknown).take(most) {
            release.carried = true;
            claims.push(release.claim.clone());
        }
        Carried { releases: self.clone(), directory: directory.clone(), claims }
    }

    /// Waits while a claim that is on its way takes this release along. Returns false if that has confirmed it.
    pub(super) async fn await_uncarried(&self, directory: &Directory, claim: &ClaimKey) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.confirmed.notified());
            // Registered before the look, or a change in between would be missed.
            changed.as_mut().enable();
            let carried = {
                let pending = self.pending.lock();
                pending.get(directory).into_iter().flatten().find(|release| release.claim == *claim).map(|r| r.carried)
            };
            match carried {
                None => return false,
                Some(false) => return true,
                Some(true) => changed.await,
            }
        }
    }

    /// Notes that these claims are gone.
    pub(super) fn confirm(&self, directory: &Directory, claims: &[ClaimKey]) {
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

    /// Forgets what was on a lease that is over.
    pub(super) fn forget_lease(&self, lease: LeaseId) {
        self.pending.lock().retain(|_, releases| {
            releases.retain(|release| release.lease != lease);
            !releases.is_empty()
        });
        self.confirmed.notify_waiters();
    }

    /// Waits until nothing is pending in a directory.
    pub(super) async fn settled(&self, directory: &Directory) {
        loop {
            let mut confirmed = std::pin::pin!(self.confirmed.notified());
            // Registered before the look, or a confirmation in between would be missed.
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
/// It belongs to the request, not to the caller: a caller that does not go on delays no release.
#[derive(Debug)]
pub(super) struct Carried {
    releases: Arc<Releases>,
    directory: Directory,
    pub(super) claims: Vec<ClaimKey>,
}

impl Carried {
    /// They are gone, with the claim that took them along.
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
                release.carried = false;
            }
        }
        self.releases.confirmed.notify_waiters();
    }
}
