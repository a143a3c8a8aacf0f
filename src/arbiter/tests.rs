//! The arbiter against tables, and against a model that plays the backend.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(30);
const HAND_OVER: HandOver = HandOver { time: Duration::from_millis(10), times: 1023 };

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(0) + Duration::from_millis(millis)
}

fn terms(mode: Mode) -> Terms {
    Terms { mode, ttl: TTL, isolated: false, auto_renew: true, max_hold: None }
}

/// A grant that dies when it is told to.
#[derive(Clone, Debug)]
struct Fake {
    id: u32,
    lost: Rc<Cell<bool>>,
}

#[derive(Clone, Debug)]
struct FakeHold {
    id: HoldId,
    grant: u32,
    handovers: u16,
}

impl Fake {
    fn new(id: u32) -> Self {
        Self { id, lost: Rc::default() }
    }
}

impl Granted for Fake {
    type Hold = FakeHold;
    fn hold(&self, id: HoldId, _: &Owner, handovers: u16, _: Timestamp) -> FakeHold {
        FakeHold { id, grant: self.id, handovers }
    }
    fn is_alive(&self, _: Timestamp) -> bool {
        !self.lost.get()
    }
    fn is_fresh(&self, _: Timestamp) -> bool {
        !self.lost.get()
    }
}

type Fakes = Arbiter<Fake, u32>;

fn arbiter() -> Fakes {
    Arbiter::new(HAND_OVER)
}

/// Asks and expects to be sent to the backend.
fn claim(arbiter: &mut Fakes, owner: &Owner, mode: Mode, now: u64) -> Ticket {
    match arbiter.request(owner, terms(mode), true, at(now), || 0).0 {
        Decision::Claim(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn queue(arbiter: &mut Fakes, owner: &Owner, mode: Mode, now: u64, waker: u32) -> Ticket {
    match arbiter.request(owner, terms(mode), true, at(now), || waker).0 {
        Decision::Queued(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn grant(arbiter: &mut Fakes, ticket: Ticket, id: u32, now: u64) -> FakeHold {
    arbiter.granted(ticket, Fake::new(id), at(now)).unwrap().0
}

fn entered(turn: Turn<FakeHold>) -> (FakeHold, u32) {
    match turn {
        Turn::Entered(hold, depth) => (hold, depth),
        other => panic!("{other:?}"),
    }
}

fn try_once(arbiter: &mut Fakes, owner: &Owner, mode: Mode, now: u64) -> Decision<FakeHold> {
    arbiter.request(owner, terms(mode), false, at(now), || 0).0
}

#[test]
fn an_owner_nests_and_the_last_share_releases() {
    let (mut arbiter, owner) = (arbiter(), Owner::new());
    let ticket = claim(&mut arbiter, &owner, Mode::Exclusive, 0);
    let hold = grant(&mut arbiter, ticket, 7, 0);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let decision = arbiter.request(&owner, terms(mode), true, at(1), || 0).0;
        assert!(matches!(decision, Decision::Entered(hold, _) if hold.grant == 7));
    }
    assert_eq!(arbiter.leave(hold.id, || at(2)).0, Some(2));
    assert_eq!(arbiter.leave(hold.id, || at(2)).0, Some(1));
    let (left, effects) = arbiter.leave(hold.id, || at(2));
    assert_eq!((left, effects.release.map(|grant| grant.id)), (Some(0), Some(7)));
    assert_eq!(arbiter.leave(hold.id, || at(2)).0, None);
}

#[test]
fn a_reader_that_wants_to_write_would_wait_for_itself() {
    let (mut arbiter, owner) = (arbiter(), Owner::new());
    let ticket = claim(&mut arbiter, &owner, Mode::Shared, 0);
    grant(&mut arbiter, ticket, 1, 0);
    assert!(matches!(arbiter.request(&owner, terms(Mode::Exclusive), true, at(0), || 0).0, Decision::Refused(_)));
}

#[test]
fn the_grant_goes_to_the_next_within_the_window_and_then_back() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let first = grant(&mut arbiter, ticket, 1, 0);
    let second = queue(&mut arbiter, &owners[1], Mode::Exclusive, 1, 22);
    let third = queue(&mut arbiter, &owners[2], Mode::Exclusive, 2, 33);

    let (_, effects) = arbiter.leave(first.id, || at(9));
    assert_eq!((effects.wake, effects.release.is_none()), (vec![22], true));
    let (hold, depth) = entered(arbiter.turn(second, || 0));
    assert_eq!((hold.grant, hold.handovers, depth), (1, 1, 1));

    let (_, effects) = arbiter.leave(hold.id, || at(10));
    assert_eq!((effects.wake, effects.release.map(|grant| grant.id)), (vec![33], Some(1)));
    assert!(matches!(arbiter.turn(third, || 0), Turn::Claim));
}

#[test]
fn other_terms_claim_early_and_are_not_handed_to() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let hold = grant(&mut arbiter, ticket, 1, 0);
    claim(&mut arbiter, &owners[1], Mode::Shared, 0);
    assert!(arbiter.leave(hold.id, || at(1)).1.release.is_some());
}

#[test]
fn a_waiter_that_will_not_be_handed_to_claims_when_it_is_nudged() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    grant(&mut arbiter, ticket, 1, 0);
    let waiting = queue(&mut arbiter, &owners[1], Mode::Exclusive, 1, 5);
    assert!(arbiter.wants_nudge() && !arbiter.wants_nudge(), "says so once");
    assert!(arbiter.nudge(at(9)).wake.is_empty());
    assert_eq!(arbiter.nudge(at(10)).wake, [5]);
    assert!(matches!(arbiter.turn(waiting, || 0), Turn::Claim));
}

#[test]
fn hand_overs_are_bounded_in_number_too() {
    let mut arbiter: Fakes = Arbiter::new(HandOver { time: Duration::from_secs(1), times: 2 });
    let owners: Vec<_> = (0..4).map(|_| Owner::new()).collect();
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let mut hold = grant(&mut arbiter, ticket, 1, 0);
    let tickets: Vec<_> = owners[1..].iter().map(|owner| queue(&mut arbiter, owner, Mode::Exclusive, 0, 0)).collect();
    for ticket in &tickets[..2] {
        assert!(arbiter.leave(hold.id, || at(0)).1.release.is_none());
        hold = entered(arbiter.turn(*ticket, || 0)).0;
    }
    assert!(arbiter.leave(hold.id, || at(0)).1.release.is_some());
    assert!(matches!(arbiter.turn(tickets[2], || 0), Turn::Claim));
}

#[test]
fn readers_join_until_a_writer_waits_or_the_window_closes() {
    let (mut arbiter, owners) = (arbiter(), (0..5).map(|_| Owner::new()).collect::<Vec<_>>());
    let ticket = claim(&mut arbiter, &owners[0], Mode::Shared, 0);
    grant(&mut arbiter, ticket, 1, 0);
    let joined = try_once(&mut arbiter, &owners[1], Mode::Shared, 1);
    assert!(matches!(joined, Decision::Entered(hold, 1) if hold.grant == 1));
    claim(&mut arbiter, &owners[2], Mode::Exclusive, 2);
    queue(&mut arbiter, &owners[3], Mode::Shared, 3, 0);
    assert!(matches!(try_once(&mut arbiter, &owners[4], Mode::Shared, 3), Decision::Busy));

    let mut late = super::tests::arbiter();
    let ticket = claim(&mut late, &owners[0], Mode::Shared, 0);
    grant(&mut late, ticket, 1, 0);
    claim(&mut late, &owners[1], Mode::Shared, 10);
}

#[test]
fn branches_of_one_task_do_not_wait_for_each_other() {
    let (mut arbiter, owner, other) = (arbiter(), Owner::new(), Owner::new());
    let first = claim(&mut arbiter, &owner, Mode::Exclusive, 0);
    let stranger = queue(&mut arbiter, &other, Mode::Exclusive, 0, 1);
    let second = queue(&mut arbiter, &owner, Mode::Exclusive, 0, 2);
    let (_, effects) = arbiter.granted(first, Fake::new(1), at(0)).unwrap();
    assert_eq!(effects.wake, [2]);
    assert_eq!(entered(arbiter.turn(second, || 0)).1, 2);
    assert!(matches!(arbiter.turn(stranger, || 0), Turn::Wait));
}

#[test]
fn a_cancelled_attempt_is_settled_before_the_next() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let first = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let second = queue(&mut arbiter, &owners[1], Mode::Exclusive, 0, 9);
    let (cancelled, effects) = arbiter.cancel(first, true, at(1));
    assert!(matches!(cancelled, Cancelled::Attempt) && effects.wake.is_empty());
    assert!(arbiter.granted(first, Fake::new(1), at(1)).is_err(), "a late grant goes back");
    assert!(matches!(arbiter.turn(second, || 9), Turn::Wait));
    assert_eq!(arbiter.settled(at(2)).wake, [9]);
    assert!(matches!(arbiter.turn(second, || 9), Turn::Claim));
}

#[test]
fn a_share_that_was_not_fetched_is_left() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let first = grant(&mut arbiter, ticket, 1, 0);
    let second = queue(&mut arbiter, &owners[1], Mode::Exclusive, 0, 0);
    arbiter.leave(first.id, || at(1));
    let (Cancelled::Hold(hold), _) = arbiter.cancel(second, false, at(1)) else { panic!("nothing to leave") };
    assert!(arbiter.leave(hold.id, || at(1)).1.release.is_some());
}

#[test]
fn a_lost_grant_is_neither_entered_nor_handed_over() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let fake = Fake::new(1);
    let (hold, _) = arbiter.granted(ticket, fake.clone(), at(0)).unwrap();
    let waiting = queue(&mut arbiter, &owners[1], Mode::Exclusive, 0, 4);
    fake.lost.set(true);
    let (lost, effects) = arbiter.purge(at(1));
    assert_eq!((lost.len(), effects.wake), (1, vec![4]));
    assert!(matches!(arbiter.turn(waiting, || 0), Turn::Claim));
    assert_eq!(arbiter.leave(hold.id, || at(1)).0, None);
    queue(&mut arbiter, &owners[0], Mode::Exclusive, 1, 0);
}

#[test]
fn trying_never_overtakes_and_waits_only_for_clean_up() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    assert!(matches!(try_once(&mut arbiter, &owners[1], Mode::Exclusive, 0), Decision::Busy));
    arbiter.cancel(ticket, true, at(0));
    assert!(matches!(try_once(&mut arbiter, &owners[1], Mode::Exclusive, 0), Decision::Queued(_)));
}

#[test]
fn long_holds_and_waits_are_told_of_once() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let minute = Duration::from_secs(60);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    grant(&mut arbiter, ticket, 1, 0);
    queue(&mut arbiter, &owners[1], Mode::Exclusive, 5, 0);
    assert_eq!(arbiter.overdue(minute, at(59_999)), (false, false));
    assert_eq!(arbiter.overdue(minute, at(60_000)), (true, false));
    assert_eq!(arbiter.overdue(minute, at(70_000)), (false, true));
    assert_eq!(arbiter.overdue(minute, at(80_000)), (false, false));
}

/// What one of the model's actors is doing.
#[derive(Debug, Default)]
enum Actor {
    #[default]
    Idle,
    Waiting(Ticket, Mode),
    Holding(FakeHold, Mode, u32),
}

/// A world of actors, each an owner of its own, around one arbiter and a backend that grants at random times.
struct World {
    arbiter: Fakes,
    owners: Vec<Owner>,
    actors: Vec<Actor>,
    /// The attempt at the backend, and grants that are out.
    attempt: Option<(usize, Ticket)>,
    settling: bool,
    granted: Vec<Fake>,
    now: u64,
    last_grant: u32,
    woken: HashSet<u32>,
}

impl World {
    fn new(actors: usize) -> Self {
        Self {
            arbiter: arbiter(),
            owners: (0..actors).map(|_| Owner::new()).collect(),
            actors: (0..actors).map(|_| Actor::Idle).collect(),
            attempt: None,
            settling: false,
            granted: Vec::new(),
            now: 0,
            last_grant: 0,
            woken: HashSet::new(),
        }
    }

    fn carry_out(&mut self, effects: Effects<Fake, u32>) {
        if let Some(released) = effects.release {
            let before = self.granted.len();
            self.granted.retain(|grant| grant.id != released.id);
            assert!(self.granted.len() < before || released.lost.get(), "released twice");
        }
        self.woken.extend(effects.wake);
    }

    fn now(&self) -> Timestamp {
        at(self.now)
    }

    fn claim(&mut self, actor: usize, ticket: Ticket) {
        assert!(self.attempt.is_none() && !self.settling, "two attempts at a time");
        self.attempt = Some((actor, ticket));
    }

    fn request(&mut self, actor: usize, mode: Mode, wait: bool) {
        if matches!(self.actors[actor], Actor::Waiting(..)) {
            return;
        }
        let (owner, now) = (self.owners[actor].clone(), self.now());
        let (decision, effects) = self.arbiter.request(&owner, terms(mode), wait, now, || actor as u32);
        self.carry_out(effects);
        match decision {
            Decision::Entered(hold, depth) => self.enter(actor, hold, depth, mode),
            Decision::Refused(_) => {
                assert!(matches!(&self.actors[actor], Actor::Holding(_, Mode::Shared, _)) && mode == Mode::Exclusive);
            }
            Decision::Busy => assert!(!wait),
            Decision::Queued(ticket) => self.actors[actor] = Actor::Waiting(ticket, mode),
            Decision::Claim(ticket) => {
                self.actors[actor] = Actor::Waiting(ticket, mode);
                self.claim(actor, ticket);
            }
        }
    }

    fn enter(&mut self, actor: usize, hold: FakeHold, depth: u32, mode: Mode) {
        let kept = match &self.actors[actor] {
            Actor::Holding(_, kept, _) => *kept,
            _ => mode,
        };
        assert!(self.granted.iter().any(|grant| grant.id == hold.grant), "a hold of no grant");
        self.actors[actor] = Actor::Holding(hold, kept, depth);
        let holding: Vec<_> = self
            .actors
            .iter()
            .filter_map(|actor| match actor {
                Actor::Holding(_, mode, _) => Some(*mode),
                _ => None,
            })
            .collect();
        assert!(holding.len() == 1 || holding.iter().all(|mode| *mode == Mode::Shared), "not alone: {holding:?}");
    }

    /// Those who were woken look what there is for them.
    fn turns(&mut self) {
        while let Some(actor) = self.woken.iter().next().copied() {
            self.woken.remove(&actor);
            let actor = actor as usize;
            let Actor::Waiting(ticket, mode) = self.actors[actor] else { continue };
            match self.arbiter.turn(ticket, || actor as u32) {
                Turn::Wait => {}
                Turn::Claim if self.attempt.is_none_or(|attempt| attempt != (actor, ticket)) => {
                    self.claim(actor, ticket)
                }
                Turn::Claim => {}
                Turn::Entered(hold, depth) => self.enter(actor, hold, depth, mode),
                Turn::Refused(reason) => panic!("each owner waits once: {reason}"),
            }
        }
    }

    fn answer(&mut self) {
        let Some((actor, ticket)) = self.attempt else { return };
        let Actor::Waiting(_, mode) = self.actors[actor] else { panic!("an attempt of nobody") };
        // What a backend would do: wait for the grants that are out.
        let fits = |grant: &Fake| mode == Mode::Shared && grant.id % 2 == 1;
        if !self.granted.iter().all(fits) {
            return;
        }
        self.attempt = None;
        self.last_grant += 2;
        let fake = Fake::new(self.last_grant + u32::from(mode == Mode::Shared));
        self.granted.push(fake.clone());
        let now = self.now();
        let (hold, effects) = self.arbiter.granted(ticket, fake, now).unwrap();
        self.carry_out(effects);
        self.enter(actor, hold, 1, mode);
    }

    fn leave(&mut self, actor: usize) {
        let Actor::Holding(hold, mode, depth) = &self.actors[actor] else { return };
        let (hold, mode, depth, now) = (hold.clone(), *mode, *depth, self.now());
        self.actors[actor] = Actor::Idle;
        let (left, effects) = self.arbiter.leave(hold.id, || now);
        assert_eq!(left, Some(depth - 1));
        if depth > 1 {
            self.actors[actor] = Actor::Holding(hold, mode, depth - 1);
        }
        self.carry_out(effects);
    }

    fn cancel(&mut self, actor: usize) {
        let Actor::Waiting(ticket, _) = self.actors[actor] else { return };
        let (now, sent) = (self.now(), self.attempt == Some((actor, ticket)));
        let (cancelled, effects) = self.arbiter.cancel(ticket, sent, now);
        self.actors[actor] = Actor::Idle;
        self.carry_out(effects);
        match cancelled {
            Cancelled::Nothing => assert!(!sent),
            Cancelled::Attempt => {
                self.attempt = None;
                self.settling = true;
            }
            Cancelled::Hold(hold) => {
                let (_, effects) = self.arbiter.leave(hold.id, || now);
                self.carry_out(effects);
            }
        }
    }

    fn settle(&mut self) {
        if std::mem::take(&mut self.settling) {
            let effects = self.arbiter.settled(self.now());
            self.carry_out(effects);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens in whatever order: exclusive holds are alone, there is one attempt at a time, and when all have left,
    /// nothing is left and all who waited got in.
    #[test]
    fn any_history_is_exclusive_and_ends_empty(steps in prop::collection::vec((0u8..9, 0usize..5, 0u64..8), 1..120)) {
        let mut world = World::new(5);
        for (step, actor, pause) in steps {
            world.now += pause;
            match step {
                0 | 1 => world.request(actor, Mode::Exclusive, true),
                2 => world.request(actor, Mode::Shared, true),
                3 => world.request(actor, Mode::Exclusive, false),
                4 => world.cancel(actor),
                5 => world.settle(),
                6 => world.answer(),
                _ => world.leave(actor),
            }
            world.turns();
        }
        for round in 0.. {
            prop_assert!(round < 1000, "somebody waits for ever");
            world.now += 20;
            world.settle();
            let now = world.now();
            let effects = world.arbiter.nudge(now);
            world.carry_out(effects);
            world.turns();
            world.answer();
            (0..world.actors.len()).for_each(|actor| world.leave(actor));
            world.turns();
            if world.actors.iter().all(|actor| matches!(actor, Actor::Idle)) {
                break;
            }
        }
        prop_assert_eq!(world.granted.len(), 0);
        prop_assert_eq!(world.arbiter.waiting(), 0);
        prop_assert!(world.arbiter.owners().next().is_none());
    }
}
