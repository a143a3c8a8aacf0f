//! The store's state, and each step that changes it: time is an argument, and waiters are woken by the caller.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::ids::{Aborted, IdMap};
use super::observed::Observed;
use super::queue::{Epoch, Place, Queue};
use super::wakes::Wakes;
use crate::backend::events::Events;
use crate::backend::{AttemptId, Claim, Clock, Event, Evict, EvictScope, LeaseId, LeaseScope, Timestamp, Wait};
use crate::info::{Eviction, Holder, LockInfo};
use crate::token::FencingToken;

/// Users choose keys, so the hasher has a secret.
type Keys = HashMap<Arc<str>, Queue, foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct State {
    keys: Keys,
    leases: IdMap<LeaseId, LeaseEntry>,
    /// The ends of all leases, in order: expired ones are found without a search.
    ends: BTreeSet<(Timestamp, LeaseId)>,
    pub(super) observed: Observed,
    epoch: Epoch,
    last_lease: u64,
}

/// A lease, and its claims.
#[derive(Debug)]
struct LeaseEntry {
    ttl: Duration,
    end: Timestamp,
    scope: LeaseScope,
    /// Whether it belongs to another client library.
    foreign: bool,
    claims: IdMap<AttemptId, Arc<str>>,
    aborted: Aborted,
    events: Arc<Events>,
}

/// The answer to a claim.
#[derive(Debug)]
pub(super) enum Answer {
    /// It holds the key, with this epoch.
    Granted(u64),
    /// The key is held, and the claim was not to wait.
    Busy,
    /// It waits for this epoch.
    Queued(oneshot::Receiver<u64>),
    /// Its lease has ended, or it was aborted.
    Refused,
}

impl State {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let (keys, leases, ends, observed) = Default::default();
        Self { keys, leases, ends, observed, epoch: Epoch::new(clock), last_lease: 0 }
    }

    /// Ends the leases that have expired by `now`. Their links are not notified: their own deadlines came first.
    pub(super) fn purge(&mut self, now: Timestamp, wakes: &mut Wakes) {
        if self.ends.first().is_none_or(|(end, _)| now < *end) {
            return;
        }
        let mut over = Vec::new();
        while let Some(&(end, lease)) = self.ends.first()
            && end <= now
        {
            over.extend(self.forget(lease));
        }
        self.clean_up_after(over, wakes);
    }

    pub(super) fn open(&mut self, now: Timestamp, ttl: Duration, scope: LeaseScope, events: Arc<Events>) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        let end = now + ttl;
        let (claims, aborted) = Default::default();
        self.ends.insert((end, lease));
        self.leases.insert(lease, LeaseEntry { ttl, end, scope, foreign: false, claims, aborted, events });
        lease
    }

    /// Extends a lease to its full TTL. False if it has ended.
    pub(super) fn renew(&mut self, now: Timestamp, lease: LeaseId) -> bool {
        let Some(entry) = self.leases.get_mut(&lease) else { return false };
        self.ends.remove(&(entry.end, lease));
        entry.end = now + entry.ttl;
        self.ends.insert((entry.end, lease));
        true
    }

    /// Ends a lease with all its claims.
    pub(super) fn end(&mut self, lease: LeaseId, wakes: &mut Wakes) {
        let over = self.forget(lease);
        self.clean_up_after(over, wakes);
    }

    /// The first half of a lease's end, to be done for all leases that end at once before the second half: otherwise a claim of
    /// another one of them would be granted for a moment.
    fn forget(&mut self, lease: LeaseId) -> Option<LeaseEntry> {
        let entry = self.leases.remove(&lease)?;
        shrink(&mut self.leases);
        self.ends.remove(&(entry.end, lease));
        Some(entry)
    }

    fn clean_up_after(&mut self, over: impl IntoIterator<Item = LeaseEntry>, wakes: &mut Wakes) {
        let Self { keys, leases, observed, epoch, .. } = self;
        for key in over.into_iter().flat_map(|entry| entry.claims.into_values()) {
            observed.changed(&key, wakes);
            leave(keys, key, |place| !leases.contains_key(&place.lease), epoch, wakes);
        }
    }

    pub(super) fn acquire(&mut self, now: Timestamp, claim: &Claim, wait: Wait, wakes: &mut Wakes) -> Answer {
        let Self { keys, leases, observed, epoch, .. } = self;
        let Some(entry) = leases.get_mut(&claim.lease.id) else { return Answer::Refused };
        if entry.aborted.contains(claim.attempt) {
            return Answer::Refused;
        }
        let Entry::Vacant(vacant) = entry.claims.entry(claim.attempt) else { return self.acquire_again(claim, wakes) };
        let mut place = Place::new(claim, now);
        let answer = match keys.entry(claim.key.clone()) {
            Entry::Vacant(free) => {
                let epoch = epoch.grant();
                free.insert(Queue::held_by(place, epoch));
                Answer::Granted(epoch)
            }
            Entry::Occupied(mut queue) if queue.get().admits(claim.mode, claim.limit) => {
                let epoch = epoch.grant();
                place.epoch = Some(epoch);
                queue.get_mut().push(place);
                Answer::Granted(epoch)
            }
            Entry::Occupied(mut queue) if wait == Wait::UntilGranted => {
                let (waiter, answer) = oneshot::channel();
                place.waiter = Some(waiter);
                queue.get_mut().push(place);
                Answer::Queued(answer)
            }
            Entry::Occupied(_) => return Answer::Busy,
        };
        vacant.insert(claim.key.clone());
        observed.changed(&claim.key, wakes);
        answer
    }

    /// A second call of the same attempt: the claim keeps its place, and the older call fails.
    fn acquire_again(&mut self, claim: &Claim, wakes: &mut Wakes) -> Answer {
        let queue = self.keys.get_mut(&claim.key);
        let Some(place) = queue.and_then(|queue| queue.find_mut(claim.lease.id, claim.attempt)) else {
            return Answer::Refused;
        };
        if let Some(epoch) = place.epoch {
            return Answer::Granted(epoch);
        }
        let (waiter, answer) = oneshot::channel();
        if let Some(older) = place.waiter.replace(waiter) {
            wakes.removed(older);
        }
        Answer::Queued(answer)
    }

    /// Removes a claim. A lease for this claim only ends with it. Returns whether it existed.
    pub(super) fn give_up(&mut self, lease: LeaseId, attempt: AttemptId, wakes: &mut Wakes) -> bool {
        let Some(entry) = self.leases.get_mut(&lease) else { return false };
        if entry.scope == LeaseScope::Claim {
            let existed = entry.claims.contains_key(&attempt);
            self.end(lease, wakes);
            return existed;
        }
        let Some(key) = entry.claims.remove(&attempt) else { return false };
        shrink(&mut entry.claims);
        let is_removed = |place: &Place| place.is(lease, attempt);
        self.observed.changed(&key, wakes);
        leave(&mut self.keys, key, is_removed, &mut self.epoch, wakes);
        true
    }

    /// Removes a claim, and refuses it from now on.
    pub(super) fn abort(&mut self, lease: LeaseId, attempt: AttemptId, wakes: &mut Wakes) {
        self.give_up(lease, attempt, wakes);
        if let Some(entry) = self.leases.get_mut(&lease) {
            entry.aborted.insert(attempt);
        }
    }

    /// The earliest end of the leases that this claim waits for, including its own.
    pub(super) fn soonest_end(&self, claim: &Claim) -> Option<Timestamp> {
        let mut soonest = None;
        for place in self.keys.get(&claim.key)?.iter() {
            let end = self.leases.get(&place.lease)?.end;
            soonest = Some(soonest.map_or(end, |soonest| end.min(soonest)));
            if place.is(claim.lease.id, claim.attempt) {
                break;
            }
        }
        soonest
    }

    /// The earliest end of the leases of a key's claims.
    pub(super) fn next_end(&self, key: &str) -> Option<Timestamp> {
        self.keys.get(key)?.iter().filter_map(|place| self.leases.get(&place.lease)).map(|entry| entry.end).min()
    }

    /// Whether a claim waits for the key that this one holds. `None` if it does not hold it.
    pub(super) fn is_wanted(&self, key: &str, lease: LeaseId, attempt: AttemptId) -> Option<bool> {
        let queue = self.keys.get(key)?;
        let holds = queue.holding().any(|place| place.is(lease, attempt));
        holds.then(|| queue.iter().any(|place| place.epoch.is_none()))
    }

    /// Ends the leases of a key's holders, or removes just their claims, and notifies their links.
    pub(super) fn evict(&mut self, key: &str, evict: &Evict, wakes: &mut Wakes) -> Eviction {
        let Some((key, queue)) = self.keys.get_key_value(key) else { return Eviction::default() };
        let key = key.clone();
        let evicted: Vec<_> = queue.holding().filter(|place| evict.is_for(&place.id())).collect();
        if evicted.is_empty() {
            return Eviction::default();
        }
        let holders = evicted.iter().map(|place| Holder::clone(&place.holder)).collect();
        let claims: Vec<_> = evicted.iter().map(|place| (place.lease, place.attempt)).collect();
        let mut released = vec![String::from(&*key)];
        match evict.scope {
            EvictScope::Claim => {
                claims.into_iter().for_each(|(lease, attempt)| self.evict_claim(lease, attempt, wakes))
            }
            EvictScope::Lease => {
                released.extend(claims.iter().flat_map(|(lease, _)| self.held_keys(*lease)));
                let mut over = Vec::new();
                for (lease, _) in claims {
                    // A lease can have two shared claims of the key.
                    let Some(entry) = self.forget(lease) else { continue };
                    wakes.event(entry.events.clone(), Event::LeaseLost(lease));
                    over.push(entry);
                }
                self.clean_up_after(over, wakes);
            }
        }
        released.sort_unstable();
        released.dedup();
        Eviction::new(holders, released)
    }

    /// Removes one claim and notifies its link.
    fn evict_claim(&mut self, lease: LeaseId, attempt: AttemptId, wakes: &mut Wakes) {
        if let Some(entry) = self.leases.get(&lease) {
            wakes.event(entry.events.clone(), Event::ClaimLost(attempt));
        }
        self.give_up(lease, attempt, wakes);
    }

    /// The keys that a lease holds, without those that it waits for.
    fn held_keys(&self, lease: LeaseId) -> Vec<String> {
        let Some(entry) = self.leases.get(&lease) else { return Vec::new() };
        let holds = |attempt: AttemptId, key: &Arc<str>| {
            self.keys.get(key).is_some_and(|queue| queue.holding().any(|place| place.is(lease, attempt)))
        };
        entry
            .claims
            .iter()
            .filter(|(attempt, key)| holds(**attempt, key))
            .map(|(_, key)| String::from(&**key))
            .collect()
    }

    pub(super) fn inspect(&self, now: Timestamp, key: &str) -> Option<LockInfo> {
        Some(self.describe(now, key, self.keys.get(key)?))
    }

    /// Describes each key that begins with `prefix`, in no order.
    pub(super) fn list(&self, now: Timestamp, prefix: &str) -> Vec<LockInfo> {
        let matching = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        matching.map(|(key, queue)| self.describe(now, key, queue)).collect()
    }

    fn describe(&self, now: Timestamp, key: &str, queue: &Queue) -> LockInfo {
        let first = queue.first();
        let mut info = LockInfo::new(key, first.mode);
        info.foreign = self.leases.get(&first.lease).is_some_and(|entry| entry.foreign);
        info.token = first.epoch.filter(|_| !info.foreign).map(FencingToken::of_epoch);
        info.since = queue.holding().map(|place| place.since).min().map(|since| SystemTime::now() - now.since(since));
        let ends = queue.holding().filter_map(|place| self.leases.get(&place.lease)).map(|entry| entry.end);
        info.remaining = ends.max().map(|end| end.since(now));
        info.holders = queue.holding().map(|place| Holder::clone(&place.holder)).collect();
        info.values = queue.holding().map(|place| place.value.as_deref().map(str::to_owned)).collect();
        info.limit = queue.holding().filter_map(|place| place.limit).max();
        info.claims = queue.holding().map(Place::id).collect();
        info.waiters = queue.iter().count() - info.holders.len();
        info
    }
}

#[cfg(test)]
impl State {
    /// The capacity of all maps together, in entries.
    pub(super) fn memory(&self) -> usize {
        let claims = self.leases.values().map(|entry| entry.claims.capacity());
        self.keys.capacity() + self.leases.capacity() + claims.sum::<usize>()
    }

    pub(super) fn leases(&self) -> usize {
        assert_eq!(self.leases.len(), self.ends.len());
        self.leases.len()
    }
}

/// The faults that a test can ask for.
#[cfg(feature = "testing")]
impl State {
    /// Ends the leases of a key's holders without a notification. False if the key is free.
    pub(super) fn expire(&mut self, key: &str, wakes: &mut Wakes) -> bool {
        let Some(queue) = self.keys.get(key) else { return false };
        let leases: Vec<_> = queue.holding().map(|place| place.lease).collect();
        let over: Vec<_> = leases.into_iter().filter_map(|lease| self.forget(lease)).collect();
        self.clean_up_after(over, wakes);
        true
    }

    /// Grants a key to a claim of another client library, before all others, and notifies the links of its holders.
    pub(super) fn steal(&mut self, now: Timestamp, claim: &Claim, wakes: &mut Wakes) {
        let Some(thief) = self.leases.get_mut(&claim.lease.id) else { return };
        thief.foreign = true;
        thief.claims.insert(claim.attempt, claim.key.clone());
        let epoch = self.epoch.grant();
        self.observed.changed(&claim.key, wakes);
        match self.keys.entry(claim.key.clone()) {
            Entry::Vacant(free) => {
                free.insert(Queue::held_by(Place::new(claim, now), epoch));
            }
            Entry::Occupied(mut queue) => {
                let robbed: Vec<_> = queue.get().holding().map(|place| (place.lease, place.attempt)).collect();
                // Added first, so that no waiter is granted in between.
                queue.get_mut().push_front(Place::new(claim, now), epoch);
                for (lease, attempt) in robbed {
                    self.evict_claim(lease, attempt, wakes);
                }
            }
        }
    }
}

/// Removes claims from a key's queue, and forgets the key if those were the last.
fn leave(keys: &mut Keys, key: Arc<str>, is_removed: impl Fn(&Place) -> bool, epoch: &mut Epoch, wakes: &mut Wakes) {
    let Entry::Occupied(mut queue) = keys.entry(key) else { return };
    if queue.get_mut().remove(is_removed, epoch, wakes) {
        queue.remove();
        shrink(keys);
    }
}

/// Frees memory if the map has become nearly empty. Small maps keep theirs.
fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    const SMALL: usize = 64;
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}
