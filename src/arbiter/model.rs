//! A random test of the arbiter against a model: actors, some of one owner, and a backend that grants, refuses, loses and forgets at random times.

use std::collections::BTreeSet;

use rand::RngExt;
use rand::rngs::StdRng;

use super::tests::{Fake, FakeHold, Fakes, arbiter, at, terms};
use super::*;
use crate::support::walk::walk;

const ACTORS: usize = 6;
/// Fewer than actors: some of them are branches of one task.
const OWNERS: usize = 4;

/// What an actor is doing.
#[derive(Clone, Debug, Default)]
enum Actor {
    #[default]
    Idle,
    Waiting(Waiting),
    Holding(FakeHold, Terms),
}

#[derive(Clone, Debug)]
struct Waiting {
    ticket: Ticket,
    terms: Terms,
    wait: bool,
    /// When it asked; none once it had to queue again.
    place: Option<u64>,
}

/// One arbiter, its actors and its backend.
struct Model {
    arbiter: Fakes,
    owners: Vec<Owner>,
    actors: Vec<Actor>,
    /// The attempt at the backend.
    attempt: Option<(usize, Ticket)>,
    aborting: bool,
    /// The grants of the backend that are not released.
    granted: Vec<(Fake, Terms)>,
    now: u64,
    last_grant: u32,
    last_place: u64,
    /// The woken actors, which ask for their turn in a later step.
    woken: BTreeSet<usize>,
    /// Whether a nudge is pending.
    watched: bool,
    /// Of each hold: when it was requested, and its number.
    order: Vec<(u64, HoldId)>,
    /// The greatest exclusive token.
    token: (u32, u16),
}

impl Model {
    fn new() -> Self {
        Self {
            arbiter: arbiter(),
            owners: (0..OWNERS).map(|_| Owner::new()).collect(),
            actors: vec![Actor::Idle; ACTORS],
            attempt: None,
            aborting: false,
            granted: Vec::new(),
            now: 0,
            last_grant: 0,
            last_place: 0,
            woken: BTreeSet::new(),
            watched: false,
            order: Vec::new(),
            token: (0, 0),
        }
    }

    fn now(&self) -> Timestamp {
        at(self.now)
    }

    fn owner(&self, actor: usize) -> Owner {
        self.owners[actor % OWNERS].clone()
    }

    fn carry_out(&mut self, effects: Effects<Fake, u32>) {
        if let Some(released) = effects.release {
            let before = self.granted.len();
            self.granted.retain(|(grant, _)| grant.id != released.id);
            assert!(self.granted.len() < before || released.lost.get(), "released twice");
        }
        self.watched |= effects.watch;
        self.woken.extend(effects.wake.into_iter().map(|actor| actor as usize));
    }

    fn claim(&mut self, actor: usize, ticket: Ticket) {
        assert!(self.attempt.is_none() && !self.aborting, "two attempts at a time");
        self.attempt = Some((actor, ticket));
    }

    fn request(&mut self, actor: usize, terms: Terms, wait: bool) {
        if !matches!(self.actors[actor], Actor::Idle) {
            return;
        }
        self.last_place += 1;
        let place = Some(self.last_place);
        let (decision, effects) = self.arbiter.request(&self.owner(actor), &terms, wait, self.now(), || actor as u32);
        self.carry_out(effects);
        match decision {
            Decision::Entered(hold, depth) => self.enter(actor, hold, depth, terms, place),
            Decision::Refused(_) => self.refused(actor, terms),
            Decision::Busy => assert!(!wait && !self.is_free(actor), "a free lock was refused"),
            Decision::Queued(ticket) => {
                self.watched |= self.arbiter.wants_nudge();
                self.actors[actor] = Actor::Waiting(Waiting { ticket, terms, wait, place });
            }
            Decision::Claim(ticket) => {
                self.actors[actor] = Actor::Waiting(Waiting { ticket, terms, wait, place });
                self.claim(actor, ticket);
            }
        }
    }

    /// Whether no other actor holds or waits.
    fn is_free(&self, actor: usize) -> bool {
        let idle = |other: usize| other == actor || matches!(self.actors[other], Actor::Idle);
        (0..ACTORS).all(idle)
    }

    fn refused(&self, actor: usize, terms: Terms) {
        let shared = |other: usize| {
            other % OWNERS == actor % OWNERS
                && matches!(&self.actors[other], Actor::Holding(_, held) if held.mode == Mode::Shared && held.excludes(&terms))
        };
        let fetched = (0..ACTORS).any(shared);
        let given = (0..ACTORS).any(|other| other % OWNERS == actor % OWNERS && other != actor);
        assert!(fetched || given, "refused for nothing");
    }

    fn is_lost(&self, hold: &FakeHold) -> bool {
        !self.granted.iter().any(|(grant, _)| grant.id == hold.grant)
    }

    fn enter(&mut self, actor: usize, hold: FakeHold, depth: u32, asked: Terms, place: Option<u64>) {
        let granted = self.granted.iter().find(|(grant, _)| grant.id == hold.grant).map(|(_, terms)| terms.clone());
        let Some(Terms { mode, limit, .. }) = granted else {
            // The hold is lost already: leave it, and queue again.
            let (_, effects) = self.arbiter.leave(hold.id, || at(self.now));
            self.carry_out(effects);
            return self.requeue(actor, asked);
        };
        let is_enough = asked.mode == Mode::Shared && asked.limit.is_some() == limit.is_some();
        assert!(mode == Mode::Exclusive || is_enough, "less than asked for");
        if depth == 1
            && let Some(place) = place
        {
            for (other, id) in &self.order {
                assert_eq!(*other < place, id.0 < hold.id.0, "overtaken");
            }
            self.order.push((place, hold.id));
        }
        if depth == 1 && mode == Mode::Exclusive {
            let token = (hold.grant, hold.handovers);
            assert!(token > self.token, "{token:?} after {:?}", self.token);
            self.token = token;
        }
        self.actors[actor] = Actor::Holding(hold, Terms { mode, limit, ..asked });
        let alive: Vec<_> = (0..ACTORS)
            .filter_map(|other| match &self.actors[other] {
                Actor::Holding(hold, terms) if !self.is_lost(hold) => Some((other % OWNERS, terms)),
                _ => None,
            })
            .collect();
        let Actor::Holding(_, own) = &self.actors[actor] else { return };
        let is_alone = |(owner, terms): &(usize, &Terms)| *owner == actor % OWNERS || !terms.excludes(own);
        assert!(alive.iter().all(is_alone), "not alone: {alive:?}");
        let mut owners: Vec<_> = alive.iter().map(|(owner, _)| *owner).collect();
        owners.sort_unstable();
        owners.dedup();
        // Others may have entered since, by greater limits.
        assert!(depth > 1 || limit.is_none_or(|limit| owners.len() <= limit as usize), "over {limit:?}: {alive:?}");
    }

    fn requeue(&mut self, actor: usize, terms: Terms) {
        self.purge();
        let (ticket, effects) = self.arbiter.requeue(&self.owner(actor), terms.clone(), self.now());
        self.carry_out(effects);
        self.actors[actor] = Actor::Waiting(Waiting { ticket, terms, wait: true, place: None });
        self.woken.insert(actor);
    }

    /// One of the woken actors asks for its turn.
    fn turn(&mut self, actor: usize) {
        if !self.woken.remove(&actor) {
            return;
        }
        let Actor::Waiting(waiting) = self.actors[actor].clone() else { return };
        match self.arbiter.turn(waiting.ticket, || actor as u32) {
            Turn::Wait => {}
            Turn::Claim if self.attempt == Some((actor, waiting.ticket)) => {}
            Turn::Claim => self.claim(actor, waiting.ticket),
            Turn::Entered(hold, depth) => self.enter(actor, hold, depth, waiting.terms, waiting.place),
            Turn::Busy => {
                assert!(!waiting.wait && !self.is_free(actor), "a free lock was refused");
                self.actors[actor] = Actor::Idle;
            }
            Turn::Refused(_) => {
                self.refused(actor, waiting.terms);
                self.actors[actor] = Actor::Idle;
            }
        }
    }

    /// The backend answers, once its other grants allow it.
    fn answer(&mut self) {
        let Some((actor, ticket)) = self.attempt else { return };
        let Actor::Waiting(waiting) = self.actors[actor].clone() else { panic!("an attempt without a waiter") };
        let is_full = waiting.terms.limit.is_some_and(|limit| self.granted.len() >= limit as usize);
        if is_full || self.granted.iter().any(|(_, other)| waiting.terms.excludes(other)) {
            if !waiting.wait {
                self.attempt = None;
                self.actors[actor] = Actor::Idle;
                let effects = self.arbiter.was_busy(ticket, self.now());
                self.carry_out(effects);
            }
            return;
        }
        self.attempt = None;
        self.last_grant += 1;
        let fake = Fake::new(self.last_grant);
        self.granted.push((fake.clone(), waiting.terms.clone()));
        let (hold, effects) = self.arbiter.granted(ticket, fake, self.now()).unwrap();
        self.carry_out(effects);
        self.enter(actor, hold, 1, waiting.terms, waiting.place);
    }

    /// The attempt ends without a grant.
    fn give_up(&mut self) {
        let Some((actor, ticket)) = self.attempt.take() else { return };
        self.actors[actor] = Actor::Idle;
        let effects = self.arbiter.gave_up(ticket, self.now());
        self.carry_out(effects);
    }

    /// The outcome of the attempt is unknown; its actor asks for its turn some time later.
    fn forget_attempt(&mut self) {
        let Some((actor, ticket)) = self.attempt.take() else { return };
        self.arbiter.aborting(ticket);
        self.aborting = true;
        self.woken.insert(actor);
    }

    fn abort(&mut self) {
        if std::mem::take(&mut self.aborting) {
            let effects = self.arbiter.aborted(self.now());
            self.carry_out(effects);
            // The actor that paused has not received `Wait`, so the arbiter must not have a waker of it.
            self.woken.extend(0..ACTORS);
        }
    }

    fn lose(&mut self, number: usize) {
        if !self.granted.is_empty() {
            self.granted.remove(number % self.granted.len()).0.lost.set(true);
        }
    }

    fn purge(&mut self) {
        let (_, effects) = self.arbiter.purge(self.now());
        self.carry_out(effects);
    }

    fn nudge(&mut self) {
        if std::mem::take(&mut self.watched) {
            let effects = self.arbiter.nudge(self.now());
            self.carry_out(effects);
        }
    }

    fn leave(&mut self, actor: usize) {
        let Actor::Holding(hold, _) = self.actors[actor].clone() else { return };
        self.actors[actor] = Actor::Idle;
        let (left, effects) = self.arbiter.leave(hold.id, || at(self.now));
        assert!(left.is_some() || self.is_lost(&hold), "a hold was forgotten");
        self.carry_out(effects);
    }

    fn cancel(&mut self, actor: usize) {
        let Actor::Waiting(Waiting { ticket, .. }) = self.actors[actor].clone() else { return };
        let sent = self.attempt == Some((actor, ticket));
        let (cancelled, effects) = self.arbiter.cancel(ticket, sent, self.now());
        self.actors[actor] = Actor::Idle;
        self.carry_out(effects);
        match cancelled {
            Cancelled::Nothing => assert!(!sent),
            Cancelled::Attempt => {
                self.attempt = None;
                self.aborting = true;
            }
            Cancelled::Hold(hold) => {
                let (_, effects) = self.arbiter.leave(hold.id, || at(self.now));
                self.carry_out(effects);
            }
        }
    }

    /// Asserts the invariants that hold between any two steps.
    fn check(&self) {
        if let Claimant::Waiter(ticket) = self.arbiter.claimant {
            assert!(self.arbiter.queue.get(ticket).is_some(), "the claimant does not wait");
        }
        let idle = self.arbiter.claimant == Claimant::Nobody && !self.arbiter.queue.is_empty();
        assert!(!idle || self.watched, "no claim, and no nudge pending");
        for waiter in self.arbiter.queue.iter() {
            assert!(!self.arbiter.tenures.holds(&waiter.owner, self.now()), "an owner waits for itself");
        }
        self.arbiter.tenures.check();
        self.arbiter.queue.check();
    }
}

fn any_terms(rng: &mut StdRng) -> Terms {
    let mode = if rng.random_ratio(3, 5) { Mode::Exclusive } else { Mode::Shared };
    let limit = (mode == Mode::Shared && rng.random_ratio(1, 2)).then(|| rng.random_range(1..4));
    Terms { limit, isolated: rng.random_ratio(1, 5), ..terms(mode) }
}

#[derive(Clone, Debug)]
enum Step {
    Request(usize, Terms, bool),
    Cancel(usize),
    Turn(usize),
    Leave(usize),
    Lose(usize),
    Answer,
    GiveUp,
    Forget,
    Abort,
    Purge,
    Nudge,
}

fn any_step(rng: &mut StdRng) -> Step {
    let actor = rng.random_range(0..ACTORS);
    match rng.random_range(0..33) {
        0..8 => Step::Request(actor, any_terms(rng), rng.random_ratio(4, 5)),
        8..10 => Step::Cancel(actor),
        10..16 => Step::Turn(actor),
        16..21 => Step::Leave(actor),
        21 => Step::Lose(rng.random_range(0..4)),
        22..27 => Step::Answer,
        27 => Step::GiveUp,
        28 => Step::Forget,
        29..31 => Step::Abort,
        31 => Step::Purge,
        _ => Step::Nudge,
    }
}

/// Whatever happens in whatever order: exclusive holds are alone and in order, no owner waits for itself, there is one attempt at a
/// time, and when all have left, nothing is left and all waiters were admitted.
#[test]
fn any_history_is_exclusive_and_ends_empty() {
    walk(2000, |rng| {
        let length = rng.random_range(1..150);
        play((0..length).map(|_| (any_step(rng), rng.random_range(0..6))));
    });
}

/// The shortest history that has ever broken a rule.
#[test]
fn a_history_that_was_not_exclusive_is_exclusive_and_ends_empty() {
    let request = |actor, wait| Step::Request(actor, terms(Mode::Exclusive), wait);
    let steps = [
        request(0, false),
        Step::Forget,
        Step::Abort,
        request(3, true),
        Step::Turn(0),
        Step::GiveUp,
        Step::Turn(3),
        request(1, true),
        Step::Answer,
        Step::Leave(3),
        Step::Lose(0),
        request(5, false),
        Step::Answer,
        Step::Turn(1),
    ];
    play(steps.map(|step| (step, 0)));
}

/// Plays the steps, each after a pause in ms, and then lets all actors finish.
fn play(steps: impl IntoIterator<Item = (Step, u64)>) {
    let mut model = Model::new();
    for (step, pause) in steps {
        model.now += pause;
        match step {
            Step::Request(actor, terms, wait) => model.request(actor, terms, wait),
            Step::Cancel(actor) => model.cancel(actor),
            Step::Turn(actor) => model.turn(actor),
            Step::Leave(actor) => model.leave(actor),
            Step::Lose(number) => model.lose(number),
            Step::Answer => model.answer(),
            Step::GiveUp => model.give_up(),
            Step::Forget => model.forget_attempt(),
            Step::Abort => model.abort(),
            Step::Purge => model.purge(),
            Step::Nudge => model.nudge(),
        }
        model.check();
    }
    for round in 0.. {
        assert!(round < 1000, "a waiter is never admitted");
        model.now += 20;
        model.purge();
        model.abort();
        model.nudge();
        (0..ACTORS).for_each(|actor| model.turn(actor));
        model.answer();
        (0..ACTORS).for_each(|actor| model.leave(actor));
        model.check();
        if model.actors.iter().all(|actor| matches!(actor, Actor::Idle)) && !model.aborting {
            break;
        }
    }
    assert!(model.granted.is_empty());
    assert_eq!(model.arbiter.waiting(), 0);
    let held = |actor| model.arbiter.tenures.holds(&model.owner(actor), model.now());
    assert!(!(0..ACTORS).any(held));
}
