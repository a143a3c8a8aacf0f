//! What an attempt believes of messages, answers and looks, without a server.

use std::task::{Context, Poll, Waker};

use super::super::answers::AcquireAnswer;
use super::super::place::{Looked, NextPoll, Seen, Won};
use super::super::stage::Outcome;
use super::super::value::{ClaimText, Writer};
use super::*;
use crate::backend::{LeaseId, Limit, Timestamp};

const EPOCH: u64 = 1_800_000_000_000_000;

/// An attempt that waits, and its times.
struct Waiter {
    attempt: Attempt,
    now: Timestamp,
}

impl Waiter {
    /// One whose first request was sent, and not answered yet.
    fn asking() -> Self {
        let now = Timestamp::from_nanos(1_000_000_000_000);
        let lease = Lease::new(LeaseId(1), TTL, now, LeaseScope::Session);
        let claim = Claim::new(AttemptId(7), "k".into(), Mode::Exclusive, lease, Arc::new(Holder::new("n", "h", 1)));
        let name = Names::new("lock:".into()).of("k").unwrap();
        let attempt = Attempt::new(&claim, name, ClaimText::new(&Writer::new(1), &claim), Wait::UntilGranted);
        assert!(attempt.begin_request() && attempt.sending(now));
        Self { attempt, now }
    }

    /// One that was answered "queued".
    fn queued() -> Self {
        let waiter = Self::asking();
        waiter.answer_queued(EPOCH);
        waiter
    }

    fn answer_queued(&self, clock: u64) {
        let left = Some(Duration::from_secs(5));
        let answer = AcquireAnswer::Queued { left, first: true, foreign: false, clock, place: EPOCH };
        self.attempt.answered(answer, self.now, tokio::time::Instant::now());
    }

    fn ask(&self) {
        assert!(self.attempt.begin_request() && self.attempt.sending(self.now));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn look(&self, value: &str, place: Option<bool>) -> Looked {
        self.attempt.begin_look(place.is_some()).expect("it waits");
        let seen = Seen { value: value.as_bytes().to_vec(), place, shares: false, leads: false };
        self.attempt.looked(Some(&seen), self.now, tokio::time::Instant::now())
    }

    fn granted(&self) -> Option<u64> {
        match self.attempt.poll(&mut Context::from_waker(Waker::noop()), self.now) {
            Poll::Ready(Outcome::Granted(won)) => Some(won.epoch),
            _ => None,
        }
    }
}

/// The value of another attempt with this epoch.
fn another(epoch: u64) -> String {
    format!("{:016x}:{:016x}:x2:{epoch}:10000:1:1:h:n::", 2, 8)
}

/// In a cluster a lease is proven by the nodes that answer, and promises more than a node without an answer has confirmed.
#[test]
fn a_confirmation_lifts_a_limit_only_if_it_is_later_than_the_renewal_that_failed() {
    let waiter = Waiter::asking();
    waiter.attempt.answered(AcquireAnswer::Granted(EPOCH), waiter.now, tokio::time::Instant::now());
    assert_eq!(waiter.granted(), Some(EPOCH));
    let (limit, at) = (Limit::lifted(TTL), |seconds| waiter.now + Duration::from_secs(seconds));
    assert!(waiter.attempt.hold(Won { epoch: EPOCH, dated: at(0), ttl: TTL }, Some(limit.clone())));
    assert!(waiter.attempt.unconfirmed(at(3)));
    assert!(limit.until() <= at(0) + TTL);
    // One that was sent before, and is answered late: the hold is certain for longer, but not for as long as the lease.
    assert!(!waiter.attempt.confirmed(at(2)));
    assert!(limit.is_set() && limit.until() > at(1) + TTL && limit.until() <= at(2) + TTL);
    assert!(!waiter.attempt.unconfirmed(at(5)), "it has a limit already");
    assert!(!waiter.attempt.confirmed(at(4)));
    assert!(waiter.attempt.confirmed(at(6)));
    assert!(!limit.is_set());
}

#[test]
fn a_message_is_believed_if_it_is_later_than_the_answers() {
    for (epoch, believed) in
        [(EPOCH + 1, true), (EPOCH, false), (EPOCH - 1, false), (EPOCH + 86_400_000_000, false), ((1 << 53) - 1, false)]
    {
        let waiter = Waiter::queued();
        assert_eq!(waiter.attempt.handed_over(epoch), !believed, "{epoch}: asked instead");
        assert_eq!(waiter.granted(), believed.then_some(epoch));
    }
}

#[test]
fn a_message_about_what_a_look_has_shown_to_be_over_is_not_believed() {
    let mut waiter = Waiter::queued();
    // It was given the lock and did not run; meanwhile that ended, and another one was given it.
    waiter.pass(Duration::from_secs(5));
    assert!(matches!(waiter.look(&another(EPOCH + 10), None), Looked::PollNew(_)));
    assert!(waiter.attempt.handed_over(EPOCH + 5));
    assert_eq!(waiter.granted(), None);
}

#[test]
fn a_grant_by_message_counts_from_the_last_look_that_found_another() {
    let mut waiter = Waiter::queued();
    waiter.pass(Duration::from_secs(5));
    assert!(!waiter.attempt.handed_over(EPOCH + 1));
    assert_eq!(waiter.granted(), None, "it may have ended: to be verified");
    let mut waiter = Waiter::queued();
    waiter.pass(Duration::from_secs(5));
    assert!(matches!(waiter.look(&another(EPOCH), None), Looked::Poll(_)));
    waiter.pass(Duration::from_millis(900));
    assert!(!waiter.attempt.handed_over(EPOCH + 1));
    assert_eq!(waiter.granted(), Some(EPOCH + 1));
}

#[test]
fn a_look_is_due_when_the_handover_to_a_new_holder_ends() {
    let waiter = Waiter::queued();
    let begun = tokio::time::Instant::now();
    assert!(matches!(waiter.look(&another(EPOCH + 1), None), Looked::PollNew(_)));
    // After the next look.
    let end = begun + Duration::from_millis(1_400);
    assert_eq!(waiter.attempt.handover_ends(end), None);
    waiter.attempt.begin_look(false).expect("it waits");
    let seen = Seen { value: another(EPOCH + 1).into_bytes(), place: None, shares: false, leads: false };
    let later = begun + Duration::from_millis(900);
    assert_eq!(waiter.attempt.looked(Some(&seen), waiter.now, later), Looked::Poll(end));
    // The next holder has another end.
    assert!(matches!(waiter.look(&another(EPOCH + 2), None), Looked::PollNew(at) if at != end));
}

#[test]
fn a_second_message_is_only_a_hint() {
    let mut waiter = Waiter::queued();
    assert!(!waiter.attempt.handed_over(EPOCH + 1));
    waiter.pass(Duration::from_secs(3));
    assert_eq!(waiter.granted(), None, "to be verified");
    waiter.ask();
    waiter.answer_queued(EPOCH + 2);
    // Whoever has heard the first message knows the id.
    assert!(waiter.attempt.handed_over(EPOCH + 3));
    assert_eq!(waiter.granted(), None);
}

#[test]
fn a_message_is_only_a_hint_after_one_that_may_have_been_lost() {
    let waiter = Waiter::queued();
    // Others may have heard the lost one, which contained the id.
    waiter.attempt.miss_messages();
    waiter.ask();
    waiter.answer_queued(EPOCH + 2);
    assert!(waiter.attempt.handed_over(EPOCH + 3), "to be asked");
    assert_eq!(waiter.granted(), None);
    let waiter = Waiter::asking();
    waiter.attempt.miss_messages();
    assert!(waiter.attempt.handed_over(EPOCH + 3));
    waiter.answer_queued(EPOCH);
    assert_eq!(waiter.granted(), None);
}

/// The answer may be older than the message, which nothing repeats.
#[test]
fn a_hint_that_overtakes_an_answer_is_not_forgotten() {
    let second_message = |attempt: &Attempt| {
        attempt.handed_over(EPOCH + 1);
        assert!(attempt.handed_over(EPOCH + 3));
    };
    for hint in [Attempt::miss_messages, second_message] {
        let waiter = Waiter::asking();
        hint(&waiter.attempt);
        // What came before is over.
        waiter.answer_queued(EPOCH + 2);
        let (next, now) = (waiter.attempt.next_poll(), tokio::time::Instant::now());
        assert!(matches!(next, NextPoll::At { at, asks: true } if at <= now), "{next:?}");
        waiter.ask();
        waiter.answer_queued(EPOCH + 2);
        let next = waiter.attempt.next_poll();
        assert!(matches!(next, NextPoll::At { at, asks: false } if at > now), "once: {next:?}");
    }
}

#[test]
fn a_message_that_overtakes_the_first_answer_counts_with_it() {
    let waiter = Waiter::asking();
    assert!(!waiter.attempt.handed_over(EPOCH + 1));
    assert_eq!(waiter.granted(), None, "nothing tells yet which epochs are later");
    waiter.answer_queued(EPOCH);
    assert_eq!(waiter.granted(), Some(EPOCH + 1));
    let waiter = Waiter::asking();
    assert!(!waiter.attempt.handed_over(EPOCH));
    waiter.answer_queued(EPOCH);
    assert_eq!(waiter.granted(), None);
}

#[test]
fn a_look_asks_where_the_lock_may_be_its_own_or_the_place_is_lost() {
    let waiter = Waiter::queued();
    let own = waiter.attempt.claim.with(EPOCH + 1);
    for (value, place) in [
        (&*own, None),
        ("5f0c6a2e8d", None),
        (&*another(EPOCH), Some(false)),
        ("0000000000000005:0000000000000abc:x3:later", None),
    ] {
        assert_eq!(waiter.look(value, place), Looked::Ask, "{value}");
    }
    assert!(matches!(waiter.look(&another(EPOCH), Some(true)), Looked::Poll(_)));
    assert!(matches!(waiter.look(&format!("shared:2:{EPOCH}"), None), Looked::Poll(_)));
    assert_eq!(waiter.attempt.looked(None, waiter.now, tokio::time::Instant::now()), Looked::Ask, "it is free");
}
