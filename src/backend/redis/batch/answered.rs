//! What follows from the answers of a server.

use redis::{RedisError, Value};
use tokio::time::Instant;

use super::super::answers::{self, AcquireAnswer, Answer, LifeAnswer, Reply};
use super::super::error::{self, Meaning};
use super::super::in_flight::{Call, Content, Outcome, Part};
use super::super::place::Next;
use super::super::redirect::Redirect;
use super::super::reports::Report;
use super::super::requests::{Request, Way};
use super::super::scripts::{By, Kind, Op};
use super::{Batch, sort};
use crate::backend::{BackendError, ErrorKind, Timestamp};
use crate::process::report::debug;

type Answered = std::result::Result<Value, RedisError>;

impl Batch {
    pub(super) fn answered(&self, number: u64, call: Call, answer: Answered) -> Outcome {
        let Call { content, sent, .. } = call;
        let mut outcome = Outcome::default();
        match content {
            Content::Script(kind, by, requests) => {
                self.call_answered(kind, Part { number, by, requests }, answer, sent, &mut outcome);
            }
            Content::Scripts(kind, parts) => self.calls_answered(kind, parts, answer, sent, &mut outcome),
            Content::Command(reply) => {
                outcome.broken = answer.as_ref().err().and_then(|error| self.broken_by(error));
                // A caller that has left does not need it.
                let _ = reply.send(answer.map_err(|error| error::of(self.server(), &error)));
            }
            Content::Ping if answers::is_pong(&answer, number) => {}
            Content::Ping => outcome.broken = Some(error::malformed(self.server())),
        }
        outcome
    }

    fn calls_answered(&self, kind: Kind, parts: Vec<Part>, answer: Answered, sent: Timestamp, outcome: &mut Outcome) {
        let mut answers = match answer {
            Ok(Value::Array(answers)) => Ok(answers.into_iter()),
            Ok(_) => return outcome.break_with(error::malformed(self.server()), requests_of(parts)),
            Err(error) => Err(error),
        };
        for part in parts {
            let answer = match &mut answers {
                Ok(answers) if part.asks() => answers.nth(1),
                Ok(answers) => answers.next(),
                Err(_) => None,
            };
            let answer = match (answer, &answers) {
                (Some(answer), _) => answer.extract_error(),
                (None, Err(error)) => Err(error.clone()),
                (None, Ok(_)) => {
                    outcome.break_with(error::malformed(self.server()), part.requests);
                    continue;
                }
            };
            self.call_answered(kind, part, answer, sent, outcome);
        }
    }

    fn call_answered(&self, kind: Kind, part: Part, answer: Answered, sent: Timestamp, outcome: &mut Outcome) {
        let Part { number, by, requests } = part;
        let slot = requests.first().and_then(|request| request.op.slot());
        match answer {
            Err(error) if error.code() == Some("NOSCRIPT") && by == By::Hash => {
                outcome.again.push(self.script(kind, By::Text, requests));
                return;
            }
            Err(error) => self.call_failed(kind, requests, &error, outcome),
            Ok(answer) => self.call_served(kind, number, requests, answer, sent, outcome),
        }
        if let (Some(membership), Some(slot)) = (&self.membership, slot)
            && let Some(to) = self.requests.call_ended(slot)
        {
            membership.report(Report::Moved(slot, to));
        }
    }

    fn call_failed(&self, kind: Kind, requests: Vec<Request>, error: &RedisError, outcome: &mut Outcome) {
        let redirect = self.membership.as_ref().and_then(|membership| Redirect::read(error, &membership.address));
        if let Some(redirect) = redirect {
            return self.redirected(kind, requests, redirect, &error::of(self.server(), error));
        }
        let moves = error.code() == Some("TRYAGAIN");
        let (meaning, error) = (error::meaning(error), error::of(self.server(), error));
        match meaning {
            None if error.kind() == ErrorKind::Unreachable => outcome.break_with(error, requests),
            Some(Meaning::Later) => self.put_off(kind, requests, moves, &error),
            Some(Meaning::Halfway) => {
                requests.iter().for_each(Request::ended_halfway);
                self.put_off(kind, requests, true, &error);
            }
            Some(Meaning::Elsewhere) => {
                self.put_off(kind, requests, moves, &error);
                outcome.broken = Some(error);
            }
            _ => requests.into_iter().for_each(|request| self.fail(request, error.clone())),
        }
    }

    fn fail(&self, request: Request, error: BackendError) {
        if let Op::Life(slot) = request.op {
            self.polling.lived(slot, None);
        }
        request.fail(error);
    }

    /// Another node serves these requests.
    fn redirected(&self, kind: Kind, requests: Vec<Request>, redirect: Redirect, error: &BackendError) {
        let Some(membership) = &self.membership else { return };
        let (bound, requests): (Vec<_>, Vec<_>) = requests.into_iter().partition(Request::is_bound);
        bound.into_iter().for_each(|request| request.turn_away(&redirect));
        if requests.is_empty() {
            return;
        }
        let way = if matches!(redirect, Redirect::Ask(_)) { Way::Asking } else { Way::Together };
        let (mut slot, mut redirected) = (None, Vec::with_capacity(requests.len()));
        for mut request in requests {
            slot = request.op.slot();
            if request.redirected(way) {
                redirected.push(request);
            } else {
                let reason = format!("no node of the cluster serves the slot: {error}");
                self.fail(request, BackendError::new(ErrorKind::Unreachable, reason));
            }
        }
        // Two nodes that name each other do not agree yet.
        let disagree = redirected.first().is_some_and(Request::is_sent_about);
        match (redirect, slot) {
            (Redirect::Moved(_), Some(_)) if disagree => {
                membership.report(Report::Doubt);
                self.requests.put_off(kind, redirected, self.patience() / 4);
            }
            (Redirect::Moved(to), Some(slot)) => self.requests.moved(slot, to, redirected),
            (Redirect::Ask(to), _) => membership.report(Report::Ask(to, redirected)),
            (Redirect::Moved(_), None) => {}
        }
    }

    fn call_served(
        &self,
        kind: Kind,
        number: u64,
        requests: Vec<Request>,
        answer: Value,
        sent: Timestamp,
        outcome: &mut Outcome,
    ) {
        let slot = requests.first().and_then(|request| request.op.slot());
        let Some(mut reply) = Reply::read(answer, number, requests.len()) else {
            return outcome.break_with(error::malformed(self.server()), requests);
        };
        let (mut later, mut refused, mut elsewhere, mut moves) = (Vec::new(), None, false, false);
        for (request, answer) in requests.into_iter().zip(reply.take_answers()) {
            match answers::failed(self.server(), &answer) {
                Some((meaning @ (Meaning::Later | Meaning::Halfway | Meaning::Elsewhere), error)) => {
                    elsewhere |= meaning == Meaning::Elsewhere;
                    if meaning == Meaning::Halfway {
                        moves = true;
                        request.ended_halfway();
                    }
                    later.push(request);
                    refused = Some(error);
                }
                failed => self.deliver(request, answer, failed.map(|(_, error)| error), sent),
            }
        }
        let Some(error) = refused else {
            self.requests.served(kind, slot);
            self.health.served(sort(kind));
            return;
        };
        self.put_off(kind, later, moves, &error);
        if elsewhere {
            // A replica, for example: another connection is needed.
            outcome.broken = Some(error);
        }
    }

    /// Returns the reason to replace the connection, if an error is one.
    fn broken_by(&self, error: &RedisError) -> Option<BackendError> {
        let reason = error::of(self.server(), error);
        (error::meaning(error).is_none() && reason.kind() == ErrorKind::Unreachable).then_some(reason)
    }

    /// The server has refused these requests for now, without any effect; because their slot is being moved, if it `moves`.
    fn put_off(&self, kind: Kind, mut requests: Vec<Request>, moves: bool, error: &BackendError) {
        debug!(target: "leasehold::redis", "to be repeated: {error}");
        if !moves {
            self.health.failed(sort(kind), error);
        }
        if let Some(membership) = &self.membership {
            if !moves {
                membership.report(Report::Doubt);
            }
            if requests.iter().any(|request| request.way == Way::Asking) {
                let (bound, others): (Vec<_>, Vec<_>) = requests.into_iter().partition(Request::is_bound);
                bound.into_iter().for_each(|request| request.fail(error.clone()));
                return membership.report(Report::Later(others));
            }
        }
        let way = if moves { Way::Alone } else { Way::Together };
        requests.iter_mut().for_each(|request| request.rest(way));
        // A renewal, which has a third of the TTL, is repeated several times within that of the shortest TTL.
        self.requests.put_off(kind, requests, self.patience() / 4);
    }

    fn deliver(&self, request: Request, mut answer: Answer<'_>, failed: Option<BackendError>, sent: Timestamp) {
        if !matches!(request.op, Op::Inspect(..))
            && answer.take_mark()
            && let Some(name) = request.op.name()
        {
            self.requests.add([Request::unattended(Op::Admit(name.clone()))]);
        }
        match &request.op {
            Op::Acquire(attempt) => {
                let answer = AcquireAnswer::read(self.server(), &answer);
                match attempt.answered(answer, sent, Instant::now()) {
                    Next::Nothing => {}
                    Next::Poll { at, tracks } => {
                        self.polling.plan(attempt, at);
                        if tracks {
                            self.untracked.add([attempt.clone()]);
                        }
                    }
                    Next::Ended { copies: false } => self.claims.forget(attempt.id),
                    Next::Ended { copies: true } => {
                        let release = Op::Release(attempt.clone(), attempt.copies_live_for());
                        self.requests.add([Request::unattended(release)]);
                    }
                }
            }
            Op::Release(attempt, _) if failed.is_none() => {
                attempt.release_answered(answer.text() == Some("1"));
                if !request.has_caller() {
                    self.claims.forget(attempt.id);
                }
            }
            Op::Life(slot) => self.polling.lived(*slot, LifeAnswer::read(&answer)),
            Op::Release(..) | Op::Admit(_) | Op::Renew(..) | Op::Inspect(..) | Op::Evict(..) | Op::Listen(..) => {}
        }
        request.answer(failed.map_or(Ok(answer), Err), || error::lost(self.server()));
    }
}

fn requests_of(parts: Vec<Part>) -> Vec<Request> {
    parts.into_iter().flat_map(|part| part.requests).collect()
}
