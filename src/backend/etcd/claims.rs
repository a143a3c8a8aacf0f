//! The claims of this process that may be on the server, by attempt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::granted::GrantedClaim;
use super::names::Directory;
use super::position::ClaimKey;
use super::releases::{Begun, Releases};
use super::session::Session;
use super::watch::hub::WatchId;
use crate::backend::{AttemptId, LeaseId};

/// A claim that holds its key.
#[derive(Clone, Debug)]
pub(super) struct HeldClaim {
    pub(super) claim: Arc<GrantedClaim>,
    /// The revision at which it held the key: its epoch.
    pub(super) proof: i64,
    /// The watch on it, once it is old enough for one.
    pub(super) watch: Option<WatchId>,
}

/// What is known of an attempt's claim.
#[derive(Debug)]
struct ClaimState {
    session: Arc<Session>,
    directory: Directory,
    /// The number in the name of the claim.
    number: u64,
    is_sent: bool,
    /// Whether a copy of the request may still take effect.
    is_unknown: bool,
    held: Option<HeldClaim>,
}

/// The attempts whose claims may be on the server, and the releases that were not confirmed yet.
#[derive(Debug, Default)]
pub(super) struct Claims {
    attempts: Mutex<HashMap<AttemptId, ClaimState>>,
    releases: Arc<Releases>,
}

impl Claims {
    /// Returns the releases that were not confirmed yet.
    pub(super) fn releases(&self) -> &Arc<Releases> {
        &self.releases
    }

    /// Begins an attempt, and returns the number of its claim: a new one, unless the attempt is known.
    pub(super) fn begin(&self, attempt: AttemptId, session: &Arc<Session>, directory: &Directory) -> u64 {
        let mut attempts = self.attempts.lock();
        let begun = || ClaimState {
            session: session.clone(),
            directory: directory.clone(),
            number: session.numbers().take(),
            is_sent: false,
            is_unknown: false,
            held: None,
        };
        attempts.entry(attempt).or_insert_with(begun).number
    }

    /// Returns the number of an attempt's claim.
    pub(super) fn number(&self, attempt: AttemptId) -> Option<u64> {
        self.attempts.lock().get(&attempt).map(|state| state.number)
    }

    /// Returns the directory of an attempt's claim, and whether a copy of its request may still take effect.
    pub(super) fn released(&self, attempt: AttemptId) -> Option<(Directory, bool)> {
        let attempts = self.attempts.lock();
        let state = attempts.get(&attempt)?;
        Some((state.directory.clone(), state.is_sent && state.is_unknown))
    }

    /// Notes that a request is about to be sent.
    pub(super) fn sending(&self, attempt: AttemptId) {
        if let Some(state) = self.attempts.lock().get_mut(&attempt) {
            (state.is_sent, state.is_unknown) = (true, true);
        }
    }

    /// Notes after an answer whether a copy of the request may still take effect.
    pub(super) fn answered(&self, attempt: AttemptId, is_unknown: bool) {
        if let Some(state) = self.attempts.lock().get_mut(&attempt) {
            state.is_unknown = is_unknown;
        }
    }

    /// Returns whether a copy of the request may still take effect, or `None` if none was sent.
    pub(super) fn outcome(&self, attempt: AttemptId) -> Option<bool> {
        self.attempts.lock().get(&attempt).filter(|state| state.is_sent).map(|state| state.is_unknown)
    }

    /// Notes a grant.
    pub(super) fn hold(&self, attempt: AttemptId, held: HeldClaim) {
        if let Some(state) = self.attempts.lock().get_mut(&attempt) {
            state.held = Some(held);
        }
    }

    /// Returns those of the claims with these create revisions that hold their keys, each with its epoch.
    pub(super) fn proofs(&self, created: &HashSet<i64>) -> HashMap<ClaimKey, i64> {
        let attempts = self.attempts.lock();
        let held = attempts.values().filter_map(|state| state.held.as_ref());
        let held = held.filter(|held| created.contains(&held.claim.create));
        held.map(|held| (ClaimKey::clone(&held.claim), held.proof)).collect()
    }

    /// Returns the grant of an attempt.
    pub(super) fn held(&self, attempt: AttemptId) -> Option<HeldClaim> {
        self.attempts.lock().get(&attempt)?.held.clone()
    }

    /// Notes the watch on a grant. Returns false if it is no longer held.
    pub(super) fn watched(&self, attempt: AttemptId, watch: WatchId) -> bool {
        let mut attempts = self.attempts.lock();
        let held = attempts.get_mut(&attempt).and_then(|state| state.held.as_mut());
        held.map(|held| held.watch = Some(watch)).is_some()
    }

    /// Notes that a grant is no longer held. Returns its watch.
    pub(super) fn unhold(&self, attempt: AttemptId) -> Option<WatchId> {
        self.attempts.lock().get_mut(&attempt)?.held.take()?.watch
    }

    /// Forgets an attempt of which nothing is on the server. The number of its claim is not used again: a request of unknown outcome
    /// may still name it.
    pub(super) fn forget(&self, attempt: AttemptId) {
        self.attempts.lock().remove(&attempt);
    }

    /// Forgets an attempt of which nothing is on the server, and no request can change that: its number is free.
    pub(super) fn forget_certain(&self, attempt: AttemptId) {
        if let Some(state) = self.attempts.lock().remove(&attempt) {
            state.session.numbers().give_back(state.number);
        }
    }

    /// Notes that these released claims no longer exist, and reports the outcomes of their releases.
    pub(super) fn confirm(&self, directory: &Directory, claims: &[Arc<GrantedClaim>], endpoints: &str) {
        for (claim, Begun { attempt, completion }) in self.releases.confirm(directory, claims) {
            self.forget_certain(attempt);
            completion.complete(claim.outcome(endpoints));
        }
    }

    /// Forgets all attempts and releases on a lease that has ended. Returns their watches.
    pub(super) fn forget_lease(&self, lease: LeaseId, endpoints: &str) -> Vec<WatchId> {
        let mut watches = Vec::new();
        self.attempts.lock().retain(|_, state| {
            let keep = state.session.id() != lease;
            if !keep {
                watches.extend(state.held.take().and_then(|held| held.watch));
            }
            keep
        });
        // They have ended with the lease.
        for (claim, Begun { completion, .. }) in self.releases.forget_lease(lease) {
            completion.complete(claim.outcome(endpoints));
        }
        watches
    }
}
