//! Group commit: requests that meet travel together.
//!
//! One task on the keeper sends all requests. Those that are added while a call is in flight go together in the next one; a lone
//! request goes at once. The requests of a connection that breaks are repeated on the next one.
//!
//! The client's own timers and reconnection are not used: after a request that was not answered in time it would go on as if the
//! connection were sound, and a timer for each request costs more than the request. Here one check of the oldest call is enough.

mod answered;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::attempt::Attempt;
use super::claims::Claims;
use super::connection::{Connection, Connector, PATIENCE};
use super::error;
use super::in_flight::{Call, Content, InFlight, Outcome, Part, Sent};
use super::polling::{Due, Polling};
use super::reports::{Membership, Report};
use super::requests::{BoundAnswer, Command, PendingAnswer, Request, Way};
use super::scripts::{By, Kind, Op, Scripts};
use super::tls;
use super::untracked::Untracked;
use super::waiting::Requests;
use crate::backend::backoff::Backoff;
use crate::backend::health::Health;
use crate::backend::{BackendError, Clock, Completion, ErrorKind, Result, Timestamp, Wait};
use crate::process::facade;
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
    polling: Polling,
    untracked: Untracked,
    requests: Requests,
    /// In a cluster.
    membership: Option<Membership>,
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
        membership: Option<Membership>,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            requests: Requests::new(scripts.are_by_slot()),
            scripts,
            clock,
            claims,
            polling: Polling::default(),
            untracked: Untracked::default(),
            membership,
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
            let slot = self.slot_of(attempt);
            let begins = attempt.wait == Wait::UntilGranted && self.polling.begin_life(slot);
            let life = begins.then_some(Op::Life(slot));
            let ops = life.into_iter().chain([Op::Acquire(attempt.clone())]);
            self.requests.add(ops.map(Request::unattended));
        }
    }

    /// The slot of a life for this waiter.
    fn slot_of(&self, attempt: &Attempt) -> Option<u16> {
        self.scripts.are_by_slot().then_some(attempt.name.slot)
    }

    /// Adds requests.
    pub(super) fn add(&self, requests: impl IntoIterator<Item = Request>) {
        self.requests.add(requests);
    }

    /// The requests that wait.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// When waiters poll.
    pub(super) fn polling(&self) -> &Polling {
        &self.polling
    }

    /// The locks to read.
    pub(super) fn untracked(&self) -> &Untracked {
        &self.untracked
    }

    /// Whether the locks of a command must be in one slot.
    pub(super) fn is_by_slot(&self) -> bool {
        self.scripts.are_by_slot()
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

    /// Requests these operations. Returns their answers in the same order.
    pub(super) fn request(&self, ops: Vec<Op>) -> Vec<PendingAnswer> {
        let (requests, answers): (Vec<_>, Vec<_>) = ops.into_iter().map(Request::with_answer).unzip();
        self.requests.add(requests);
        answers
    }

    /// Requests operations that only this server may serve. Returns their answers in the same order.
    pub(super) fn request_bound(&self, ops: impl IntoIterator<Item = (Op, Way)>) -> Vec<Receiver<BoundAnswer>> {
        let (requests, answers): (Vec<_>, Vec<_>) = ops.into_iter().map(|(op, way)| Request::bound(op, way)).unzip();
        self.requests.add(requests);
        answers
    }

    /// Its place in a cluster.
    pub(super) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// Sends a plain command. If the connection breaks, the outcome is unknown.
    pub(super) async fn command(&self, command: Cmd) -> Result<Value> {
        self.requests.add_command(command).await.unwrap_or_else(|_| Err(error::broken(self.server())))
    }

    /// Waits until waiters are due, and returns them after a sign of life, which goes before their requests.
    pub(super) async fn due(&self) -> Due {
        let due = self.polling.due().await;
        for attempt in due.ask.iter().chain(&due.look) {
            let slot = self.slot_of(attempt);
            if self.polling.begin_life(slot) {
                self.requests.add([Request::unattended(Op::Life(slot))]);
            }
            if slot.is_none() {
                break;
            }
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
            self.take_back(in_flight);
            if begun.elapsed() > PATIENCE {
                backoff = Backoff::at_once();
            }
            connection = self.reopen(&connector, connection.generation, &mut backoff).await;
            self.reconnects.fetch_add(1, Ordering::Release);
            debug!(target: "leasehold::redis", "connected again to redis at {}", self.server());
            facade::reconnected("redis");
            self.connected();
        }
    }

    fn take_back(&self, requests: Vec<Request>) {
        let leaving = self.requests.take_back(requests, &error::broken(self.server()));
        if let Some(membership) = &self.membership {
            leaving.into_iter().for_each(|(slot, to)| membership.report(Report::Moved(slot, to)));
            membership.report(Report::Doubt);
        }
    }

    async fn reopen(&self, connector: &Connector, mut broken: u64, backoff: &mut Backoff) -> Connection {
        loop {
            match connector.reopen(&mut broken, backoff).await {
                Ok(connection) => return connection,
                Err(error) => {
                    self.not_connected(&error);
                }
            }
        }
    }

    /// It has connected at last.
    pub(super) fn connected(&self) {
        self.health.served(CONNECTING);
        self.polling.all_now();
        // Another server may not have the ears.
        self.claims.ears.ring_all();
    }

    /// It could not connect.
    pub(super) fn not_connected(&self, error: &BackendError) {
        debug!(target: "leasehold::redis", "{error}");
        self.health.failed(CONNECTING, error);
        match &self.membership {
            // Another server may be at the address of a node that has gone, whose slots are at other nodes soon: nothing is lost by what
            // it says. But an account that is refused is most likely refused for good.
            Some(membership) => {
                if error.kind() == ErrorKind::Denied {
                    self.requests.refuse(error);
                }
                membership.report(Report::Doubt);
            }
            // A permanent error: waiting does not help.
            None if error.kind() != ErrorKind::Unreachable && !tls::is_about_files(error) => self.requests.fail(error),
            None => {}
        }
    }

    /// Sends requests until the connection has to be replaced. Returns what was in flight, and the reason.
    async fn serve(&self, connection: &Connection) -> (Vec<Request>, BackendError) {
        let Connection { client, located, .. } = connection;
        let mut moved = pin!(located.moved());
        let mut in_flight = InFlight::default();
        let mut calls = FuturesUnordered::new();
        let send = |number: u64, sent: Sent| {
            let mut client = client.clone();
            async move {
                let answer = match sent {
                    Sent::Call(call) => client.send_packed_command(&call).await.and_then(Value::extract_error),
                    Sent::Calls(calls) => client.send_packed_commands(&calls, 0, calls.len()).await.map(Value::Array),
                };
                (number, answer)
            }
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
                () = &mut moved => return (in_flight.into_requests(), error::deposed(&located.target.to_string())),
                Some((number, answer)) = calls.next(), if !calls.is_empty() => {
                    last_answer = Instant::now();
                    let Some(call) = in_flight.remove(number) else { continue };
                    let Outcome { again, broken, mut repeated } = self.answered(number, call, answer);
                    for (number, call, text) in again {
                        in_flight.add(number, call);
                        calls.push(send(number, text));
                    }
                    if let Some(error) = broken {
                        repeated.extend(in_flight.into_requests());
                        return (repeated, error);
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
                        return (in_flight.into_requests(), error::no_answer(self.server(), patience));
                    }
                    if oldest.is_none() && last_answer.elapsed() >= PING {
                        let number = self.number();
                        in_flight.add(number, self.begin(Content::Ping));
                        let mut ping = redis::cmd("PING");
                        ping.arg(number);
                        calls.push(send(number, Sent::Call(ping)));
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
    fn next_call(&self, in_flight: &mut InFlight) -> Option<(u64, Sent)> {
        for kind in Kind::ALL {
            if !in_flight.has_room(kind) {
                continue;
            }
            let mut calls = self.requests.take(kind, self.clock.now());
            if !calls.is_empty() && matches!(kind, Kind::Acquire | Kind::Release) {
                facade::sent_together("redis", calls.iter().map(Vec::len).sum());
            }
            let (number, call, sent) = match calls.len() {
                0 => continue,
                1 => self.script(kind, By::Hash, calls.remove(0)),
                _ => self.scripts(kind, By::Hash, calls),
            };
            in_flight.add(number, call);
            return Some((number, sent));
        }
        let Command { command, reply } = self.requests.take_command()?;
        let number = self.number();
        in_flight.add(number, self.begin(Content::Command(reply)));
        Some((number, Sent::Call(command)))
    }

    /// Creates a call of a script.
    fn script(&self, kind: Kind, by: By, requests: Vec<Request>) -> (u64, Call, Sent) {
        if requests.iter().any(|request| request.way == Way::Asking) {
            return self.scripts(kind, by, vec![requests]);
        }
        let number = self.number();
        let ops = requests.iter().map(|request| &request.op);
        let command = self.scripts.call(kind, by, number, ops);
        (number, self.begin(Content::Script(kind, by, requests)), Sent::Call(command))
    }

    /// Creates calls of a script that are sent together.
    fn scripts(&self, kind: Kind, by: By, calls: Vec<Vec<Request>>) -> (u64, Call, Sent) {
        let (mut parts, mut sent) = (Vec::with_capacity(calls.len()), Pipeline::with_capacity(calls.len()));
        for requests in calls {
            let part = Part { number: self.number(), by, requests };
            if part.asks() {
                sent.cmd("ASKING");
            }
            sent.add_command(self.scripts.call(kind, by, part.number, part.requests.iter().map(|request| &request.op)));
            parts.push(part);
        }
        (self.number(), self.begin(Content::Scripts(kind, parts)), Sent::Calls(sent))
    }
}

fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
