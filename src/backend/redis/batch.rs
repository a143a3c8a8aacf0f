//! The connection: who speaks on it, when it is given up, and what goes together in one call.
//!
//! All of it is one task on the keeper. Whoever wants something puts a [`Request`] into the queue. What meets there while a call is
//! under way goes together in the next one; a lone job goes at once. Requests of a connection that breaks go again on the next one.
//!
//! The client's own timers and reconnection are not used: after a request that was not answered in time it would go on as if the
//! connection were sound, and a timer for each request costs more than the request. Here one look at the oldest request is enough.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::attempt::{Attempt, Next};
use super::claims::Claims;
use super::connection::{Connection, SharedConnection};
use super::error::{self, Meaning};
use super::options::{Target, is_about_certificates};
use super::polling::Polling;
use super::requests::{Answer, Request, Requests};
use super::scripts::{self, AcquireAnswer, By, Kind, Op, Scripts};
use crate::backend::backoff::Backoff;
use crate::backend::health::Health;
use crate::backend::{BackendError, Clock, ErrorKind, Result, Timestamp};
use crate::process::report::debug;

/// How many calls that take and as many that give back may be under way. With two, what is given back never delays what is taken.
const WINDOW: usize = 2;
/// How many other calls.
const OTHERS: usize = 4;
/// The longest that an answer is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How often the server is asked for a sign of life when nothing else is.
const PULSE: Duration = Duration::from_secs(2);

/// What may fail apart from the rest: to connect, and each kind of calls.
const SORTS: usize = 1 + Kind::ALL.len();
const CONNECTING: usize = 0;

fn sort(kind: Kind) -> usize {
    1 + kind as usize
}

/// A call under way.
struct Call {
    about: About,
    sent: Timestamp,
    since: Instant,
}

/// What a call is.
enum About {
    Script(Kind, By, Vec<Request>),
    /// A plain command, which is not done again.
    Command(oneshot::Sender<Result<Value>>),
    /// Our own PING.
    Pulse,
}

/// The calls under way on one connection.
#[derive(Default)]
struct InFlight {
    calls: BTreeMap<u64, Call>,
    /// How many there are of each kind.
    count: [usize; 5],
}

impl InFlight {
    fn add(&mut self, number: u64, call: Call) {
        if let About::Script(kind, ..) = call.about {
            self.count[kind as usize] += 1;
        }
        self.calls.insert(number, call);
    }

    fn remove(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        if let About::Script(kind, ..) = call.about {
            self.count[kind as usize] -= 1;
        }
        Some(call)
    }

    /// Whether there is room for another call of this kind.
    fn has_room(&self, kind: Kind) -> bool {
        let of = |kind: Kind| self.count[kind as usize];
        match kind {
            Kind::Release | Kind::Acquire => of(Kind::Release) < WINDOW && of(Kind::Acquire) < WINDOW,
            Kind::Renew | Kind::Inspect | Kind::Evict => of(kind) < OTHERS,
        }
    }
}

/// A manager's way to the server.
pub(super) struct Batch {
    target: Target,
    server: String,
    scripts: Scripts,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    claims: Arc<Claims>,
    looks: Arc<Polling>,
    jobs: Requests,
    commands: Mutex<VecDeque<(Cmd, oneshot::Sender<Result<Value>>)>>,
    bell: Notify,
    health: Health<SORTS>,
    /// How long an answer may take, in nanoseconds.
    patience: AtomicU64,
    last_call: AtomicU64,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Batch {
    pub(super) fn new(
        target: Target,
        scripts: Scripts,
        timeout: Duration,
        clock: Arc<dyn Clock>,
        claims: Arc<Claims>,
        looks: Arc<Polling>,
    ) -> Self {
        Self {
            server: target.to_string(),
            target,
            scripts,
            timeout,
            clock,
            claims,
            looks,
            jobs: Requests::default(),
            commands: Mutex::default(),
            bell: Notify::new(),
            health: Health::default(),
            patience: AtomicU64::new(nanos(PATIENCE)),
            last_call: AtomicU64::new(0),
        }
    }

    /// The server, for errors.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Why it does not serve at the moment.
    pub(super) fn outage(&self) -> Option<BackendError> {
        self.health.failure()
    }

    /// Learns of a TTL in use: a dead connection has to be noticed early enough to renew on another one.
    pub(super) fn serve_ttl(&self, ttl: Duration) {
        let patience = (ttl / 4).clamp(Duration::from_millis(250), PATIENCE);
        self.patience.fetch_min(nanos(patience), Ordering::Relaxed);
    }

    /// How long an answer may take before the connection is taken for dead.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_nanos(self.patience.load(Ordering::Relaxed))
    }

    /// Asks for the lock of an attempt, unless that is under way already.
    pub(super) fn ask(&self, attempt: &Arc<Attempt>) {
        if attempt.ask() {
            self.put([Request::unattended(Op::Acquire(attempt.clone()))]);
        }
    }

    /// Does something for each of these locks; the answers come in their order.
    pub(super) async fn request(&self, parts: Vec<Op>) -> Vec<Result<Value>> {
        let (jobs, answers): (Vec<_>, Vec<_>) = parts.into_iter().map(Request::with_answer).unzip();
        self.put(jobs);
        let mut found = Vec::with_capacity(answers.len());
        for answer in answers {
            found.push(answer.await);
        }
        found
    }

    /// The same for one lock.
    pub(super) fn request_one(&self, part: Op) -> Answer {
        let (job, answer) = Request::with_answer(part);
        self.put([job]);
        answer
    }

    /// Sends a plain command. If the connection breaks, its outcome is unknown.
    pub(super) async fn command(&self, command: Cmd) -> Result<Value> {
        let (reply, answer) = oneshot::channel();
        self.commands.lock().push_back((command, reply));
        self.bell.notify_one();
        answer.await.unwrap_or_else(|_| Err(error::broken(&self.server)))
    }

    fn put(&self, new: impl IntoIterator<Item = Request>) {
        self.jobs.add(new);
        self.bell.notify_one();
    }

    /// Connects to a server that will do, unless another manager has; then that connection has to answer.
    pub(super) async fn open(&self, line: &SharedConnection) -> Result<Connection> {
        let mut broken = 0;
        match self.next(line, &mut broken).await {
            // Others had one that is broken, and have not noticed.
            Err(error) if error.kind() == ErrorKind::Unreachable && broken > 0 => self.next(line, &mut broken).await,
            opened => opened,
        }
    }

    /// Connects anew, unless another manager has since number `broken`, which becomes the number of what does not work either.
    async fn next(&self, line: &SharedConnection, broken: &mut u64) -> Result<Connection> {
        // The first one may take its time. Later others wait as well: what is swallowed now may get through the next time.
        let (connect, prepare) = match *broken {
            0 => (self.timeout, self.timeout / 2),
            _ => (self.timeout.min(PATIENCE), self.timeout),
        };
        let link = line.link(*broken, self.within(connect, self.target.connect())).await?;
        *broken = link.number;
        self.within(prepare.min(PATIENCE), self.prepare(&link)).await?;
        Ok(link)
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(error::no_answer(&self.server, limit)))
    }

    async fn prepare(&self, link: &Connection) -> Result<()> {
        let mut connection = link.connection.clone();
        self.target.check(&mut connection).await?;
        if let Err(error) = self.scripts.load().query_async::<()>(&mut connection).await {
            // Who may not do this sends each script with its first call.
            debug!(target: "leasehold::redis", "scripts not loaded: {}", error::of(&self.server, &error));
        }
        Ok(())
    }

    /// Serves the queue for ever, on one connection after another.
    pub(super) async fn run(self: Arc<Self>, line: Arc<SharedConnection>, mut link: Connection) {
        let mut backoff = Backoff::at_once();
        loop {
            let begun = Instant::now();
            let (in_flight, broken) = self.serve(&link.connection).await;
            debug!(target: "leasehold::redis", "{broken}");
            self.health.failed(CONNECTING, &broken);
            self.take_back(in_flight);
            if begun.elapsed() > PATIENCE {
                backoff = Backoff::at_once();
            }
            link = self.reopen(&line, link.number, &mut backoff).await;
            debug!(target: "leasehold::redis", "connected again to redis at {}", self.server);
            self.health.served(CONNECTING);
            self.looks.at_all();
        }
    }

    async fn reopen(&self, line: &SharedConnection, mut broken: u64, backoff: &mut Backoff) -> Connection {
        loop {
            backoff.pause().await;
            match self.next(line, &mut broken).await {
                Ok(link) => return link,
                Err(error) => {
                    debug!(target: "leasehold::redis", "{error}");
                    self.health.failed(CONNECTING, &error);
                    if error.kind() != ErrorKind::Unreachable && !is_about_files(&error) {
                        // Nothing that passes while somebody waits for it.
                        self.jobs.fail(&error);
                        let commands = std::mem::take(&mut *self.commands.lock());
                        commands.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone()))));
                    }
                }
            }
        }
    }

    /// Serves the queue until the connection is no good any more. Returns what was under way.
    async fn serve(&self, link: &MultiplexedConnection) -> (InFlight, BackendError) {
        let mut in_flight = InFlight::default();
        let mut calls = FuturesUnordered::new();
        let send = |number: u64, call: Cmd| {
            let mut link = link.clone();
            async move { (number, link.send_packed_command(&call).await.and_then(Value::extract_error)) }
        };
        let mut ticks = tokio::time::interval(self.patience() / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            while let Some((number, call)) = self.next_call(&mut in_flight) {
                calls.push(send(number, call));
            }
            tokio::select! {
                biased;
                Some((number, answer)) = calls.next(), if !calls.is_empty() => {
                    heard = Instant::now();
                    let Some(call) = in_flight.remove(number) else { continue };
                    match self.take_in(number, call, answer) {
                        Ok(None) => {}
                        Ok(Some((number, call, text))) => {
                            in_flight.add(number, call);
                            calls.push(send(number, text));
                        }
                        Err((call, error)) => {
                            in_flight.add(number, call);
                            return (in_flight, error);
                        }
                    }
                }
                () = self.bell.notified() => {}
                () = rested(self.jobs.rest()) => {}
                _ = ticks.tick() => {
                    let patience = self.patience();
                    if ticks.period() > patience / 2 {
                        ticks = tokio::time::interval(patience / 2);
                        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    }
                    let oldest = in_flight.calls.first_key_value().map(|(_, call)| call.since.elapsed());
                    if oldest.is_some_and(|age| age > patience) {
                        return (in_flight, error::no_answer(&self.server, patience));
                    }
                    if oldest.is_none() && heard.elapsed() >= PULSE {
                        let number = self.number();
                        in_flight.add(number, self.begin(About::Pulse));
                        let mut ping = redis::cmd("PING");
                        ping.arg(number);
                        calls.push(send(number, ping));
                    }
                }
            }
        }
    }

    fn begin(&self, about: About) -> Call {
        Call { about, sent: self.clock.now(), since: Instant::now() }
    }

    fn number(&self) -> u64 {
        self.last_call.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the next call from the queue.
    fn next_call(&self, in_flight: &mut InFlight) -> Option<(u64, Cmd)> {
        for kind in Kind::ALL {
            if !in_flight.has_room(kind) {
                continue;
            }
            let jobs = self.jobs.take(kind, self.clock.now());
            if jobs.is_empty() {
                continue;
            }
            let number = self.number();
            let call = self.scripts.call(kind, By::Hash, number, jobs.iter().map(|job| &job.part));
            in_flight.add(number, self.begin(About::Script(kind, By::Hash, jobs)));
            return Some((number, call));
        }
        let (command, reply) = self.commands.lock().pop_front()?;
        let number = self.number();
        in_flight.add(number, self.begin(About::Command(reply)));
        Some((number, command))
    }

    /// Takes in the answer to a call. Returns the call to be made next if the server does not know the script; fails with what is
    /// to be done again if the connection is no good.
    #[expect(clippy::type_complexity, reason = "of one use")]
    fn take_in(
        &self,
        number: u64,
        call: Call,
        answer: std::result::Result<Value, RedisError>,
    ) -> std::result::Result<Option<(u64, Call, Cmd)>, (Call, BackendError)> {
        let Call { about, sent, since } = call;
        let (kind, by, jobs) = match about {
            About::Script(kind, by, jobs) => (kind, by, jobs),
            About::Command(reply) => {
                // Nobody waits any more only if it does not matter.
                let _ = reply.send(answer.map_err(|error| error::of(&self.server, &error)));
                return Ok(None);
            }
            About::Pulse if is_pulse(&answer, number) => return Ok(None),
            About::Pulse => return Err((Call { about, sent, since }, error::malformed(&self.server))),
        };
        let again = |jobs, error| Err((Call { about: About::Script(kind, by, jobs), sent, since }, error));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.code() == Some("NOSCRIPT") && by == By::Hash => {
                let number = self.number();
                let text = self.scripts.call(kind, By::Text, number, jobs.iter().map(|job| &job.part));
                return Ok(Some((number, self.begin(About::Script(kind, By::Text, jobs)), text)));
            }
            Err(error) => {
                let (meaning, error) = (error::meaning(&error), error::of(&self.server, &error));
                match meaning {
                    None if error.kind() == ErrorKind::Unreachable => return again(jobs, error),
                    Some(Meaning::Later) => self.put_off(kind, jobs, &error),
                    Some(Meaning::Elsewhere) => {
                        self.put_off(kind, jobs, &error);
                        return again(Vec::new(), error);
                    }
                    _ => jobs.into_iter().for_each(|job| job.fail(error.clone())),
                }
                return Ok(None);
            }
        };
        let Some(answers) = scripts::answers(answer, number, jobs.len()) else {
            return again(jobs, error::malformed(&self.server));
        };
        let (mut later, mut refused, mut elsewhere) = (Vec::new(), None, false);
        for (job, answer) in jobs.into_iter().zip(answers) {
            match scripts::failed(&self.server, &answer) {
                Some((meaning @ (Meaning::Later | Meaning::Elsewhere), error)) => {
                    elsewhere |= meaning == Meaning::Elsewhere;
                    later.push(job);
                    refused = Some(error);
                }
                failed => self.deliver(job, answer, failed.map(|(_, error)| error), sent),
            }
        }
        let Some(error) = refused else {
            self.jobs.served(kind);
            self.health.served(sort(kind));
            return Ok(None);
        };
        self.put_off(kind, later, &error);
        // A replica, for example: the connection is to be made anew.
        if elsewhere { again(Vec::new(), error) } else { Ok(None) }
    }

    /// The server has refused this for now, and done nothing.
    fn put_off(&self, kind: Kind, jobs: Vec<Request>, error: &BackendError) {
        debug!(target: "leasehold::redis", "to be asked again: {error}");
        self.health.failed(sort(kind), error);
        // Several times within the third of the shortest TTL, which a renewal has.
        self.jobs.put_off(kind, jobs, self.patience() / 4);
    }

    fn deliver(&self, job: Request, answer: Value, failed: Option<BackendError>, sent: Timestamp) {
        match &job.part {
            Op::Acquire(attempt) => {
                let placed = AcquireAnswer::read(&self.server, &answer);
                match attempt.answered(placed, sent, Instant::now()) {
                    Next::Nothing => {}
                    Next::Poll(at) => self.looks.plan(attempt, at),
                    Next::Ended { copies: false } => self.claims.forget(attempt.id),
                    Next::Ended { copies: true } => {
                        self.put([Request::unattended(Op::Release(attempt.clone(), attempt.copies_come_for()))]);
                    }
                }
            }
            Op::Release(attempt, _) if failed.is_none() => {
                attempt.released(scripts::text(&answer) == Some("1"));
                if !job.has_reply() {
                    self.claims.forget(attempt.id);
                }
            }
            Op::Release(..) | Op::Renew(..) | Op::Inspect(_) | Op::Evict(..) => {}
        }
        job.answer(failed.map_or(Ok(answer), Err));
    }

    /// Puts back what was under way on a connection that broke.
    fn take_back(&self, in_flight: InFlight) {
        let again = in_flight.calls.into_values().filter_map(|call| match call.about {
            About::Script(.., jobs) => Some(jobs),
            // Who waits for a plain command hears that nobody answers any more.
            About::Command(_) | About::Pulse => None,
        });
        self.jobs.take_back(again.flatten().collect(), &error::broken(&self.server));
    }
}

/// Whether files for TLS are in the way, which were good when the manager connected: they may be about to be replaced.
fn is_about_files(error: &BackendError) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<RedisError>());
    error.kind() == ErrorKind::Misconfigured || cause.is_some_and(is_about_certificates)
}

/// Whether this is a sign of life: the answer to our PING, or that the server does not serve for now.
fn is_pulse(answer: &std::result::Result<Value, RedisError>, number: u64) -> bool {
    match answer {
        Ok(answer) => scripts::text(answer) == Some(&*number.to_string()),
        Err(error) => error::meaning(error) == Some(Meaning::Later),
    }
}

async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
