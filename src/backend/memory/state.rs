//! What the store knows, and each step that changes it: no clock, no mutex, nobody woken.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use super::ids::{IdMap, Settled};
use super::queue::{Epoch, Place, Queue};
use super::store::Answer;
use super::wakes::{Mailbox, Wakes};
use crate::backend::{AttemptId, Claim, Clock, Event, Evict, LeaseId, Timestamp};
use crate::info::{Eviction, Holder, LockInfo};
use crate::token::FencingToken;

/// Keys come from users: a hasher with a secret, but a fast one.
type Keys = HashMap<Arc<str>, Queue, foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct State {
    keys: Keys,
    leases: IdMap<LeaseId, Held>,
    /// The ends of all leases, so that looking for those that are over is looking at the first.
    ends: BTreeSet<(Timestamp, LeaseId)>,
    epoch: Epoch,
    last_lease: u64,
}

/// A lease, and what is held or waited for on it.
#[derive(Debug)]
struct Held {
    ttl: Duration,
    end: Timestamp,
    session: bool,
    /// Of a client that is not leasehold.
    foreign: bool,
    claims: IdMap<AttemptId, Arc<str>>,
    settled: Settled,
    mailbox: Arc<Mailbox>,
}

impl State {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let (keys, leases, ends, epoch) = (Keys::default(), IdMap::default(), BTreeSet::new(), Epoch::new(clock));
        Self { keys, leases, ends, epoch, last_lease: 0 }
    }

    /// Ends what is over by `now`. An expired lease is no news to its link, whose own deadline came first.
    pub(super) fn purge(&mut self, now: Timestamp, wakes: &mut Wakes) {
        let mut over = Vec::new();
        while let Some(&(end, lease)) = self.ends.first()
            && end <= now
        {
            over.extend(self.forget(lease));
        }
        self.clean_up_after(over, wakes);
    }

    pub(super) fn open(&mut self, now: Timestamp, ttl: Duration, session: bool, mailbox: Arc<Mailbox>) -> LeaseId {
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        let end = now + ttl;
        let (claims, settled) = Default::default();
        self.ends.insert((end, lease));
        self.leases.insert(lease, Held { ttl, end, session, foreign: false, claims, settled, mailbox });
        lease
    }

    /// Gives a lease its full time again. False if it is over.
    pub(super) fn renew(&mut self, now: Timestamp, lease: LeaseId) -> bool {
        let Some(held) = self.leases.get_mut(&lease) else { return false };
        self.ends.remove(&(held.end, lease));
        held.end = now + held.ttl;
        self.ends.insert((held.end, lease));
        true
    }

    /// Ends a lease with all its claims.
    pub(super) fn end(&mut self, lease: LeaseId, wakes: &mut Wakes) {
        let over = self.forget(lease);
        self.clean_up_after(over, wakes);
    }

    /// The first half of a lease's end, to be done for all that end at once before the second: or a claim of the next one
    /// would be granted for the moment until it goes too.
    fn forget(&mut self, lease: LeaseId) -> Option<Held> {
        let held = self.leases.remove(&lease)?;
        shrink(&mut self.leases);
        self.ends.remove(&(held.end, lease));
        Some(held)
    }

    fn clean_up_after(&mut self, over: impl IntoIterator<Item = Held>, wakes: &mut Wakes) {
        let Self { keys, leases, epoch, .. } = self;
        for key in over.into_iter().flat_map(|held| held.claims.into_values()) {
            leave(keys, key, |place| !leases.contains_key(&place.lease), epoch, wakes);
        }
    }

    pub(super) fn acquire(&mut self, now: Timestamp, claim: &Claim, wait: bool, wakes: &mut Wakes) -> Answer {
        let Self { keys, leases, epoch, .. } = self;
        let Some(held) = leases.get_mut(&claim.lease.id) else { return Answer::Refused };
        if held.settled.contains(claim.attempt) {
            return Answer::Refused;
        }
        let Entry::Vacant(entry) = held.claims.entry(claim.attempt) else { return self.acquire_again(claim, wakes) };
        let mut place = Place::new(claim, now);
        let answer = match keys.entry(claim.key.clone()) {
            Entry::Vacant(free) => {
                let epoch = epoch.grant();
                free.insert(Queue::held_by(place, epoch));
                Answer::Granted(epoch)
            }
            Entry::Occupied(mut queue) if queue.get().admits(claim.mode) => {
                let epoch = epoch.grant();
                place.epoch = Some(epoch);
                queue.get_mut().push(place);
                Answer::Granted(epoch)
            }
            Entry::Occupied(mut queue) if wait => {
                let (waiter, answer) = oneshot::channel();
                place.waiter = Some(waiter);
                queue.get_mut().push(place);
                Answer::Queued(answer)
            }
            Entry::Occupied(_) => return Answer::Busy,
        };
        entry.insert(claim.key.clone());
        answer
    }

    /// A second call of the same attempt: the claim keeps its place, the older call hears no more.
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
            wakes.gone(older);
        }
        Answer::Queued(answer)
    }

    /// Takes a claim back. A lease of its own ends with it.
    pub(super) fn give_up(&mut self, lease: LeaseId, attempt: AttemptId, wakes: &mut Wakes) {
        let Some(held) = self.leases.get_mut(&lease) else { return };
        if !held.session {
            self.end(lease, wakes);
        } else if let Some(key) = held.claims.remove(&attempt) {
            shrink(&mut held.claims);
            let gone = |place: &Place| place.is(lease, attempt);
            leave(&mut self.keys, key, gone, &mut self.epoch, wakes);
        }
    }

    /// Takes a claim back, and refuses it from now on.
    pub(super) fn settle(&mut self, lease: LeaseId, attempt: AttemptId, wakes: &mut Wakes) {
        self.give_up(lease, attempt, wakes);
        if let Some(held) = self.leases.get_mut(&lease) {
            held.settled.insert(attempt);
        }
    }

    /// The end of a lease that comes first of those that this claim waits for, its own included.
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

    /// Ends the leases of a key's holders, or takes just their claims, and tells them.
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
        if evict.key_only {
            claims.into_iter().for_each(|(lease, attempt)| self.take(lease, attempt, wakes));
        } else {
            released.extend(claims.iter().flat_map(|(lease, _)| self.held_keys(*lease)));
            let mut over = Vec::new();
            for (lease, _) in claims {
                // A lease may hold the key twice, shared.
                let Some(held) = self.forget(lease) else { continue };
                wakes.event(held.mailbox.clone(), Event::LeaseLost(lease));
                over.push(held);
            }
            self.clean_up_after(over, wakes);
        }
        released.sort_unstable();
        released.dedup();
        Eviction::new(holders, released)
    }

    /// Takes one claim away and tells its link.
    fn take(&mut self, lease: LeaseId, attempt: AttemptId, wakes: &mut Wakes) {
        if let Some(held) = self.leases.get(&lease) {
            wakes.event(held.mailbox.clone(), Event::ClaimLost(attempt));
        }
        self.give_up(lease, attempt, wakes);
    }

    /// The keys that are held, not only waited for, on a lease.
    fn held_keys(&self, lease: LeaseId) -> Vec<String> {
        let Some(held) = self.leases.get(&lease) else { return Vec::new() };
        let holds = |attempt: AttemptId, key: &Arc<str>| {
            self.keys.get(key).is_some_and(|queue| queue.holding().any(|place| place.is(lease, attempt)))
        };
        held.claims.iter().filter(|(attempt, key)| holds(**attempt, key)).map(|(_, key)| String::from(&**key)).collect()
    }

    pub(super) fn inspect(&self, now: Timestamp, key: &str) -> Option<LockInfo> {
        Some(self.describe(now, key, self.keys.get(key)?))
    }

    /// What is known of each key that begins with `prefix`, in no order.
    pub(super) fn list(&self, now: Timestamp, prefix: &str) -> Vec<LockInfo> {
        let matching = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        matching.map(|(key, queue)| self.describe(now, key, queue)).collect()
    }

    fn describe(&self, now: Timestamp, key: &str, queue: &Queue) -> LockInfo {
        let first = queue.first();
        let mut info = LockInfo::new(key, first.mode);
        info.foreign = self.leases.get(&first.lease).is_some_and(|held| held.foreign);
        info.token = first.epoch.filter(|_| !info.foreign).map(|epoch| FencingToken::of_grant(epoch, 0));
        info.since = queue.holding().map(|place| place.since).min().map(|since| SystemTime::now() - now.since(since));
        let ends = queue.holding().filter_map(|place| self.leases.get(&place.lease)).map(|held| held.end);
        info.remaining = ends.max().map(|end| end.since(now));
        info.holders = queue.holding().map(|place| Holder::clone(&place.holder)).collect();
        info.claims = queue.holding().map(Place::id).collect();
        info.waiters = queue.iter().count() - info.holders.len();
        info
    }
}

#[cfg(test)]
impl State {
    /// How many entries there is room for, all maps together.
    pub(super) fn memory(&self) -> usize {
        let claims = self.leases.values().map(|held| held.claims.capacity());
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
    /// Ends the leases of a key's holders and tells nobody. False if the key is free.
    pub(super) fn expire(&mut self, key: &str, wakes: &mut Wakes) -> bool {
        let Some(queue) = self.keys.get(key) else { return false };
        let leases: Vec<_> = queue.holding().map(|place| place.lease).collect();
        let over: Vec<_> = leases.into_iter().filter_map(|lease| self.forget(lease)).collect();
        self.clean_up_after(over, wakes);
        true
    }

    /// Lets a claim that is not of leasehold hold its key, before all others; those who held it are told.
    pub(super) fn steal(&mut self, now: Timestamp, claim: &Claim, wakes: &mut Wakes) {
        let Some(thief) = self.leases.get_mut(&claim.lease.id) else { return };
        thief.foreign = true;
        thief.claims.insert(claim.attempt, claim.key.clone());
        let epoch = self.epoch.grant();
        match self.keys.entry(claim.key.clone()) {
            Entry::Vacant(free) => {
                free.insert(Queue::held_by(Place::new(claim, now), epoch));
            }
            Entry::Occupied(mut queue) => {
                let robbed: Vec<_> = queue.get().holding().map(|place| (place.lease, place.attempt)).collect();
                // In front first: nobody who waits may get in between.
                queue.get_mut().push_front(Place::new(claim, now), epoch);
                for (lease, attempt) in robbed {
                    self.take(lease, attempt, wakes);
                }
            }
        }
    }
}

/// Takes claims out of a key's queue, and forgets the key if those were the last.
fn leave(keys: &mut Keys, key: Arc<str>, gone: impl Fn(&Place) -> bool, epoch: &mut Epoch, wakes: &mut Wakes) {
    let Entry::Occupied(mut queue) = keys.entry(key) else { return };
    if queue.get_mut().remove(gone, epoch, wakes) {
        queue.remove();
        shrink(keys);
    }
}

/// Gives memory back if the map has become nearly empty. Small ones may keep theirs.
fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    const SMALL: usize = 64;
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}
