//! Losses of leases and of single claims: notified first, cleaned up afterwards.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::task::yield_now;

use super::cleanup::{Cleanup, Job};
use super::hold::HeldGrant;
use super::keys::Entry;
use super::{Base, Engine};
use crate::backend::{Event, HEAD_START};
use crate::clock::Timestamp;
use crate::info::Loss;
use crate::lease::LeaseCell;
use crate::process::report::warn;

/// The number of keys, or leases, that are cleaned up before the task yields.
const SLICE: usize = 32;
/// The number of concurrent revocations of leases that ended together.
const CLEAN_UPS: usize = 64;

/// A lost lease, and the cause.
type Over = (Arc<LeaseCell>, Loss);

/// Cleans up after leases whose losses have been notified.
pub(super) fn leases_are_over(engine: &Arc<Engine>, over: Vec<Over>) {
    if over.is_empty() {
        return;
    }
    let keys: Vec<Arc<str>> = engine.sessions.forget_all(over.iter().map(|(cell, _)| cell));
    let mut has_session = false;
    for (cell, cause) in over.iter().filter(|(cell, _)| cell.is_session()) {
        has_session = true;
        let name = engine.base.name();
        warn!(target: "leasehold", name = name, lease = &cell.id(); "{name}: session {} lost: {cause}{}", cell.id(), cell.because(*cause));
    }
    let unconfirmed = engine.cleanup.count();
    let engine = engine.clone();
    engine.base.keeper.clone().spawn(async move {
        let entries = match has_session {
            true => engine.keys.all(),
            false => keys.iter().filter_map(|key| engine.keys.find(key)).collect(),
        };
        purge_each(&engine.base, entries).await;
        // Their remains on the server are removed as soon as the server can be reached.
        let at_deadline = |(_, cause): &Over| matches!(cause, Loss::Expired | Loss::Unreachable);
        let (later, at_once): (Vec<_>, Vec<_>) = over.into_iter().partition(at_deadline);
        let later = async {
            if !later.is_empty() {
                tokio::time::sleep(HEAD_START).await;
            }
            revoke_each(&engine.cleanup, later).await;
        };
        join(revoke_each(&engine.cleanup, at_once), later).await;
        drop(unconfirmed);
    });
}

/// Revokes leases that are lost, many at a time.
async fn revoke_each(cleanup: &Cleanup, over: Vec<Over>) {
    let mut revoking = FuturesUnordered::new();
    for (place, (cell, _)) in over.into_iter().enumerate() {
        revoking.push(async move { cleanup.until_confirmed(&cell, &Job::Revoke).await });
        if revoking.len() == CLEAN_UPS {
            revoking.next().await;
        }
        if place % SLICE == SLICE - 1 {
            yield_now().await;
        }
    }
    while revoking.next().await.is_some() {}
}

/// Removes the lost grants of these keys, so that their waiters claim at the backend, in slices.
async fn purge_each(base: &Base, entries: Vec<Arc<Entry>>) {
    for (place, entry) in entries.into_iter().enumerate() {
        entry.purge(base.now());
        if place % SLICE == SLICE - 1 {
            yield_now().await;
        }
    }
}

/// Applies events of the backend.
pub(super) fn on_events(engine: &Arc<Engine>, events: &[Event]) {
    let now = engine.base.now();
    let (mut claims, mut over) = (HashSet::new(), Vec::new());
    for event in events {
        match event {
            Event::LeaseLost(id) => over.extend(engine.sessions.get(*id).map(|cell| {
                let cause = cell.lose(Loss::Revoked, now).unwrap_or(Loss::Revoked);
                (cell, cause)
            })),
            Event::ClaimLost(attempt) => {
                // Recorded before the search: a task that is about to take the grant checks this record after it has taken it.
                engine.early_losses.add(*attempt);
                claims.insert(*attempt);
            }
        }
    }
    // One search through all keys for all events: a lease that ends may end ten thousand claims.
    let mut lost = Vec::new();
    if !claims.is_empty() {
        for entry in engine.keys.all() {
            let found = entry.find(&claims);
            found.iter().for_each(|held| held.lose(Loss::Revoked, now));
            lost.extend((!found.is_empty()).then_some(entry));
        }
    }
    leases_are_over(engine, over);
    if !lost.is_empty() {
        let base = engine.base.clone();
        engine.base.keeper.spawn(async move { purge_each(&base, lost).await });
    }
}

/// Ends a hold whose claim was lost between its grant and now.
pub(super) fn lose_if_early(engine: &Engine, entry: &Arc<Entry>, held: &HeldGrant, now: Timestamp) {
    if engine.early_losses.contains(held.grant.attempt) {
        held.lose(Loss::Revoked, now);
        entry.purge(now);
    }
}

/// Ends all leases, because their state is unknown.
pub(super) fn lose_all(engine: &Arc<Engine>) {
    let now = engine.base.now();
    let lose = |cell: Arc<LeaseCell>| {
        let cause = cell.lose(Loss::Expired, now).unwrap_or(Loss::Expired);
        (cell, cause)
    };
    leases_are_over(engine, engine.sessions.drain().into_iter().map(lose).collect());
}
