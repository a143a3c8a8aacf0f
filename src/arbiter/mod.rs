//! Local arbitration: which owner in this process enters next, for one key.
//!
//! A pure state machine without I/O, clock or mutex. The caller guards it by a mutex, reports what happened and when, and applies
//! the [`Effects`] after it has unlocked the mutex.
//!
//! - Waiters stand in one queue, first come, first served. At most one of them, the *claimant*, has an attempt at the backend
//!   that is unanswered; while an attempt of unknown outcome is cleaned up there is none.
//! - A *tenure* is a backend grant while this process has it. One exclusive, or several shared ones, each with one hold for
//!   each owner.
//! - A grant is handed to the next waiter without asking the backend, for a bounded time and number of times.

mod indexed;
#[cfg(test)]
mod model;
mod ordered;
mod queue;
mod state;
mod tenure;
#[cfg(test)]
mod tests;
mod types;

use std::time::Duration;

use self::queue::{Delivery, Queue};
use self::tenure::{Left, Tenure, TenureId, Tenures};
pub(crate) use self::types::{
    Cancelled, Decision, Effects, Granted, Handover, HoldId, SlowReport, Terms, Ticket, Turn,
};
use crate::clock::Timestamp;
use crate::info::Mode;
use crate::owner::Owner;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claimant {
    Nobody,
    Waiter(Ticket),
    /// An attempt of unknown outcome is being aborted.
    Aborting,
}

/// The arbiter of one key. `W` is what wakes a waiter.
#[derive(Debug)]
pub(crate) struct Arbiter<G: Granted, W> {
    queue: Queue<W, G::Hold>,
    tenures: Tenures<G>,
    /// Owners that hold the key by now, and whose waiters may enter that hold.
    entering: Vec<Owner>,
    claimant: Claimant,
    /// The newest waiter when the claimant's attempt began.
    began_after: Ticket,
    /// When an attempt was granted for the last time.
    last_granted: Option<Timestamp>,
    handover: Handover,
    /// Whether the caller has been asked for a nudge.
    watched: bool,
    /// Wakers that are not needed any more. Dropping one runs foreign code, so the caller does it without the mutex.
    dead: Vec<W>,
}

impl<G: Granted, W: Clone> Arbiter<G, W> {
    pub(crate) fn new(handover: Handover) -> Self {
        Self {
            queue: Queue::default(),
            tenures: Tenures::default(),
            entering: Vec::new(),
            claimant: Claimant::Nobody,
            began_after: Queue::<W, G::Hold>::default().last(),
            last_granted: None,
            handover,
            watched: false,
            dead: Vec::new(),
        }
    }

    /// Returns the wakers that the caller drops once it has unlocked the mutex.
    pub(crate) fn take_dead(&mut self) -> Vec<W> {
        std::mem::take(&mut self.dead)
    }

    /// Takes a waiter out of the queue.
    fn remove(&mut self, ticket: Ticket) -> Option<(Owner, Terms)> {
        let waiter = self.queue.remove(ticket)?;
        self.dead.extend(waiter.waker);
        Some((waiter.owner, waiter.terms))
    }

    /// Requests a hold. Without `wait`, it never overtakes a waiter and never stays in the queue for long.
    pub(crate) fn request(
        &mut self,
        owner: &Owner,
        terms: &Terms,
        wait: bool,
        now: Timestamp,
        waker: impl FnOnce() -> W,
    ) -> (Decision<G::Hold>, Effects<G, W>) {
        let mut effects = Effects::default();
        let decision = match self.tenures.enter(owner, terms, now) {
            Some(Ok((hold, depth))) => Decision::Entered(hold, depth),
            Some(Err(reason)) => Decision::Refused(reason),
            None => match self.queue.is_empty().then(|| self.join(owner, terms, now)).flatten() {
                Some(hold) => Decision::Entered(hold, 1),
                None if !wait && !self.may_try(terms, now) => Decision::Busy,
                None => {
                    let ticket = self.queue.push(owner.clone(), terms.clone(), wait, now);
                    let promoted = self.promote(now);
                    if self.claimant == Claimant::Waiter(ticket) {
                        Decision::Claim(ticket)
                    } else {
                        effects.wake.extend(promoted.then(|| self.queue.take_first_waker()).flatten());
                        self.dead.extend(self.queue.set_waker(ticket, waker()));
                        Decision::Queued(ticket)
                    }
                }
            },
        };
        (decision, effects)
    }

    /// One more share for an owner that holds the key. `None` if it does not.
    pub(crate) fn enter(
        &mut self,
        owner: &Owner,
        terms: &Terms,
        now: Timestamp,
    ) -> Option<Result<(G::Hold, u32), &'static str>> {
        self.tenures.enter(owner, terms, now)
    }

    /// Returns what a waiter has to do, and stores the waker for its next wake-up.
    pub(crate) fn turn(&mut self, ticket: Ticket, waker: impl FnOnce() -> W) -> Turn<G::Hold> {
        match self.queue.take_delivery(ticket) {
            Some(Delivery::Entered(hold, depth)) => Turn::Entered(hold, depth),
            Some(Delivery::Refused(reason)) => Turn::Refused(reason),
            Some(Delivery::Busy) => Turn::Busy,
            None if self.claimant == Claimant::Waiter(ticket) => Turn::Claim,
            None => {
                self.dead.extend(self.queue.set_waker(ticket, waker()));
                Turn::Wait
            }
        }
    }

    /// The claimant's attempt was granted.
    ///
    /// Gives the grant back if the ticket is not the claimant's (any more).
    pub(crate) fn granted(&mut self, ticket: Ticket, grant: G, now: Timestamp) -> Result<(G::Hold, Effects<G, W>), G> {
        if self.claimant != Claimant::Waiter(ticket) {
            return Err(grant);
        }
        let Some((owner, terms)) = self.remove(ticket) else { return Err(grant) };
        self.claimant = Claimant::Nobody;
        self.last_granted = Some(now);
        let hold = self.tenures.begin(grant, terms, &owner, now);
        self.entering.push(owner);
        let mut effects = Effects::default();
        self.admit(now, &mut effects);
        Ok((hold, effects))
    }

    /// The claimant's attempt ended without a grant, and holds nothing for certain.
    pub(crate) fn gave_up(&mut self, ticket: Ticket, now: Timestamp) -> Effects<G, W> {
        let mut effects = Effects::default();
        self.remove(ticket);
        if self.claimant == Claimant::Waiter(ticket) {
            self.claimant = Claimant::Nobody;
        }
        self.admit(now, &mut effects);
        effects
    }

    /// The claimant tried, and the key was not free. This answers also the tries that were queued before that attempt began.
    pub(crate) fn was_busy(&mut self, ticket: Ticket, now: Timestamp) -> Effects<G, W> {
        let mut busy = Vec::new();
        if self.claimant == Claimant::Waiter(ticket) {
            self.remove(ticket);
            while let Some(waiter) = self.queue.pop_try(self.began_after) {
                busy.extend(self.queue.deliver(waiter, Delivery::Busy));
            }
        }
        let mut effects = self.gave_up(ticket, now);
        effects.wake.extend(busy);
        effects
    }

    /// The claimant's attempt must be aborted before the next claim; the waiter keeps its place.
    pub(crate) fn aborting(&mut self, ticket: Ticket) {
        if self.claimant == Claimant::Waiter(ticket) {
            self.claimant = Claimant::Aborting;
        }
    }

    /// The abort is confirmed: the attempt of unknown outcome holds nothing.
    pub(crate) fn aborted(&mut self, now: Timestamp) -> Effects<G, W> {
        let mut effects = Effects::default();
        if self.claimant == Claimant::Aborting {
            self.claimant = Claimant::Nobody;
        }
        self.admit(now, &mut effects);
        effects
    }

    /// A waiter is cancelled. `sent` is true if its attempt may have reached the backend.
    pub(crate) fn cancel(&mut self, ticket: Ticket, sent: bool, now: Timestamp) -> (Cancelled<G::Hold>, Effects<G, W>) {
        let mut effects = Effects::default();
        if let Some(delivery) = self.queue.take_delivery(ticket) {
            return match delivery {
                Delivery::Entered(hold, _) => (Cancelled::Hold(hold), effects),
                Delivery::Refused(_) | Delivery::Busy => (Cancelled::Nothing, effects),
            };
        }
        self.remove(ticket);
        if self.claimant == Claimant::Waiter(ticket) {
            if sent {
                self.claimant = Claimant::Aborting;
                return (Cancelled::Attempt, effects);
            }
            self.claimant = Claimant::Nobody;
        }
        self.admit(now, &mut effects);
        (Cancelled::Nothing, effects)
    }

    /// A waiter found the hold that it had received lost: it returns to its place. Its owner may hold the key again by another waiter.
    pub(crate) fn requeue(&mut self, owner: &Owner, terms: Terms, now: Timestamp) -> (Ticket, Effects<G, W>) {
        let mut effects = Effects::default();
        let ticket = self.queue.push_front(owner.clone(), terms, true, now);
        self.entering.push(owner.clone());
        self.admit(now, &mut effects);
        (ticket, effects)
    }

    /// One more share of a hold. `None` if the hold is over.
    pub(crate) fn reenter(&mut self, id: HoldId) -> Option<Result<u32, &'static str>> {
        Some(self.tenures.deepen(id)?.map(|(_, depth)| depth))
    }

    /// A share of a hold is dropped. Returns the depth that is left, or `None` if the hold had been lost.
    pub(crate) fn leave(&mut self, id: HoldId, now: impl FnOnce() -> Timestamp) -> (Option<u32>, Effects<G, W>) {
        let mut effects = Effects::default();
        let depth = match self.tenures.leave(id) {
            None => None,
            Some(Left::Depth(depth)) => Some(depth),
            Some(Left::Others) => Some(0),
            Some(Left::Empty(tenure)) => {
                if self.queue.is_empty() {
                    effects.release = self.tenures.end(tenure);
                } else {
                    let now = now();
                    if !self.handover(tenure, now, &mut effects) {
                        effects.release = self.tenures.end(tenure);
                    }
                    self.admit(now, &mut effects);
                }
                Some(0)
            }
        };
        (depth, effects)
    }

    /// Removes the grants that are lost and returns them; their waiters claim at the backend.
    pub(crate) fn purge(&mut self, now: Timestamp) -> (Vec<G>, Effects<G, W>) {
        let lost = self.tenures.purge(now);
        let mut effects = Effects::default();
        self.admit(now, &mut effects);
        (lost, effects)
    }

    /// Whether a waiter depends on a handover that may never happen, see [`nudge`](Self::nudge). True once.
    pub(crate) fn wants_nudge(&mut self) -> bool {
        let wants = !self.watched && !self.queue.is_empty() && self.claimant == Claimant::Nobody;
        self.watched |= wants;
        wants
    }

    /// Lets the first waiter claim early if the grant here will not be handed over any more.
    pub(crate) fn nudge(&mut self, now: Timestamp) -> Effects<G, W> {
        let mut effects = Effects::default();
        self.watched = false;
        self.promote_and_wake(now, &mut effects);
        effects
    }

    /// Reports, once for each, whether a hold and whether a wait has lasted for `long`, and whether the wait may be for itself.
    pub(crate) fn report_slow(&mut self, long: Duration, now: Timestamp) -> SlowReport {
        let first =
            |reported: &mut bool, since: Timestamp| now.since(since) >= long && !std::mem::replace(reported, true);
        let mut report = SlowReport::default();
        for tenure in self.tenures.iter_mut() {
            report.held |= first(&mut tenure.reported, tenure.since);
        }
        let mut late: Vec<Owner> = Vec::new();
        for waiter in self.queue.iter_mut() {
            if first(&mut waiter.reported, waiter.since) {
                late.push(waiter.owner.clone());
            }
        }
        report.waited = !late.is_empty();
        report.own = late.iter().any(|owner| self.is_held_beside(owner));
        report
    }

    /// Wakes all waiters, so that they see that the manager was closed.
    pub(crate) fn wake_all(&self) -> Vec<W> {
        self.queue.wakers().collect()
    }

    /// Adds a separate hold to a shared grant that this process has.
    fn join(&mut self, owner: &Owner, terms: &Terms, now: Timestamp) -> Option<G::Hold> {
        // With max_hold each hold ends at its own age, and with a limit each counts, so each needs a separate grant.
        if terms.mode != Mode::Shared || terms.max_hold.is_some() || terms.limit.is_some() {
            return None;
        }
        // From the newest on: the first that is too old ends the search.
        let is_young = |tenure: &Tenure<G>| now.since(tenure.since) < self.handover.time;
        let mut young = self.tenures.iter().rev().take_while(|(_, tenure)| is_young(tenure));
        let fitting = young.find(|(_, tenure)| self.fits(tenure, terms, now)).map(|(id, _)| id);
        drop(young);
        self.pass_on(fitting?, owner, now)
    }

    /// Whether a request on these terms may take over this grant, or join it.
    fn fits(&self, tenure: &Tenure<G>, terms: &Terms, now: Timestamp) -> bool {
        // Without renewal, the TTL of each hold counts from a separate grant.
        terms.auto_renew
            && tenure.terms == *terms
            && tenure.handovers < self.handover.times
            && now.since(tenure.since) < self.handover.time
            && tenure.grant.is_fresh(now)
    }

    /// Hands a grant to one more owner, whose other waiters may enter then.
    fn pass_on(&mut self, tenure: TenureId, owner: &Owner, now: Timestamp) -> Option<G::Hold> {
        if self.queue.has(owner) {
            self.entering.push(owner.clone());
        }
        self.tenures.pass_on(tenure, owner, now)
    }

    /// Whether a try may be sent to the backend.
    fn may_try(&self, terms: &Terms, now: Timestamp) -> bool {
        let excluded = |tenure: &Tenure<G>| tenure.grant.is_alive(now) && tenure.terms.excludes(terms);
        // Shared tries wait for the answer to the one in flight: they may all enter its grant.
        let clear = self.queue.is_empty() || (terms.mode == Mode::Shared && self.queue.has_only_shared_tries());
        // From the newest on, which is alive if any is, unless it was lost alone.
        clear && !self.tenures.iter().rev().any(|(_, tenure)| excluded(tenure))
    }

    /// Hands a grant without holds to the first waiter, if its terms allow it.
    fn handover(&mut self, id: TenureId, now: Timestamp, effects: &mut Effects<G, W>) -> bool {
        if matches!(self.claimant, Claimant::Waiter(_)) {
            return false;
        }
        let Some(tenure) = self.tenures.get(id) else { return false };
        if !self.queue.first().is_some_and(|waiter| self.fits(tenure, &waiter.terms, now)) {
            return false;
        }
        let Some(waiter) = self.queue.pop() else { return false };
        let Some(hold) = self.pass_on(id, &waiter.owner, now) else { return false };
        effects.wake.extend(self.queue.deliver(waiter, Delivery::Entered(hold, 1)));
        true
    }

    /// Admits all waiters that need not wait any more, then lets the first of the others claim.
    fn admit(&mut self, now: Timestamp, effects: &mut Effects<G, W>) {
        if self.queue.is_empty() {
            self.entering.clear();
            return;
        }
        self.admit_owners(now, effects);
        while !matches!(self.claimant, Claimant::Waiter(_))
            && let Some((owner, terms)) = self.queue.first().map(|waiter| (waiter.owner.clone(), waiter.terms.clone()))
        {
            // An owner with two waiters has entered by the first, and reenters by the second.
            let entered = self.tenures.enter(&owner, &terms, now);
            let Some(delivery) = entered.or_else(|| self.join(&owner, &terms, now).map(|hold| Ok((hold, 1)))) else {
                break;
            };
            let Some(waiter) = self.queue.pop() else { return };
            effects.wake.extend(self.queue.deliver(waiter, delivery.into()));
        }
        self.admit_owners(now, effects);
        self.promote_and_wake(now, effects);
    }

    /// Admits the waiters whose owner holds the key by now (branches of a `join!`): they would wait for themselves.
    fn admit_owners(&mut self, now: Timestamp, effects: &mut Effects<G, W>) {
        while let Some(owner) = self.entering.pop() {
            for ticket in self.queue.of(&owner) {
                if self.claimant != Claimant::Waiter(ticket)
                    && let Some(waiter) = self.queue.get(ticket)
                    && let Some(delivery) = self.tenures.enter(&owner, &waiter.terms, now)
                    && let Some(waiter) = self.queue.remove(ticket)
                {
                    effects.wake.extend(self.queue.deliver(waiter, delivery.into()));
                }
            }
        }
    }

    /// Makes the first waiter the claimant if an attempt at the backend is needed.
    fn promote(&mut self, now: Timestamp) -> bool {
        let Some(waiter) = self.queue.first() else { return false };
        // Only the newest grant can be exclusive and alive.
        let will_be_handed_over =
            self.tenures.iter().next_back().is_some_and(|(_, tenure)| {
                tenure.terms.mode == Mode::Exclusive && self.fits(tenure, &waiter.terms, now)
            });
        if self.claimant != Claimant::Nobody || will_be_handed_over {
            return false;
        }
        self.claimant = Claimant::Waiter(waiter.ticket);
        self.began_after = self.queue.last();
        true
    }

    fn promote_and_wake(&mut self, now: Timestamp, effects: &mut Effects<G, W>) {
        if self.promote(now) {
            effects.wake.extend(self.queue.take_first_waker());
        }
        effects.watch |= self.wants_nudge();
    }
}
