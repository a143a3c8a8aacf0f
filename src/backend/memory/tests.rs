use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::executor::block_on;
use rand::RngExt;
use rand::rngs::StdRng;

use super::state::{Answer, State};
use super::wakes::Wakes;
use super::*;
use crate::backend::{AttemptId, EvictScope, LeaseId, SystemClock, Timestamp};
use crate::info::{Holder, Mode};
use crate::support::walk::walk;

const TTL: Duration = Duration::from_secs(30);

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
struct Still(AtomicU64);

impl Still {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }
}

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

struct Fixture {
    clock: Arc<Still>,
    store: Arc<Store>,
    attempts: AtomicU64,
}

impl Fixture {
    fn new() -> Self {
        let clock = Arc::new(Still::default());
        Self { store: Store::with_clock(clock.clone()), clock, attempts: AtomicU64::new(0) }
    }

    fn link(&self) -> Memory {
        Memory::new(self.store.clone(), self.clock.clone())
    }

    fn claim(&self, lease: Lease, key: &str, mode: Mode) -> Claim {
        let attempt = AttemptId(self.attempts.fetch_add(1, Ordering::SeqCst));
        Claim::new(attempt, key.into(), mode, lease, Arc::new(Holder::new(format!("h{}", lease.id), "", 0)))
    }

    fn exclusive(&self, lease: Lease, key: &str) -> Claim {
        self.claim(lease, key, Mode::Exclusive)
    }

    fn shared(&self, lease: Lease, key: &str) -> Claim {
        self.claim(lease, key, Mode::Shared)
    }
}

/// Returns the result of a future that has to be ready at its first poll.
fn at_once<T>(future: BoxFuture<'_, Result<T>>) -> T {
    future.now_or_never().expect("ready at the first poll").unwrap()
}

fn session(link: &Memory) -> Lease {
    at_once(link.open(TTL, LeaseScope::Session))
}

fn take(link: &Memory, claim: &Claim) -> Grant {
    at_once(link.acquire(claim, Wait::Never)).expect("granted")
}

#[test]
fn a_lock_is_taken_and_given_back_at_the_first_poll() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.link(), fixture.link());
    let (on_a, on_b) = (session(&a), session(&b));
    let grant = take(&a, &fixture.exclusive(on_a, "k"));
    assert!(at_once(b.acquire(&fixture.exclusive(on_b, "k"), Wait::Never)).is_none());
    assert_eq!(at_once(b.inspect("k")).unwrap().waiters, 0, "a claim that does not wait leaves nothing in the queue");
    at_once(a.release(&grant));
    let next = take(&b, &fixture.exclusive(on_b, "k"));
    assert!(next.epoch > grant.epoch);
    // Again, and late: the successor stays.
    let late = a.release(&grant).now_or_never().expect("ready at the first poll");
    assert_eq!(late.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(at_once(a.inspect("k")).unwrap().holders, [Holder::new(format!("h{}", on_b.id), "", 0)]);
}

#[tokio::test]
async fn first_come_first_served_and_readers_together() {
    let fixture = Fixture::new();
    let link = fixture.link();
    let lease = session(&link);
    let first = take(&link, &fixture.exclusive(lease, "k"));
    let claims = [
        fixture.shared(lease, "k"),
        fixture.shared(lease, "k"),
        fixture.exclusive(lease, "k"),
        fixture.shared(lease, "k"),
    ];
    let mut waits: Vec<_> = claims.iter().map(|claim| link.acquire(claim, Wait::UntilGranted)).collect();
    for wait in &mut waits {
        assert!(futures::poll!(wait).is_pending());
    }
    assert_eq!(at_once(link.inspect("k")).unwrap().waiters, 4);

    at_once(link.release(&first));
    let mut grants = Vec::new();
    for wait in &mut waits[..2] {
        let Poll::Ready(Ok(Some(grant))) = futures::poll!(wait) else { panic!("the readers in front hold it") };
        grants.push(grant);
    }
    assert!(futures::poll!(&mut waits[2]).is_pending());
    assert!(futures::poll!(&mut waits[3]).is_pending(), "a reader behind a waiting writer waits");
    assert!(
        at_once(link.acquire(&fixture.shared(lease, "k"), Wait::Never)).is_none(),
        "and a new one does not overtake"
    );

    at_once(link.release(&grants[0]));
    assert!(futures::poll!(&mut waits[2]).is_pending());
    at_once(link.release(&grants[1]));
    let writer = waits.remove(2).await.unwrap().unwrap();
    assert!(futures::poll!(&mut waits[2]).is_pending());
    at_once(link.release(&writer));
    let reader = waits.remove(2).await.unwrap().unwrap();
    assert!(first.epoch <= grants[0].epoch && grants[0].epoch < writer.epoch && writer.epoch <= reader.epoch);
}

#[test]
fn a_lease_ends_at_its_time_and_not_before() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.link(), fixture.link());
    let (on_a, on_b) = (session(&a), session(&b));
    take(&a, &fixture.exclusive(on_a, "k"));
    fixture.clock.advance(TTL - Duration::from_nanos(1));
    assert!(at_once(b.acquire(&fixture.exclusive(on_b, "k"), Wait::Never)).is_none());
    let renewed = a.renew(&[on_a]).now_or_never().unwrap();
    assert_eq!(renewed[0].as_ref().unwrap().proven, fixture.clock.now());
    let _ = b.renew(&[on_b]).now_or_never().unwrap();
    fixture.clock.advance(TTL - Duration::from_nanos(1));
    let _ = b.renew(&[on_b]).now_or_never().unwrap();
    assert!(at_once(b.acquire(&fixture.exclusive(on_b, "k"), Wait::Never)).is_none());
    fixture.clock.advance(Duration::from_nanos(1));
    take(&b, &fixture.exclusive(on_b, "k"));
    let ended = a.renew(&[on_a]).now_or_never().unwrap();
    assert_eq!(ended[0].as_ref().unwrap_err().kind(), ErrorKind::LeaseLost);
    let refused = a.acquire(&fixture.exclusive(on_a, "other"), Wait::UntilGranted).now_or_never().unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_finds_that_the_holder_has_expired() {
    /// Tokio's clock, which the test's runtime moves as soon as all tasks sleep.
    #[derive(Debug)]
    struct Slept(tokio::time::Instant);
    impl Clock for Slept {
        fn now(&self) -> Timestamp {
            Timestamp::from_nanos(0) + self.0.elapsed()
        }
    }
    let clock: Arc<dyn Clock> = Arc::new(Slept(tokio::time::Instant::now()));
    let fixture = Fixture::new();
    let store = Store::with_clock(clock.clone());
    let (a, b) = (Memory::new(store.clone(), clock.clone()), Memory::new(store, clock.clone()));
    let (on_a, on_b) = (session(&a), at_once(b.open(10 * TTL, LeaseScope::Session)));
    take(&a, &fixture.exclusive(on_a, "k"));
    let claim = fixture.exclusive(on_b, "k");
    let waiting = b.acquire(&claim, Wait::UntilGranted);
    let renewing = async {
        tokio::time::sleep(TTL / 3).await;
        assert!(a.renew(&[on_a]).await[0].is_ok());
    };
    let (granted, ()) = futures::join!(waiting, renewing);
    assert!(granted.unwrap().is_some());
    let waited = clock.now().since(Timestamp::from_nanos(0));
    assert!(waited >= TTL + TTL / 3 && waited < TTL + TTL / 3 + Duration::from_millis(10), "{waited:?}");
}

#[tokio::test]
async fn an_aborted_attempt_never_comes_back() {
    let fixture = Fixture::new();
    let link = fixture.link();
    let lease = session(&link);
    for before in [None, Some(Wait::Never), Some(Wait::UntilGranted)] {
        let claim = fixture.exclusive(lease, "k");
        if let Some(wait) = before {
            let holder = take(&link, &fixture.exclusive(lease, "k"));
            assert_eq!(link.acquire(&claim, wait).now_or_never().is_none(), wait == Wait::UntilGranted);
            at_once(link.release(&holder));
        }
        at_once(link.abort(&claim));
        at_once(link.abort(&claim));
        for wait in [Wait::Never, Wait::UntilGranted] {
            let ghost = link.acquire(&claim, wait).now_or_never().unwrap();
            assert_eq!(ghost.unwrap_err().kind(), ErrorKind::LeaseLost);
        }
        assert!(at_once(link.inspect("k")).is_none());
    }
}

#[tokio::test]
async fn aborting_takes_a_waiter_out_and_lets_the_next_ones_in() {
    let fixture = Fixture::new();
    let link = fixture.link();
    let lease = session(&link);
    let reader = take(&link, &fixture.shared(lease, "k"));
    let (writer, behind) = (fixture.exclusive(lease, "k"), fixture.shared(lease, "k"));
    let mut writing = link.acquire(&writer, Wait::UntilGranted);
    assert!(futures::poll!(&mut writing).is_pending());
    let mut reading = link.acquire(&behind, Wait::UntilGranted);
    assert!(futures::poll!(&mut reading).is_pending());
    drop(writing);
    at_once(link.abort(&writer));
    assert!(reading.await.unwrap().unwrap().epoch > reader.epoch);
}

#[test]
fn a_lease_for_one_hold_ends_with_it() {
    let fixture = Fixture::new();
    let link = fixture.link();
    let own = at_once(link.open(TTL, LeaseScope::Claim));
    assert!(!own.is_session());
    let grant = take(&link, &fixture.exclusive(own, "k"));
    at_once(link.release(&grant));
    assert!(link.renew(&[own]).now_or_never().unwrap()[0].is_err());
    let own = at_once(link.open(TTL, LeaseScope::Claim));
    at_once(link.abort(&fixture.exclusive(own, "k")));
    assert!(link.renew(&[own]).now_or_never().unwrap()[0].is_err());
}

#[tokio::test]
async fn evict_ends_the_lease_with_all_that_was_on_it() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.link(), fixture.link());
    let (on_a, on_b) = (session(&a), session(&b));
    take(&a, &fixture.exclusive(on_a, "k"));
    take(&a, &fixture.shared(on_a, "also"));
    take(&b, &fixture.exclusive(on_b, "b"));
    let waits_for_b = fixture.exclusive(on_a, "b");
    let mut waiting = a.acquire(&waits_for_b, Wait::UntilGranted);
    assert!(futures::poll!(&mut waiting).is_pending());

    let eviction = at_once(b.evict("k", &Evict::default()));
    assert_eq!(eviction.released, ["also", "k"], "what was only waited for is not released");
    assert_eq!(eviction.holders.len(), 1);
    assert_eq!(at_once(a.next_event()), Event::LeaseLost(on_a.id));
    assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(b.next_event().now_or_never().is_none());
    assert_eq!(at_once(b.list("")).iter().map(|info| &*info.key).collect::<Vec<_>>(), ["b"]);
    assert_eq!(at_once(b.evict("k", &Evict::default())), Eviction::default());
}

#[test]
fn evict_of_the_key_alone_leaves_the_lease() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.link(), fixture.link());
    let on_a = session(&a);
    let claim = fixture.exclusive(on_a, "k");
    take(&a, &claim);
    take(&a, &fixture.exclusive(on_a, "also"));
    assert_eq!(at_once(b.evict("k", &Evict { scope: EvictScope::Claim, only: None })).released, ["k"]);
    assert_eq!(at_once(a.next_event()), Event::ClaimLost(claim.attempt));
    assert!(a.renew(&[on_a]).now_or_never().unwrap()[0].is_ok());
    assert!(at_once(b.inspect("k")).is_none() && at_once(b.inspect("also")).is_some());
}

#[test]
fn a_closed_link_only_gives_back() {
    let fixture = Fixture::new();
    let link = fixture.link();
    let lease = session(&link);
    let grant = take(&link, &fixture.exclusive(lease, "k"));
    at_once(link.close());
    let claim = fixture.exclusive(lease, "other");
    assert_eq!(link.acquire(&claim, Wait::UntilGranted).now_or_never().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(block_on(link.open(TTL, LeaseScope::Session)).unwrap_err().kind(), ErrorKind::Closed);
    at_once(link.release(&grant));
    assert!(at_once(fixture.link().inspect("k")).is_none());
}

#[test]
fn a_name_is_one_store() {
    let (one, same, other) = (Store::named("one"), Store::named("one"), Store::named("other"));
    assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
}

#[test]
fn a_key_used_once_leaves_nothing() {
    let mut state = State::new(Arc::new(SystemClock));
    let mut wakes = Wakes::default();
    let lease = state.open(Timestamp::from_nanos(0), TTL, LeaseScope::Session, Arc::default());
    let fixture = Fixture::new();
    let of = Lease::new(lease, TTL, Timestamp::from_nanos(0), LeaseScope::Session);
    let claims: Vec<_> = (0..10_000).map(|n| fixture.exclusive(of, &format!("key {n}"))).collect();
    for claim in &claims {
        assert!(matches!(state.acquire(Timestamp::from_nanos(0), claim, Wait::Never, &mut wakes), Answer::Granted(_)));
    }
    for claim in &claims {
        state.give_up(lease, claim.attempt, &mut wakes);
    }
    assert!(state.memory() < 200, "{}", state.memory());
}

/// The simplest implementation of the store: a list of claims in the order of their arrival.
#[derive(Default)]
struct Model {
    claims: Vec<Claim>,
    /// The last epoch of each key.
    last_exclusive: [u64; 2],
}

impl Model {
    fn holding(&self, key: &str) -> Vec<AttemptId> {
        let mut queue = self.claims.iter().filter(|claim| &*claim.key == key).peekable();
        match queue.peek() {
            Some(first) if first.mode == Mode::Exclusive => vec![first.attempt],
            _ => queue.take_while(|claim| claim.mode == Mode::Shared).map(|claim| claim.attempt).collect(),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Acquire { lease: usize, key: usize, shared: bool, wait: Wait },
    GiveUp { nth: usize, abort: bool },
    Renew { lease: usize },
    Advance { seconds: u64 },
    Evict { key: usize, scope: EvictScope },
}

fn any_step(rng: &mut StdRng) -> Step {
    let (lease, key) = (rng.random_range(0..3), rng.random_range(0..2));
    match rng.random_range(0..17) {
        0..8 => Step::Acquire {
            lease,
            key,
            shared: rng.random(),
            wait: if rng.random() { Wait::Never } else { Wait::UntilGranted },
        },
        8..13 => Step::GiveUp { nth: rng.random_range(0..60), abort: rng.random() },
        13..15 => Step::Renew { lease },
        15 => Step::Advance { seconds: rng.random_range(1..20) },
        _ => Step::Evict { key, scope: if rng.random() { EvictScope::Claim } else { EvictScope::Lease } },
    }
}

const KEYS: [&str; 2] = ["a", "b"];

/// Three leases of a store and of its model, which are opened again when they have ended.
struct Run {
    fixture: Fixture,
    link: Memory,
    model: Model,
    leases: Vec<(Lease, Timestamp)>,
    waiting: Vec<(AttemptId, oneshot::Receiver<u64>)>,
}

impl Run {
    fn new() -> Self {
        let fixture = Fixture::new();
        let link = fixture.link();
        let leases = (0..3).map(|_| (session(&link), fixture.clock.now() + TTL)).collect();
        Self { fixture, link, model: Model::default(), leases, waiting: Vec::new() }
    }

    fn end(&mut self, lease: LeaseId) {
        self.model.claims.retain(|claim| claim.lease.id != lease);
        let link = &self.link;
        let now = self.fixture.clock.now();
        if let Some(entry) = self.leases.iter_mut().find(|(known, _)| known.id == lease) {
            *entry = (session(link), now + TTL);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Acquire { lease, key, shared, wait } => {
                let mode = if shared { Mode::Shared } else { Mode::Exclusive };
                let claim = self.fixture.claim(self.leases[lease].0, KEYS[key], mode);
                self.model.claims.push(claim.clone());
                let granted = self.model.holding(KEYS[key]).contains(&claim.attempt);
                match self.fixture.store.acquire(&claim, wait) {
                    Answer::Granted(epoch) => {
                        assert!(granted);
                        self.granted(&claim, epoch);
                    }
                    Answer::Queued(answer) => {
                        assert!(wait == Wait::UntilGranted && !granted);
                        self.waiting.push((claim.attempt, answer));
                    }
                    Answer::Busy => {
                        assert!(wait == Wait::Never && !granted);
                        self.model.claims.pop();
                    }
                    Answer::Refused => panic!("the lease lives"),
                }
            }
            Step::GiveUp { nth, abort } => {
                if self.model.claims.is_empty() {
                    return;
                }
                let claim = self.model.claims.remove(nth % self.model.claims.len());
                match abort {
                    true => self.fixture.store.abort(claim.lease.id, claim.attempt),
                    false => assert!(self.fixture.store.release(claim.lease.id, claim.attempt), "it exists"),
                }
            }
            Step::Renew { lease } => {
                assert_eq!(self.fixture.store.renew([self.leases[lease].0.id]), [true]);
                self.leases[lease].1 = self.fixture.clock.now() + TTL;
            }
            Step::Advance { seconds } => {
                self.fixture.clock.advance(Duration::from_secs(seconds));
                self.fixture.store.purge();
                let now = self.fixture.clock.now();
                let over: Vec<_> = self.leases.iter().filter(|(_, end)| *end <= now).map(|(of, _)| of.id).collect();
                over.into_iter().for_each(|lease| self.end(lease));
            }
            Step::Evict { key, scope } => {
                let holding = self.model.holding(KEYS[key]);
                let eviction = self.fixture.store.evict(KEYS[key], &Evict { scope, only: None });
                assert_eq!(eviction.holders.len(), holding.len());
                let (evicted, kept) = std::mem::take(&mut self.model.claims)
                    .into_iter()
                    .partition(|claim| holding.contains(&claim.attempt));
                self.model.claims = kept;
                let evicted: Vec<Claim> = evicted;
                if scope == EvictScope::Lease {
                    evicted.iter().for_each(|claim| self.end(claim.lease.id));
                }
            }
        }
    }

    fn granted(&mut self, claim: &Claim, epoch: u64) {
        let last = &mut self.model.last_exclusive[usize::from(&*claim.key == KEYS[1])];
        if claim.mode == Mode::Exclusive {
            assert!(epoch > *last, "epochs grow");
            *last = epoch;
        } else {
            assert!(epoch >= *last);
        }
    }

    /// Checks that store and model agree on holders and waiters, and that the waiters were notified.
    fn check(&mut self) {
        for key in KEYS {
            let queued = self.model.claims.iter().filter(|claim| &*claim.key == key).count();
            let holding = self.model.holding(key).len();
            match self.fixture.store.inspect(key) {
                None => assert_eq!(queued, 0),
                Some(info) => assert_eq!((info.holders.len(), info.waiters), (holding, queued - holding)),
            }
        }
        for (attempt, mut answer) in std::mem::take(&mut self.waiting) {
            let claim = self.model.claims.iter().find(|claim| claim.attempt == attempt).cloned();
            match (answer.try_recv(), claim) {
                (Ok(epoch), Some(claim)) => {
                    assert!(self.model.holding(&claim.key).contains(&attempt));
                    self.granted(&claim, epoch);
                }
                (Err(oneshot::error::TryRecvError::Empty), Some(claim)) => {
                    assert!(!self.model.holding(&claim.key).contains(&attempt));
                    self.waiting.push((attempt, answer));
                }
                // Granted and removed in one step: it may have been notified of either.
                (Ok(_) | Err(oneshot::error::TryRecvError::Closed), None) => {}
                (answer, claim) => panic!("{answer:?} for {claim:?}"),
            }
        }
    }
}

#[test]
fn the_store_does_what_the_model_does() {
    walk(500, |rng| {
        let mut run = Run::new();
        for _ in 0..rng.random_range(0..60) {
            run.step(&any_step(rng));
            run.check();
        }
        for claim in std::mem::take(&mut run.model.claims) {
            run.fixture.store.release(claim.lease.id, claim.attempt);
        }
        for (lease, _) in &run.leases {
            run.fixture.store.revoke(lease.id);
        }
        assert!(run.fixture.store.list("").is_empty());
        assert_eq!(run.fixture.store.leases(), 0);
    });
}

#[test]
#[ignore = "a measurement: run it with --release --nocapture"]
fn speed() {
    let link = Memory::new(Store::private(), Arc::new(SystemClock));
    let lease = session(&link);
    let fixture = Fixture::new();
    let mut claim = fixture.exclusive(lease, "accounts/4711");
    let round = |n: u64| {
        claim.attempt = AttemptId(n);
        let grant = take(&link, &claim);
        at_once(link.release(&grant));
    };
    println!("{:?} for acquire and release", best_of_many(round));
}

/// The time of one call in the best of many batches: the others were disturbed.
fn best_of_many(mut call: impl FnMut(u64)) -> Duration {
    const BATCH: u32 = 2_000;
    let batches = (0..1_000u64).map(|batch| {
        let start = std::time::Instant::now();
        (0..BATCH).for_each(|n| call(batch * u64::from(BATCH) + u64::from(n)));
        start.elapsed() / BATCH
    });
    batches.min().unwrap_or_default()
}
