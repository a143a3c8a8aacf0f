//! The decisions of an acquire, without I/O: what to do after each answer.
//!
//! ⚠ Only a linearizable read shows that a claim is behind another one or no longer in its queue. Any read that has the claim and
//! nothing ahead of it shows that it holds the key, see [`Freshness::Serializable`].

use super::position::{Ahead, ClaimKey, Freshness, Position, SeenClaim};
use super::txn::PutOutcome;
use super::watch::hub::{Change, Notice};

/// What is known of the claim of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// It is not known to be in the queue.
    #[default]
    Unqueued,
    /// It is in the queue; its position is not known.
    Queued(ClaimKey),
    /// It is in the queue, behind others that are watched.
    Behind(Behind),
}

/// A claim behind others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    own: ClaimKey,
    ahead: Ahead,
    /// The latest revision at which what is ahead was as it is known.
    seen: i64,
    /// Whether the watch reports all changes of what is ahead, so that polling is rarely needed.
    is_trusted: bool,
}

impl Behind {
    /// Returns whether a change may have moved the claim.
    fn is_moved_by(&self, change: &Change) -> bool {
        let is_one = match &self.ahead {
            Ahead::Claim(ahead) => *ahead.claim.name == *change.name,
            Ahead::Slots(names) => {
                change.is_deletion() && names.iter().chain([&self.own.name]).any(|name| **name == *change.name)
            }
        };
        // Not of an earlier claim with the same name.
        is_one && change.at > self.seen
    }
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Put the claim into the queue.
    Put,
    /// Read the claim's position.
    Recheck { own: ClaimKey, freshness: Freshness },
    /// Watch this from now on, and nothing else.
    Watch { ahead: Ahead },
    /// Wait for a notice of the watch, or for the time of the next poll: soon if the watch is not trusted.
    Wait { is_trusted: bool },
    /// Find out whether the claim ahead was unchanged at this revision or later.
    Confirm { ahead: SeenClaim, since: i64 },
    /// Find out whether the claim ahead has changed.
    Poll { ahead: SeenClaim },
    /// Return the grant, which is proven at this revision. If others follow that have to know, touch the claim.
    Won { own: ClaimKey, proof: i64, is_followed: bool },
    /// Give up: the key is not free, and the attempt does not wait.
    Busy,
    /// Give up: the claim cannot hold the key any more.
    Lost(LostPart),
}

/// Why a claim cannot hold its key any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostPart {
    /// Its lease has ended.
    Lease,
    /// It was removed from its queue.
    Claim,
}

/// The answer to a [`Step`].
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// To [`Put`](Step::Put).
    Put(PutOutcome),
    /// To [`Recheck`](Step::Recheck): the position at a revision.
    Position { freshness: Freshness, position: Position, revision: i64 },
    /// To [`Watch`](Step::Watch).
    Watching,
    /// To [`Wait`](Step::Wait): a notice of the watch.
    Notice(Notice),
    /// To [`Wait`](Step::Wait): it is time to poll.
    PollDue,
    /// To [`Confirm`](Step::Confirm): whether the claim ahead is known to have been unchanged.
    Confirmed(bool),
    /// To [`Poll`](Step::Poll): whether the claim ahead is known to have changed.
    Polled { has_changed: bool },
}

/// Returns the next thing to do after an answer, and what is known then.
pub(super) fn next(state: State, answer: Answer) -> (State, Step) {
    match (state, answer) {
        (_, Answer::Put(PutOutcome::In { own, position })) => {
            let revision = own.create;
            positioned(State::Queued(own), position, revision)
        }
        // An earlier copy of the request has put it, and its answer was lost.
        (_, Answer::Put(PutOutcome::Already { own })) => recheck(State::Queued(own.clone()), own),
        (state, Answer::Put(PutOutcome::Stale { .. } | PutOutcome::Refused | PutOutcome::Room { .. })) => {
            (state, Step::Put)
        }
        (state, Answer::Put(PutOutcome::Rewound | PutOutcome::Over)) => (state, Step::Lost(LostPart::Lease)),
        (state, Answer::Put(PutOutcome::Busy(_))) => (state, Step::Busy),
        // Any other answer is for a claim in the queue.
        (State::Unqueued, _) => (State::Unqueued, Step::Put),
        (state, Answer::Position { freshness, position, revision })
            if freshness == Freshness::Linearizable || matches!(position, Position::First | Position::Followed) =>
        {
            positioned(state, position, revision)
        }
        (State::Behind(behind), answer) => waiting(behind, answer),
        (State::Queued(own), _) => recheck(State::Queued(own.clone()), own),
    }
}

/// After an answer that decides on the position of a claim.
fn positioned(state: State, position: Position, revision: i64) -> (State, Step) {
    match (state, position) {
        (State::Unqueued, _) => (State::Unqueued, Step::Put),
        (State::Queued(own) | State::Behind(Behind { own, .. }), position @ (Position::First | Position::Followed)) => {
            let is_followed = position == Position::Followed;
            (State::Queued(own.clone()), Step::Won { own, proof: revision, is_followed })
        }
        (state, Position::Missing) => (state, Step::Lost(LostPart::Claim)),
        (State::Behind(behind), Position::Behind(ahead)) if behind.ahead.is_watched_like(&ahead) => {
            wait(Behind { ahead, seen: revision, ..behind })
        }
        (State::Queued(own) | State::Behind(Behind { own, .. }), Position::Behind(ahead)) => {
            let step = Step::Watch { ahead: ahead.clone() };
            (State::Behind(Behind { own, ahead, seen: revision, is_trusted: false }), step)
        }
        (State::Queued(own), Position::Unclear { .. }) => recheck(State::Queued(own.clone()), own),
        (State::Behind(behind), Position::Unclear { .. }) => recheck_behind(behind),
    }
}

/// After what is heard of what is ahead.
fn waiting(behind: Behind, answer: Answer) -> (State, Step) {
    match answer {
        // Of an earlier claim with the same name.
        Answer::Notice(Notice::Deleted(at)) if at <= behind.seen => wait(behind),
        Answer::Notice(Notice::Changed(changes)) if !changes.iter().any(|change| behind.is_moved_by(change)) => {
            wait(behind)
        }
        Answer::Notice(Notice::Deleted(_) | Notice::Changed(_)) => {
            let step = Step::Recheck { own: behind.own.clone(), freshness: Freshness::Serializable };
            (State::Behind(behind), step)
        }
        // The watch may have begun after the change.
        Answer::Notice(Notice::Created(since)) if since > behind.seen => {
            let behind = Behind { is_trusted: true, ..behind };
            match behind.ahead.clone() {
                Ahead::Claim(ahead) => (State::Behind(behind), Step::Confirm { ahead, since }),
                Ahead::Slots(_) => recheck_behind(behind),
            }
        }
        Answer::Notice(Notice::Created(_)) => wait(Behind { is_trusted: true, ..behind }),
        Answer::Notice(Notice::Recreated) => recheck_behind(Behind { is_trusted: true, ..behind }),
        Answer::Notice(Notice::Down) => wait(Behind { is_trusted: false, ..behind }),
        Answer::PollDue => match behind.ahead.clone() {
            Ahead::Claim(ahead) => (State::Behind(behind), Step::Poll { ahead }),
            Ahead::Slots(_) => recheck_behind(behind),
        },
        Answer::Watching | Answer::Confirmed(true) | Answer::Polled { has_changed: false } => wait(behind),
        Answer::Confirmed(false) | Answer::Polled { has_changed: true } => recheck_behind(behind),
        // A read that is not linearizable, and does not show that the claim is first.
        Answer::Position { .. } | Answer::Put(_) => recheck_behind(behind),
    }
}

fn wait(behind: Behind) -> (State, Step) {
    let is_trusted = behind.is_trusted;
    (State::Behind(behind), Step::Wait { is_trusted })
}

fn recheck_behind(behind: Behind) -> (State, Step) {
    let own = behind.own.clone();
    recheck(State::Behind(behind), own)
}

fn recheck(state: State, own: ClaimKey) -> (State, Step) {
    (state, Step::Recheck { own, freshness: Freshness::Linearizable })
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbKeyValue;

    use super::super::names::Name;
    use super::*;

    const FRESH: Freshness = Freshness::Linearizable;
    const STALE: Freshness = Freshness::Serializable;

    fn key(name: &str, create: i64) -> ClaimKey {
        ClaimKey { name: name.as_bytes().into(), create }
    }

    fn own() -> ClaimKey {
        key("own", 10)
    }

    fn seen_claim(name: &str, create: i64) -> SeenClaim {
        SeenClaim { claim: key(name, create), is_waiting: false }
    }

    fn ahead() -> SeenClaim {
        seen_claim("ahead", 5)
    }

    fn behind_of(ahead: Ahead, seen: i64, is_trusted: bool) -> State {
        State::Behind(Behind { own: own(), ahead, seen, is_trusted })
    }

    fn behind(seen: i64, is_trusted: bool) -> State {
        behind_of(Ahead::Claim(ahead()), seen, is_trusted)
    }

    fn queued() -> State {
        State::Queued(own())
    }

    fn rechecks(freshness: Freshness) -> Step {
        Step::Recheck { own: own(), freshness }
    }

    fn position(freshness: Freshness, position: Position) -> Answer {
        Answer::Position { freshness, position, revision: 20 }
    }

    fn check(cases: Vec<(State, Answer, (State, Step))>) {
        for (state, answer, expected) in cases {
            assert_eq!(next(state.clone(), answer.clone()), expected, "{answer:?} in {state:?}");
        }
    }

    #[test]
    fn after_the_claim_was_sent() {
        let put = |outcome| (State::Unqueued, Answer::Put(outcome));
        let queued_at = |position| put(PutOutcome::In { own: own(), position });
        let cases = [
            (queued_at(Position::First), (queued(), Step::Won { own: own(), proof: 10, is_followed: false })),
            (
                queued_at(Position::Behind(Ahead::Claim(ahead()))),
                (behind(10, false), Step::Watch { ahead: Ahead::Claim(ahead()) }),
            ),
            // It was put by a copy: only another read shows its position.
            (put(PutOutcome::Already { own: own() }), (queued(), rechecks(FRESH))),
            (put(PutOutcome::Stale { version: 3 }), (State::Unqueued, Step::Put)),
            (put(PutOutcome::Refused), (State::Unqueued, Step::Put)),
            (put(PutOutcome::Rewound), (State::Unqueued, Step::Lost(LostPart::Lease))),
            (put(PutOutcome::Over), (State::Unqueued, Step::Lost(LostPart::Lease))),
            (put(PutOutcome::Busy(None)), (State::Unqueued, Step::Busy)),
        ];
        check(cases.into_iter().map(|((state, answer), expected)| (state, answer, expected)).collect());
    }

    #[test]
    fn after_the_position_was_read() {
        let other = Ahead::Claim(seen_claim("other", 7));
        let moved = behind_of(other.clone(), 20, false);
        let won = (queued(), Step::Won { own: own(), proof: 20, is_followed: false });
        check(vec![
            (queued(), position(FRESH, Position::First), won.clone()),
            (behind(15, true), position(FRESH, Position::First), won.clone()),
            // Enough, whichever member has answered.
            (behind(15, true), position(STALE, Position::First), won),
            // The claim was removed while it waited: it must not wait for ever, nor believe that it is first later.
            (queued(), position(FRESH, Position::Missing), (queued(), Step::Lost(LostPart::Claim))),
            (behind(15, true), position(FRESH, Position::Missing), (behind(15, true), Step::Lost(LostPart::Claim))),
            (
                behind(15, true),
                position(FRESH, Position::Behind(Ahead::Claim(ahead()))),
                (behind(20, true), Step::Wait { is_trusted: true }),
            ),
            (
                behind(15, true),
                position(FRESH, Position::Behind(other.clone())),
                (moved.clone(), Step::Watch { ahead: other.clone() }),
            ),
            (queued(), position(FRESH, Position::Behind(other.clone())), (moved, Step::Watch { ahead: other })),
            // A member that lags behind decides nothing else.
            (
                behind(15, true),
                position(STALE, Position::Behind(Ahead::Claim(ahead()))),
                (behind(15, true), rechecks(FRESH)),
            ),
            (behind(15, true), position(STALE, Position::Missing), (behind(15, true), rechecks(FRESH))),
        ]);
    }

    #[test]
    fn while_the_claim_ahead_is_watched() {
        let notice = |notice| Answer::Notice(notice);
        let waits = |seen, is_trusted| (behind(seen, is_trusted), Step::Wait { is_trusted });
        check(vec![
            (behind(15, false), Answer::Watching, waits(15, false)),
            (behind(15, true), notice(Notice::Deleted(16)), (behind(15, true), rechecks(STALE))),
            // Of an earlier claim with the name.
            (behind(15, true), notice(Notice::Deleted(15)), waits(15, true)),
            // From before the claim was seen, so no deletion can be missed.
            (behind(15, false), notice(Notice::Created(15)), waits(15, true)),
            (
                behind(15, false),
                notice(Notice::Created(16)),
                (behind(15, true), Step::Confirm { ahead: ahead(), since: 16 }),
            ),
            (behind(15, true), Answer::Confirmed(true), waits(15, true)),
            (behind(15, true), Answer::Confirmed(false), (behind(15, true), rechecks(FRESH))),
            // After a gap of the watch.
            (behind(15, true), notice(Notice::Down), waits(15, false)),
            (behind(15, false), notice(Notice::Recreated), (behind(15, true), rechecks(FRESH))),
            (behind(15, false), Answer::PollDue, (behind(15, false), Step::Poll { ahead: ahead() })),
            (behind(15, false), Answer::Polled { has_changed: false }, waits(15, false)),
            (behind(15, false), Answer::Polled { has_changed: true }, (behind(15, false), rechecks(FRESH))),
        ]);
    }

    #[test]
    fn while_slots_are_watched() {
        let name = |text: &str| -> Name { Name::from(text.as_bytes()) };
        let slots = |names: &[&str]| Ahead::Slots(names.iter().map(|text| name(text)).collect());
        let waiting = Ahead::Claim(SeenClaim { is_waiting: true, ..ahead() });
        let [of_slots, of_waiting] = [slots(&["a", "b"]), waiting.clone()].map(|ahead| behind_of(ahead, 15, true));
        let waits = |state: &State| (state.clone(), Step::Wait { is_trusted: true });
        let looks = |state: &State| (state.clone(), rechecks(STALE));
        let changed = |text: &str, at, is_deletion: bool| {
            let key =
                PbKeyValue { key: text.as_bytes().to_vec(), mod_revision: at, version: 2, ..PbKeyValue::default() };
            Answer::Notice(Notice::Changed(vec![Change { name: name(text), at, put: (!is_deletion).then_some(key) }]))
        };
        let fewer = position(FRESH, Position::Behind(slots(&["b"])));
        check(vec![
            (of_slots.clone(), changed("a", 16, true), looks(&of_slots)),
            (of_slots.clone(), changed("own", 16, true), looks(&of_slots)),
            // Of an earlier one with the name, of a waiter behind, and a touch.
            (of_slots.clone(), changed("a", 15, true), waits(&of_slots)),
            (of_slots.clone(), changed("c", 16, true), waits(&of_slots)),
            (of_slots.clone(), changed("a", 16, false), waits(&of_slots)),
            (of_slots.clone(), Answer::PollDue, (of_slots.clone(), rechecks(FRESH))),
            (of_slots.clone(), Answer::Notice(Notice::Created(16)), (of_slots.clone(), rechecks(FRESH))),
            (of_slots.clone(), fewer, waits(&behind_of(slots(&["b"]), 20, true))),
            (of_waiting.clone(), changed("ahead", 16, false), looks(&of_waiting)),
            (of_waiting.clone(), changed("ahead", 16, true), looks(&of_waiting)),
            (
                of_waiting.clone(),
                position(FRESH, Position::Behind(slots(&["ahead"]))),
                (behind_of(slots(&["ahead"]), 20, false), Step::Watch { ahead: slots(&["ahead"]) }),
            ),
            (
                of_waiting.clone(),
                position(STALE, Position::Followed),
                (queued(), Step::Won { own: own(), proof: 20, is_followed: true }),
            ),
            (of_waiting.clone(), position(FRESH, Position::Unclear { limit: 9 }), (of_waiting, rechecks(FRESH))),
            (
                State::Unqueued,
                Answer::Put(PutOutcome::In { own: own(), position: Position::Unclear { limit: 9 } }),
                (queued(), rechecks(FRESH)),
            ),
        ]);
    }

    /// Whatever is answered in whatever state, only a read that shows the claim as first wins.
    #[test]
    fn nothing_but_a_read_of_the_own_claim_wins() {
        let answers = [
            Answer::Put(PutOutcome::Already { own: own() }),
            Answer::Put(PutOutcome::Stale { version: 3 }),
            Answer::Put(PutOutcome::Refused),
            Answer::Put(PutOutcome::Busy(None)),
            position(FRESH, Position::Behind(Ahead::Claim(ahead()))),
            position(STALE, Position::Missing),
            Answer::Watching,
            Answer::Notice(Notice::Deleted(30)),
            Answer::Notice(Notice::Created(30)),
            Answer::Notice(Notice::Recreated),
            Answer::Notice(Notice::Down),
            Answer::PollDue,
            Answer::Confirmed(true),
            Answer::Confirmed(false),
            Answer::Polled { has_changed: true },
        ];
        for state in [State::Unqueued, queued(), behind(15, true), behind(15, false)] {
            for answer in &answers {
                let (_, step) = next(state.clone(), answer.clone());
                assert!(!matches!(step, Step::Won { .. }), "{answer:?} in {state:?}");
            }
        }
        let unqueued = next(State::Unqueued, position(FRESH, Position::First));
        assert_eq!(unqueued, (State::Unqueued, Step::Put), "it has no claim");
    }
}
