//! Group commit: requests that meet travel together.
//!
//! One task on the keeper sends all requests. Those that are added while a call is in flight go together in the next one; a lone
//! request goes at once. The requests of a connection that breaks are repeated on the next one.
//!
//! The client's own timers and reconnection are not used: after a request that was not answered in time it would go on as if the
//! connection were sound, and a timer for each request costs more than the request. Here one check of the oldest call is enough.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{Cmd, RedisError, Value};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::answers::{self, AcquireAnswer, Answer, LifeAnswer, Reply};
use super::attempt::Attempt;
use super::claims::Claims;
use super::connection::{Connection, Connector, PATIENCE};
use super::error::{self, Meaning};
use super::in_flight::{Call, Content, InFlight};
use super::place::Next;
use super::polling::{Due, Polling};
use super::requests::{Command, PendingAnswer, Request, Requests};
use super::scripts::{By, Kind, Op, Scripts};
use super::tls;
use crate::backend::backoff::Backoff;
use crate::backend::health::Health;
use crate::backend::{BackendError, Clock, Completion, ErrorKind, Result, Timestamp, Wait};
use crate::process::report::debug;

/// How often an idle connection is checked by a `PING`.
const PING: Duration = Duration::from_secs(2);

/// What may fail independently: connecting, and each kind of calls.
const SORTS: usize = 1 + Kind::ALL.len();
const CONNECTING: usize = 0;

fn sort(kind: Kind) -> usize {
    1 + kind as usize
}

/// The requests of one manager, and the task that sends them.
pub(super) struct Batch {
    server: String,
    scripts: Scripts,
    clock: Arc<dyn Clock>,
    claims: Arc<Claims>,
    polling: Arc<Polling>,
    requests: Requests,
    health: Health<SORTS>,
    /// In nanoseconds.
    patience: AtomicU64,
    last_call: AtomicU64,
    /// How often the connection was replaced.
    reconnects: AtomicU64,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Batch {
    pub(super) fn new(
        server: String,
        scripts: Scripts,
        clock: Arc<dyn Clock>,
        claims: Arc<Claims>,
        polling: Arc<Polling>,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            scripts,
            clock,
            claims,
            polling,
            requests: Requests::default(),
            health: Health::default(),
            patience: AtomicU64::new(nanos(PATIENCE)),
            last_call: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
        })
    }

    /// The server's address, for errors.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// How often the connection was replaced: what was answered while it was not was answered by one server.
    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Acquire)
    }

    /// Returns the reason why the server serves no requests at present.
    pub(super) fn outage(&self) -> Option<BackendError> {
        self.health.failure()
    }

    /// Adapts to a TTL in use: a dead connection has to be noticed early enough to renew on another one.
    pub(super) fn serve_ttl(&self, ttl: Duration) {
        let patience = (ttl / 4).clamp(Duration::from_millis(250), PATIENCE);
        self.patience.fetch_min(nanos(patience), Ordering::Relaxed);
    }

    /// How long an answer may take before the connection is considered dead.
    fn patience(&self) -> Duration {
        Duration::from_nanos(self.patience.load(Ordering::Relaxed))
    }

    /// Requests the lock of an attempt, unless such a request is pending.
    pub(super) fn acquire(&self, attempt: &Arc<Attempt>) {
        if attempt.begin_request() {
            // A place in a queue counts only while its manager is known to be alive.
            let life = (attempt.wait == Wait::UntilGranted && self.polling.begin_life()).then_some(Op::Life);
            let ops = life.into_iter().chain([Op::Acquire(attempt.clone())]);
            self.requests.add(ops.map(Request::unattended));
        }
    }

    /// Releases the hold of an attempt that was given up.
    pub(super) fn release(&self, attempt: Arc<Attempt>, tombstone: Duration, completion: Completion) {
        self.requests.add([Request::with_completion(Op::Release(attempt, tombstone), completion)]);
    }

    /// Plans a poll of a waiter.
    pub(super) fn plan(&self, attempt: &Arc<Attempt>, at: Instant) {
        self.polling.plan(attempt, at);
    }

    /// The time by the manager's clock.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Requests these operations, and returns their answers in the same order.
    pub(super) async fn request(&self, ops: Vec<Op>) -> Vec<Result<Value>> {
        let (requests, answers): (Vec<_>, Vec<_>) = ops.into_iter().map(Request::with_answer).unzip();
        self.requests.add(requests);
        let mut found = Vec::with_capacity(answers.len());
        for answer in answers {
            found.push(answer.await);
        }
        found
    }

    /// Requests one operation.
    pub(super) fn request_one(&self, op: Op) -> PendingAnswer {
        let (request, answer) = Request::with_answer(op);
        self.requests.add([request]);
        answer
    }

    /// Sends a plain command. If the connection breaks, the outcome is unknown.
    pub(super) async fn command(&self, command: Cmd) -> Result<Value> {
        self.requests.add_command(command).await.unwrap_or_else(|_| Err(error::broken(self.server())))
    }

    /// Waits until waiters are due, and returns them after a sign of life, which goes before their requests.
    pub(super) async fn due(&self) -> Due {
        let due = self.polling.due().await;
        let is_idle = due.ask.is_empty() && due.look.is_empty();
        if !is_idle && self.polling.begin_life() {
            self.requests.add([Request::unattended(Op::Life)]);
        }
        due
    }

    /// Sends requests without end, on one connection after another. The connections close with this future: a closed manager may live
    /// on.
    pub(super) async fn run(self: Arc<Self>, connector: Connector, mut connection: Connection) {
        let mut backoff = Backoff::at_once();
        loop {
            let begun = Instant::now();
            let (in_flight, broken) = self.serve(&connection).await;
            debug!(target: "leasehold::redis", "{broken}");
            self.health.failed(CONNECTING, &broken);
            self.requests.take_back(in_flight.into_requests(), &error::broken(self.server()));
            if begun.elapsed() > PATIENCE {
                backoff = Backoff::at_once();
            }
            connection = self.reopen(&connector, connection.generation, &mut backoff).await;
            self.reconnects.fetch_add(1, Ordering::Release);
            debug!(target: "leasehold::redis", "connected again to redis at {}", self.server());
            self.health.served(CONNECTING);
            self.polling.all_now();
        }
    }

    async fn reopen(&self, connector: &Connector, mut broken: u64, backoff: &mut Backoff) -> Connection {
        loop {
            match connector.reopen(&mut broken, backoff).await {
                Ok(connection) => return connection,
                Err(error) => {
                    debug!(target: "leasehold::redis", "{error}");
                    self.health.failed(CONNECTING, &error);
                    if error.kind() != ErrorKind::Unreachable && !tls::is_about_files(&error) {
                        // A permanent error: waiting does not help.
                        self.requests.fail(&error);
                    }
                }
            }
        }
    }

    /// Sends requests until the connection has to be replaced. Returns what was in flight, and the reason.
    async fn serve(&self, connection: &Connection) -> (InFlight, BackendError) {
        let Connection { client, located, .. } = connection;
        let mut moved = pin!(located.moved());
        let mut in_flight = InFlight::default();
        let mut calls = FuturesUnordered::new();
        let send = |number: u64, call: Cmd| {
            let mut client = client.clone();
            async move { (number, client.send_packed_command(&call).await.and_then(Value::extract_error)) }
        };
        let mut ticks = every(self.patience() / 2);
        let mut last_answer = Instant::now();
        loop {
            while let Some((number, call)) = self.next_call(&mut in_flight) {
                calls.push(send(number, call));
            }
            tokio::select! {
                biased;
                // What the old master still answers counts for nothing.
                () = &mut moved => return (in_flight, error::deposed(&located.target.to_string())),
                Some((number, answer)) = calls.next(), if !calls.is_empty() => {
                    last_answer = Instant::now();
                    let Some(call) = in_flight.remove(number) else { continue };
                    match self.answered(number, call, answer) {
                        Answered::Done => {}
                        Answered::Again(number, call, text) => {
                            in_flight.add(number, call);
                            calls.push(send(number, text));
                        }
                        Answered::Broken(call, error) => {
                            in_flight.add(number, call);
                            return (in_flight, error);
                        }
                    }
                }
                () = self.requests.added() => {}
                () = self.requests.rested() => {}
                _ = ticks.tick() => {
                    let patience = self.patience();
                    if ticks.period() > patience / 2 {
                        ticks = every(patience / 2);
                    }
                    let oldest = in_flight.oldest().map(|call| call.since.elapsed());
                    if oldest.is_some_and(|age| age > patience) {
                        return (in_flight, error::no_answer(self.server(), patience));
                    }
                    if oldest.is_none() && last_answer.elapsed() >= PING {
                        let number = self.number();
                        in_flight.add(number, self.begin(Content::Ping));
                        let mut ping = redis::cmd("PING");
                        ping.arg(number);
                        calls.push(send(number, ping));
                    }
                }
            }
        }
    }

    fn begin(&self, content: Content) -> Call {
        Call { content, sent: self.clock.now(), since: Instant::now() }
    }

    fn number(&self) -> u64 {
        self.last_call.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the next call from the queues.
    fn next_call(&self, in_flight: &mut InFlight) -> Option<(u64, Cmd)> {
        for kind in Kind::ALL {
            if !in_flight.has_room(kind) {
                continue;
            }
            let requests = self.requests.take(kind, self.clock.now());
            if requests.is_empty() {
                continue;
            }
            let (number, call, command) = self.script(kind, By::Hash, requests);
            in_flight.add(number, call);
            return Some((number, command));
        }
        let Command { command, reply } = self.requests.take_command()?;
        let number = self.number();
        in_flight.add(number, self.begin(Content::Command(reply)));
        Some((number, command))
    }

    /// Creates a call of a script.
    fn script(&self, kind: Kind, by: By, requests: Vec<Request>) -> (u64, Call, Cmd) {
        let number = self.number();
        let ops = requests.iter().map(|request| &request.op);
        let command = self.scripts.call(kind, by, number, ops);
        (number, self.begin(Content::Script(kind, by, requests)), command)
    }

    fn answered(&self, number: u64, call: Call, answer: std::result::Result<Value, RedisError>) -> Answered {
        let Call { content, sent, since } = call;
        let (kind, by, requests) = match content {
            Content::Script(kind, by, requests) => (kind, by, requests),
            Content::Command(reply) => {
                let broken = answer.as_ref().err().and_then(|error| self.broken_by(error));
                // A caller that has left does not need it.
                let _ = reply.send(answer.map_err(|error| error::of(self.server(), &error)));
                return broken.map_or(Answered::Done, |error| {
                    Answered::Broken(Call { content: Content::Ping, sent, since }, error)
                });
            }
            Content::Ping if answers::is_pong(&answer, number) => return Answered::Done,
            Content::Ping => return Answered::Broken(Call { content, sent, since }, error::malformed(self.server())),
        };
        let broken = |requests, error| {
            Answered::Broken(Call { content: Content::Script(kind, by, requests), sent, since }, error)
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.code() == Some("NOSCRIPT") && by == By::Hash => {
                let (number, call, text) = self.script(kind, By::Text, requests);
                return Answered::Again(number, call, text);
            }
            Err(error) => {
                let (meaning, error) = (error::meaning(&error), error::of(self.server(), &error));
                match meaning {
                    None if error.kind() == ErrorKind::Unreachable => return broken(requests, error),
                    Some(Meaning::Later) => self.put_off(kind, requests, &error),
                    Some(Meaning::Elsewhere) => {
                        self.put_off(kind, requests, &error);
                        return broken(Vec::new(), error);
                    }
                    _ => requests.into_iter().for_each(|request| request.fail(error.clone())),
                }
                return Answered::Done;
            }
        };
        let Some(mut reply) = Reply::read(answer, number, requests.len()) else {
            return broken(requests, error::malformed(self.server()));
        };
        let (mut later, mut refused, mut elsewhere) = (Vec::new(), None, false);
        for (request, answer) in requests.into_iter().zip(reply.take_answers()) {
            match answers::failed(self.server(), &answer) {
                Some((meaning @ (Meaning::Later | Meaning::Elsewhere), error)) => {
                    elsewhere |= meaning == Meaning::Elsewhere;
                    later.push(request);
                    refused = Some(error);
                }
                failed => self.deliver(request, answer, failed.map(|(_, error)| error), sent),
            }
        }
        let Some(error) = refused else {
            self.requests.served(kind);
            self.health.served(sort(kind));
            return Answered::Done;
        };
        self.put_off(kind, later, &error);
        // A replica, for example: another connection is needed.
        if elsewhere { broken(Vec::new(), error) } else { Answered::Done }
    }

    /// Returns the reason to replace the connection, if an error is one.
    fn broken_by(&self, error: &RedisError) -> Option<BackendError> {
        let reason = error::of(self.server(), error);
        (error::meaning(error).is_none() && reason.kind() == ErrorKind::Unreachable).then_some(reason)
    }

    /// The server has refused these requests for now, without any effect.
    fn put_off(&self, kind: Kind, requests: Vec<Request>, error: &BackendError) {
        debug!(target: "leasehold::redis", "to be repeated: {error}");
        self.health.failed(sort(kind), error);
        // A renewal, which has a third of the TTL, is repeated several times within that of the shortest TTL.
        self.requests.put_off(kind, requests, self.patience() / 4);
    }

    fn deliver(&self, request: Request, mut answer: Answer<'_>, failed: Option<BackendError>, sent: Timestamp) {
        if !matches!(request.op, Op::Inspect(_))
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
                            self.claims.track(attempt.id);
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
            Op::Life => {
                if let Some(life) = LifeAnswer::read(&answer) {
                    self.polling.lived(life);
                }
            }
            Op::Release(..) | Op::Admit(_) | Op::Renew(..) | Op::Inspect(_) | Op::Evict(..) => {}
        }
        request.answer(failed.map_or(Ok(answer), Err), || error::lost(self.server()));
    }
}

/// What follows from the answer to a call.
enum Answered {
    Done,
    /// The server does not have the script in its cache: this call has its text.
    Again(u64, Call, Cmd),
    /// The connection has to be replaced. What is left of the call is to be repeated.
    Broken(Call, BackendError),
}

fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
