//! Tests against a real Redis, which each test starts.

mod access;
mod attempts;
mod holds;
mod model;
mod observing;
mod queue;
mod recovery;
mod replicas;
mod servers;
mod sharing;
mod slots;
mod tracking;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Value};

use super::answers::{self, Reply};
use super::attempt::Attempt;
use super::names::Names;
use super::scripts::{By, Kind, Op, Scripts};
use super::{Address, Options, Redis, Target, options};
use crate::backend::{
    Account, AttemptId, Backend, Claim, ErrorKind, Event, Evict, EvictScope, Grant, Lease, LeaseScope, SystemClock,
    Wait,
};
use crate::credentials::Credentials;
use crate::info::{Holder, Mode};
use crate::support::process::Process;
use crate::support::redis as launcher;

/// Longer than any step of a test takes.
const LIMIT: Duration = Duration::from_secs(20);

/// The TTL of the holds.
const TTL: Duration = Duration::from_secs(10);

/// The Redis of one test, on a socket.
struct Server {
    server: launcher::Redis,
    raw: redis::Client,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(more: &[&str]) -> Self {
        let server = launcher::Redis::start_with(more);
        let raw = redis::Client::open(format!("unix://{}", server.socket().display())).unwrap();
        Self { server, raw }
    }

    /// Starts a server of a cluster, which serves no slots yet.
    fn start_clustered() -> Self {
        Self::start_with(&["--cluster-enabled", "yes"])
    }

    /// The version, of Valkey that of the Redis that it stands for.
    fn version(&self) -> (u32, u32) {
        let info: String = self.run("INFO server");
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
        let mut numbers = version.split('.').map(|number| number.trim().parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    fn target(&self, user: Option<(&str, &str)>, database: u32) -> Target {
        Target::Server(options::Server {
            address: Address::Unix(self.server.socket()),
            account: user
                .map_or(Account::Anonymous, |(name, password)| Account::Fixed(Credentials::new(name, password))),
            database,
        })
    }

    /// Runs a command, given as words separated by spaces.
    fn run<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_run(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_run<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut raw = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            raw.arg(word);
        });
        raw.query(&mut self.raw.get_connection()?)
    }

    /// Runs a script for an attempt, as a late copy of a request would.
    fn repeat(&self, op: Op) -> Value {
        let (Op::Acquire(attempt) | Op::Release(attempt, _) | Op::Renew(attempt, _)) = &op else { panic!("{op:?}") };
        let call = scripts(manager(attempt)).call(op.kind(), By::Text, 7, [&op].into_iter());
        let answer: Value = call.query(&mut self.raw.get_connection().unwrap()).unwrap();
        Reply::read(answer, 7, 1).unwrap().take_answers().remove(0).into_value()
    }

    /// How often a command was called since the last call of this function.
    fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run("INFO commandstats");
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        let calls = line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap());
        self.run::<()>("CONFIG RESETSTAT");
        calls
    }

    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run("KEYS *");
        keys.sort_unstable();
        keys
    }

    fn process(&self) -> &Process {
        self.server.process()
    }
}

/// The scripts of a manager.
fn scripts(manager: u64) -> Scripts {
    Scripts::new(&Names::new("lock:".into()), manager, false)
}

/// The manager of an attempt.
fn manager(attempt: &Attempt) -> u64 {
    u64::from_str_radix(&attempt.claim.as_str()[..16], 16).unwrap()
}

fn options(target: Target) -> Options {
    Options { target, prefix: "lock:".into(), timeout: Duration::from_secs(5), min_replicas: 0, signal_lists: false }
}

async fn connect(options: Options) -> crate::backend::Result<Redis> {
    Redis::connect(options, Arc::new(SystemClock), tokio::runtime::Handle::current()).await
}

/// Runs a test with a time limit.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(50), test).await.expect("the test hangs") });
}

/// A manager's backend, and a lease.
struct Client {
    redis: Redis,
    lease: Lease,
}

impl Client {
    async fn new(server: &Server) -> Self {
        Self::with(options(server.target(None, 0))).await
    }

    async fn with(options: Options) -> Self {
        let redis = connect(options).await.unwrap();
        let lease = redis.open(TTL, LeaseScope::Session).await.unwrap();
        Self { redis, lease }
    }

    fn claim(&self, key: &str, mode: Mode) -> Claim {
        self.claim_on(self.lease, key, mode)
    }

    fn claim_on(&self, lease: Lease, key: &str, mode: Mode) -> Claim {
        Claim::new(AttemptId(rand::random()), key.into(), mode, lease, Arc::new(Holder::new("test", "here", 7)))
    }

    async fn get(&self, key: &str, mode: Mode) -> Grant {
        let claim = self.claim(key, mode);
        let granted = tokio::time::timeout(LIMIT, self.redis.acquire(&claim, Wait::UntilGranted)).await;
        granted.expect("not granted").unwrap().unwrap()
    }

    async fn lock(&self, key: &str) -> Grant {
        self.get(key, Mode::Exclusive).await
    }

    async fn share(&self, key: &str) -> Grant {
        self.get(key, Mode::Shared).await
    }

    async fn try_get(&self, key: &str, mode: Mode) -> Option<Grant> {
        self.redis.acquire(&self.claim(key, mode), Wait::Never).await.unwrap()
    }

    async fn release(&self, grant: &Grant) {
        self.redis.release(grant).await.unwrap();
    }

    async fn renew(&self) -> crate::backend::Result<Lease> {
        self.redis.renew(&[self.lease]).await.remove(0)
    }

    async fn event(&self, limit: Duration) -> Event {
        tokio::time::timeout(limit, self.redis.next_event()).await.expect("no event").unwrap()
    }

    /// Asserts that no loss is reported.
    async fn no_event(&self) {
        let event = tokio::time::timeout(Duration::from_millis(50), self.redis.next_event()).await;
        assert!(event.is_err(), "{event:?}");
    }

    /// The name of its channel.
    fn channel(&self) -> String {
        let subscribed = self.redis.opening.as_ref().unwrap().subscribed.lock();
        subscribed.as_ref().unwrap().1.channel.clone()
    }

    fn attempt(&self, grant: &Grant) -> Arc<Attempt> {
        self.redis.acquires.claims.get(grant.attempt).unwrap()
    }

    fn attempt_of(&self, claim: &Claim) -> Arc<Attempt> {
        self.redis.acquires.claims.get(claim.attempt).unwrap()
    }

    /// Waits until the key has this many waiters.
    async fn queued(&self, key: &str, count: usize) {
        for _ in 0..1000 {
            if self.redis.inspect(key).await.unwrap().map_or(0, |info| info.waiters) == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{key} never has {count} waiters");
    }
}

fn kind<T: std::fmt::Debug>(result: crate::backend::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn text(value: &Value) -> String {
    answers::text(value).unwrap().to_owned()
}

/// Two backends, as in two processes.
async fn pair(server: &Server) -> (Client, Client) {
    (Client::new(server).await, Client::new(server).await)
}

/// The operation that acquires a lock.
fn acquire(attempt: &Arc<Attempt>) -> Op {
    let op = Op::Acquire(attempt.clone());
    assert_eq!(op.kind(), Kind::Acquire);
    op
}
