//! The decisions of an acquire, without I/O: what to do after each answer.
//!
//! ⚠ Only a linearizable read shows that a claim is behind another one or no longer in its queue. Any read that has the claim and
//! nothing ahead of it shows that it holds the key, see [`Freshness::Serializable`].

use super::names::Name;
use super::txn::{ClaimKey, Freshness, Position, PutOutcome};
use super::watch::hub::Notice;

/// What is known of the claim of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// It is not known to be in the queue.
    #[default]
    Unqueued,
    /// It is in the queue; its position is not known.
    Queued(ClaimKey),
    /// It is in the queue, behind a claim that is watched.
    Behind(Behind),
}

/// A claim behind another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    own: ClaimKey,
    ahead: ClaimKey,
    /// The latest revision at which the claim ahead was there.
    seen: i64,
    /// Whether the watch reports the deletion of the claim ahead, so that polling is rarely needed.
    is_trusted: bool,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Put the claim into the queue.
    Put,
    /// Read the claim's position.
    Recheck { own: ClaimKey, freshness: Freshness },
    /// Watch this name from now on, and nothing else.
    Watch { name: Name },
    /// Wait for a notice of the watch, or for the time of the next poll: soon if the watch is not trusted.
    Wait { is_trusted: bool },
    /// Find out whether the claim ahead was there at this revision or later.
    Confirm { ahead: ClaimKey, since: i64 },
    /// Find out whether the claim ahead was removed.
    Poll { ahead: ClaimKey },
    /// Return the grant, which is proven at this revision.
    Won { own: ClaimKey, proof: i64 },
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
    /// To [`Confirm`](Step::Confirm): whether the claim ahead is known to have been there.
    Confirmed(bool),
    /// To [`Poll`](Step::Poll): whether the claim ahead is known to have been removed.
    Polled { is_removed: bool },
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
        (state, Answer::Put(PutOutcome::Stale { .. } | PutOutcome::Refused)) => (state, Step::Put),
        (state, Answer::Put(PutOutcome::Rewound | PutOutcome::Over)) => (state, Step::Lost(LostPart::Lease)),
        (state, Answer::Put(PutOutcome::Busy(_))) => (state, Step::Busy),
        // Any other answer is for a claim in the queue.
        (State::Unqueued, _) => (State::Unqueued, Step::Put),
        (state, Answer::Position { freshness, position, revision })
            if freshness == Freshness::Linearizable || position == Position::First =>
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
        (State::Queued(own) | State::Behind(Behind { own, .. }), Position::First) => {
            (State::Queued(own.clone()), Step::Won { own, proof: revision })
        }
        (state, Position::Missing) => (state, Step::Lost(LostPart::Claim)),
        (State::Behind(behind), Position::Behind(ahead)) if behind.ahead == ahead => {
            wait(Behind { seen: revision, ..behind })
        }
        (State::Queued(own) | State::Behind(Behind { own, .. }), Position::Behind(ahead)) => {
            let name = ahead.name.clone();
            (State::Behind(Behind { own, ahead, seen: revision, is_trusted: false }), Step::Watch { name })
        }
        (State::Unqueued, _) => (State::Unqueued, Step::Put),
    }
}

/// After what is heard of the claim ahead.
fn waiting(behind: Behind, answer: Answer) -> (State, Step) {
    match answer {
        // Of an earlier claim with the same name.
        Answer::Notice(Notice::Deleted(at)) if at <= behind.seen => wait(behind),
        Answer::Notice(Notice::Deleted(_)) => {
            let step = Step::Recheck { own: behind.own.clone(), freshness: Freshness::Serializable };
            (State::Behind(behind), step)
        }
        // The watch may have begun after the deletion.
        Answer::Notice(Notice::Created(since)) if since > behind.seen => {
            let step = Step::Confirm { ahead: behind.ahead.clone(), since };
            (State::Behind(Behind { is_trusted: true, ..behind }), step)
        }
        Answer::Notice(Notice::Created(_)) => wait(Behind { is_trusted: true, ..behind }),
        Answer::Notice(Notice::Recreated) => recheck_behind(Behind { is_trusted: true, ..behind }),
        Answer::Notice(Notice::Down) => wait(Behind { is_trusted: false, ..behind }),
        Answer::PollDue => {
            let step = Step::Poll { ahead: behind.ahead.clone() };
            (State::Behind(behind), step)
        }
        Answer::Watching | Answer::Confirmed(true) | Answer::Polled { is_removed: false } => wait(behind),
        Answer::Confirmed(false) | Answer::Polled { is_removed: true } => recheck_behind(behind),
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
    use super::*;

    const FRESH: Freshness = Freshness::Linearizable;
    const STALE: Freshness = Freshness::Serializable;

    fn key(name: &str, create: i64) -> ClaimKey {
        ClaimKey { name: name.as_bytes().into(), create }
    }

    fn own() -> ClaimKey {
        key("own", 10)
    }

    fn ahead() -> ClaimKey {
        key("ahead", 5)
    }

    fn behind(seen: i64, is_trusted: bool) -> State {
        State::Behind(Behind { own: own(), ahead: ahead(), seen, is_trusted })
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
            (queued_at(Position::First), (queued(), Step::Won { own: own(), proof: 10 })),
            (queued_at(Position::Behind(ahead())), (behind(10, false), Step::Watch { name: ahead().name })),
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
        let other = key("other", 7);
        let moved = State::Behind(Behind { own: own(), ahead: other.clone(), seen: 20, is_trusted: false });
        let won = (queued(), Step::Won { own: own(), proof: 20 });
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
                position(FRESH, Position::Behind(ahead())),
                (behind(20, true), Step::Wait { is_trusted: true }),
            ),
            (
                behind(15, true),
                position(FRESH, Position::Behind(other.clone())),
                (moved.clone(), Step::Watch { name: key("other", 7).name }),
            ),
            (queued(), position(FRESH, Position::Behind(other)), (moved, Step::Watch { name: key("other", 7).name })),
            // A member that lags behind decides nothing else.
            (behind(15, true), position(STALE, Position::Behind(ahead())), (behind(15, true), rechecks(FRESH))),
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
            (behind(15, false), Answer::Polled { is_removed: false }, waits(15, false)),
            (behind(15, false), Answer::Polled { is_removed: true }, (behind(15, false), rechecks(FRESH))),
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
            position(FRESH, Position::Behind(ahead())),
            position(STALE, Position::Missing),
            Answer::Watching,
            Answer::Notice(Notice::Deleted(30)),
            Answer::Notice(Notice::Created(30)),
            Answer::Notice(Notice::Recreated),
            Answer::Notice(Notice::Down),
            Answer::PollDue,
            Answer::Confirmed(true),
            Answer::Confirmed(false),
            Answer::Polled { is_removed: true },
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
