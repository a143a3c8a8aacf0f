//! Unit tests of the arbiter.

use std::cell::Cell;
use std::rc::Rc;

use super::*;

const TTL: Duration = Duration::from_secs(30);
const HAND_OVER: Handover = Handover { time: Duration::from_millis(10), times: 1023 };

pub(super) fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(0) + Duration::from_millis(millis)
}

pub(super) fn terms(mode: Mode) -> Terms {
    Terms { mode, limit: None, value: None, ttl: TTL, isolated: false, auto_renew: true, max_hold: None }
}

/// A grant that is lost on demand.
#[derive(Clone, Debug)]
pub(super) struct Fake {
    pub(super) id: u32,
    pub(super) lost: Rc<Cell<bool>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct FakeHold {
    pub(super) id: HoldId,
    pub(super) grant: u32,
    pub(super) handovers: u16,
}

impl Fake {
    pub(super) fn new(id: u32) -> Self {
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

pub(super) type Fakes = Arbiter<Fake, u32>;

pub(super) fn arbiter() -> Fakes {
    Arbiter::new(HAND_OVER)
}

/// Requests a hold, and expects to have to claim.
fn claim(arbiter: &mut Fakes, owner: &Owner, mode: Mode, now: u64) -> Ticket {
    match arbiter.request(owner, &terms(mode), true, at(now), || 0).0 {
        Decision::Claim(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn queue(arbiter: &mut Fakes, owner: &Owner, mode: Mode, now: u64, waker: u32) -> Ticket {
    match arbiter.request(owner, &terms(mode), true, at(now), || waker).0 {
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
    arbiter.request(owner, &terms(mode), false, at(now), || 0).0
}

#[test]
fn an_owner_nests_and_the_last_share_releases() {
    let (mut arbiter, owner) = (arbiter(), Owner::new());
    let ticket = claim(&mut arbiter, &owner, Mode::Exclusive, 0);
    let hold = grant(&mut arbiter, ticket, 7, 0);
    for mode in [Mode::Exclusive, Mode::Shared] {
        let decision = arbiter.request(&owner, &terms(mode), true, at(1), || 0).0;
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
    assert!(matches!(arbiter.request(&owner, &terms(Mode::Exclusive), true, at(0), || 0).0, Decision::Refused(_)));
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
    assert!(arbiter.wants_nudge() && !arbiter.wants_nudge(), "true only once");
    assert!(arbiter.nudge(at(9)).wake.is_empty());
    assert_eq!(arbiter.nudge(at(10)).wake, [5]);
    assert!(matches!(arbiter.turn(waiting, || 0), Turn::Claim));
}

#[test]
fn handovers_are_bounded_in_number_too() {
    let mut arbiter: Fakes = Arbiter::new(Handover { time: Duration::from_secs(1), times: 2 });
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
fn a_cancelled_attempt_is_aborted_before_the_next() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let first = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let second = queue(&mut arbiter, &owners[1], Mode::Exclusive, 0, 9);
    let (cancelled, effects) = arbiter.cancel(first, true, at(1));
    assert!(matches!(cancelled, Cancelled::Attempt) && effects.wake.is_empty());
    assert!(arbiter.granted(first, Fake::new(1), at(1)).is_err(), "a late grant is returned");
    assert!(matches!(arbiter.turn(second, || 9), Turn::Wait));
    assert_eq!(arbiter.aborted(at(2)).wake, [9]);
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
fn long_holds_and_waits_are_reported_once() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let minute = Duration::from_secs(60);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    grant(&mut arbiter, ticket, 1, 0);
    queue(&mut arbiter, &owners[1], Mode::Exclusive, 5, 0);
    let report = |held, waited| SlowReport { held, waited, own: false };
    assert_eq!(arbiter.report_slow(minute, at(59_999)), report(false, false));
    assert_eq!(arbiter.report_slow(minute, at(60_000)), report(true, false));
    assert_eq!(arbiter.report_slow(minute, at(70_000)), report(false, true));
    assert_eq!(arbiter.report_slow(minute, at(80_000)), report(false, false));
}

#[test]
fn a_waiter_that_queues_again_enters_what_its_owner_holds_by_then() {
    let (mut arbiter, owners) = (arbiter(), [Owner::new(), Owner::new()]);
    let ticket = claim(&mut arbiter, &owners[0], Mode::Exclusive, 0);
    let lost = Fake::new(1);
    let (first, _) = arbiter.granted(ticket, lost.clone(), at(0)).unwrap();
    let slow = queue(&mut arbiter, &owners[1], Mode::Exclusive, 0, 1);
    arbiter.leave(first.id, || at(1));
    lost.lost.set(true);
    // Another branch of the same owner is faster.
    let ticket = claim(&mut arbiter, &owners[1], Mode::Exclusive, 2);
    let held = grant(&mut arbiter, ticket, 2, 2);
    let (given, _) = entered(arbiter.turn(slow, || 1));
    arbiter.leave(given.id, || at(3));
    arbiter.purge(at(3));
    let (again, effects) = arbiter.requeue(&owners[1], terms(Mode::Exclusive), at(3));
    assert!(effects.wake.is_empty() && effects.release.is_none());
    assert_eq!(entered(arbiter.turn(again, || 1)), (held, 2));
}
