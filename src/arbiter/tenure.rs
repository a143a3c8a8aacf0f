//! [`Tenures`]: the grants of one key in this process, and the holds in each; reentrancy.

use std::collections::HashSet;

use super::indexed::{Indexed, Owned};
use super::ordered::Ordered;
use super::types::{Granted, HoldId, Terms};
use crate::clock::Timestamp;
use crate::info::Mode;
use crate::owner::Owner;

const DEADLOCK: &str = "the owner holds it shared, and would wait for itself to get it exclusively";
const OTHER_KIND: &str =
    "the owner shares it, with a limit or without, and would wait for itself to share it the other way";
const TOO_DEEP: &str = "it is nested too deep";

/// A grant while this process has it.
#[derive(Debug)]
pub(super) struct Tenure<G> {
    pub(super) grant: G,
    pub(super) terms: Terms,
    pub(super) since: Timestamp,
    pub(super) handovers: u16,
    /// Whether its long hold has been reported.
    pub(super) reported: bool,
    /// The number of its holds.
    holds: usize,
}

/// The number of a tenure; later grants have greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TenureId(u64);

/// One owner's hold in a tenure.
#[derive(Debug)]
struct HoldEntry<H> {
    tenure: TenureId,
    owner: Owner,
    depth: u32,
    hold: H,
}

impl<H> Owned for HoldEntry<H> {
    fn owner(&self) -> &Owner {
        &self.owner
    }
}

/// What is left when a share of a hold is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Other shares of the hold.
    Depth(u32),
    /// Other holds of the grant.
    Others,
    /// A grant without a hold.
    Empty(TenureId),
}

/// All grants and holds of this process. Each call costs O(log n) unless its documentation says otherwise.
#[derive(Debug)]
pub(super) struct Tenures<G: Granted> {
    tenures: Ordered<TenureId, Tenure<G>>,
    /// The last hold of an owner is the one that counts: the earlier ones are lost, or there would be no later one.
    holds: Indexed<HoldId, HoldEntry<G::Hold>>,
    last: u64,
}

impl<G: Granted> Default for Tenures<G> {
    fn default() -> Self {
        Self { tenures: Ordered::default(), holds: Indexed::default(), last: 0 }
    }
}

impl<G: Granted> Tenures<G> {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (TenureId, &Tenure<G>)> {
        self.tenures.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tenure<G>> {
        self.tenures.values_mut()
    }

    pub(super) fn get(&self, id: TenureId) -> Option<&Tenure<G>> {
        self.tenures.get(id)
    }

    /// Whether another owner of the same task or thread has a hold.
    pub(super) fn has_beside(&self, owner: &Owner) -> bool {
        let is_own = |entry: &HoldEntry<G::Hold>| entry.owner.origin() == owner.origin();
        let own = self.holds.last_of(owner).is_some_and(|(_, entry)| is_own(entry));
        self.holds.with_origin_of(owner) > usize::from(own)
    }

    /// The hold of this owner that is not lost.
    fn hold_of(&self, owner: &Owner, now: Timestamp) -> Option<(HoldId, &Tenure<G>)> {
        let (id, entry) = self.holds.last_of(owner)?;
        let tenure = self.tenures.get(entry.tenure)?;
        tenure.grant.is_alive(now).then_some((id, tenure))
    }

    /// Whether the owner has a hold that is not lost.
    pub(super) fn holds(&self, owner: &Owner, now: Timestamp) -> bool {
        self.hold_of(owner, now).is_some()
    }

    /// Whether the owner has an exclusive hold that is not lost.
    pub(super) fn holds_exclusively(&self, owner: &Owner, now: Timestamp) -> bool {
        self.hold_of(owner, now).is_some_and(|(_, tenure)| tenure.terms.mode == Mode::Exclusive)
    }

    /// The terms of a hold. `None` if there is no such hold.
    pub(super) fn terms_of(&self, id: HoldId) -> Option<&Terms> {
        Some(&self.tenures.get(self.holds.get(id)?.tenure)?.terms)
    }

    /// Reentrancy: another share for an owner that has a hold which is not lost.
    pub(super) fn enter(
        &mut self,
        owner: &Owner,
        terms: &Terms,
        now: Timestamp,
    ) -> Option<Result<(G::Hold, u32), &'static str>> {
        let (id, tenure) = self.hold_of(owner, now)?;
        if tenure.terms.mode == Mode::Shared && tenure.terms.excludes(terms) {
            return Some(Err(if terms.mode == Mode::Exclusive { DEADLOCK } else { OTHER_KIND }));
        }
        self.deepen(id)
    }

    /// One more share of a hold. `None` if there is no such hold.
    pub(super) fn deepen(&mut self, id: HoldId) -> Option<Result<(G::Hold, u32), &'static str>> {
        let entry = self.holds.get_mut(id)?;
        let Some(depth) = entry.depth.checked_add(1) else { return Some(Err(TOO_DEEP)) };
        entry.depth = depth;
        G::set_depth(&entry.hold, depth);
        Some(Ok((entry.hold.clone(), depth)))
    }

    /// Begins a tenure with its first hold.
    pub(super) fn begin(&mut self, grant: G, terms: Terms, owner: &Owner, now: Timestamp) -> G::Hold {
        let id = TenureId(self.next());
        let hold_id = HoldId(self.next());
        let hold = grant.hold(hold_id, owner, 0, now);
        self.tenures.insert(id, Tenure { grant, terms, since: now, handovers: 0, reported: false, holds: 1 });
        self.holds.insert(hold_id, HoldEntry { tenure: id, owner: owner.clone(), depth: 1, hold: hold.clone() });
        hold
    }

    /// Adds a hold, by a handover within the process. `None` if there is no such tenure.
    pub(super) fn pass_on(&mut self, id: TenureId, owner: &Owner, now: Timestamp) -> Option<G::Hold> {
        let hold_id = HoldId(self.next());
        let tenure = self.tenures.get_mut(id)?;
        tenure.handovers += 1;
        tenure.holds += 1;
        let hold = tenure.grant.hold(hold_id, owner, tenure.handovers, now);
        self.holds.insert(hold_id, HoldEntry { tenure: id, owner: owner.clone(), depth: 1, hold: hold.clone() });
        Some(hold)
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Removes a share of a hold. `None` if there is no such hold: it had been lost.
    pub(super) fn leave(&mut self, id: HoldId) -> Option<Left> {
        let entry = self.holds.get_mut(id)?;
        entry.depth -= 1;
        G::set_depth(&entry.hold, entry.depth);
        if entry.depth > 0 {
            return Some(Left::Depth(entry.depth));
        }
        let entry = self.holds.remove(id)?;
        let tenure = self.tenures.get_mut(entry.tenure)?;
        tenure.holds -= 1;
        Some(if tenure.holds == 0 { Left::Empty(entry.tenure) } else { Left::Others })
    }

    /// Ends a tenure that has no hold.
    pub(super) fn end(&mut self, id: TenureId) -> Option<G> {
        self.tenures.remove(id).map(|tenure| tenure.grant)
    }

    /// Removes the grants that are lost, with their holds, and returns them. O(n).
    pub(super) fn purge(&mut self, now: Timestamp) -> Vec<G> {
        let all = self.tenures.iter();
        let lost: Vec<_> = all.filter(|(_, tenure)| !tenure.grant.is_alive(now)).map(|(id, _)| id).collect();
        if lost.is_empty() {
            return Vec::new();
        }
        let ids: HashSet<_> = lost.iter().copied().collect();
        let entries = self.holds.iter();
        let over = entries.filter(|(_, entry)| ids.contains(&entry.tenure)).map(|(id, _)| id).collect::<Vec<_>>();
        for id in over {
            self.holds.remove(id);
        }
        lost.into_iter().filter_map(|id| self.end(id)).collect()
    }

    /// Asserts the invariants that hold between any two calls.
    #[cfg(test)]
    pub(super) fn check(&self) {
        for (id, tenure) in self.tenures.iter() {
            let holds = self.holds.iter().filter(|(_, entry)| entry.tenure == id).count();
            assert!(holds > 0 && holds == tenure.holds, "{holds} holds, counted as {}", tenure.holds);
        }
        let mut entries = self.holds.iter();
        assert!(entries.all(|(_, entry)| self.tenures.get(entry.tenure).is_some()), "a hold without a grant");
        self.holds.check();
    }
}
