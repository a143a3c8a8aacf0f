//! The protocol, step by step: two managers of one process, which contend like two processes.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::gates::{Gate, at_each};
use super::locks;
use super::scratch::Scratch;
use super::ticket::{Place, micros};
use super::*;

mod stopped;

use crate::backend::{AttemptId, Claim, ErrorKind, EvictScope, LeaseScope, Timestamp};
use crate::clock::Clock;
use crate::info::{Holder, Mode};
use crate::support::eventually;

const TTL: Duration = Duration::from_secs(30);
/// Far below the time after which a waiter looks in any case.
const SOON: Duration = Duration::from_secs(3);

/// A clock that only the test moves.
#[derive(Debug)]
struct TestClock(AtomicU64);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_000_000_000_000)))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// A manager's backend, with a session.
struct Manager {
    backend: Arc<File>,
    lease: Lease,
    /// Keeps the key's file open between calls, as the engine does.
    _key: Arc<super::keys::Key>,
}

impl Manager {
    async fn start(scratch: &Scratch, clock: &Arc<TestClock>) -> Self {
        Self::start_at(&scratch.path().join("d"), TTL, clock.clone()).await
    }

    async fn start_at(directory: &Path, ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        let options = Options { directory: directory.into(), mode: None, prefix: String::new(), name: "test".into() };
        let backend = Arc::new(File::open(options, clock, Handle::current()).await.unwrap());
        let lease = backend.open(ttl, LeaseScope::Session).await.unwrap();
        let claim = Claim::new(AttemptId(0), "k".into(), Mode::Exclusive, lease, Arc::default());
        let key = backend.0.acquirer.keys.of(&claim);
        Self { backend, lease, _key: key }
    }

    fn claim(&self, mode: Mode) -> Claim {
        let attempt = AttemptId(rand::random());
        Claim::new(attempt, "k".into(), mode, self.lease, Arc::new(Holder::this_process("test")))
    }

    async fn try_lock(&self, mode: Mode) -> Option<Grant> {
        self.backend.acquire(&self.claim(mode), Wait::Never).await.unwrap()
    }

    /// Has the key's file opened.
    async fn lock_once(&self) {
        let grant = self.try_lock(Mode::Exclusive).await.expect("free");
        self.backend.release(&grant).await.unwrap();
    }

    /// Waits for the lock in a task.
    fn lock(&self, mode: Mode) -> tokio::task::JoinHandle<Result<Grant>> {
        let (backend, claim) = (self.backend.clone(), self.claim(mode));
        tokio::spawn(async move { backend.acquire(&claim, Wait::UntilGranted).await.map(Option::unwrap) })
    }

    async fn waits_for(&self, waiters: usize) {
        let started = Instant::now();
        while self.backend.inspect("k").await.unwrap().map_or(0, |info| info.waiters) != waiters {
            assert!(started.elapsed() < SOON, "not {waiters} waiters");
            sleep(Duration::from_millis(2)).await;
        }
    }

    fn renew(&self) -> Result<Lease> {
        self.backend.renew(&[self.lease]).now_or_never().unwrap().remove(0)
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("soon")
}

fn below(scratch: &Scratch, path: &str) -> PathBuf {
    scratch.path().join("d").join(path)
}

fn names(scratch: &Scratch, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(below(scratch, folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The file of the life of a lease.
fn life_of(scratch: &Scratch, lease: &Lease) -> PathBuf {
    let end = format!(".{:016x}", lease.id.0);
    below(scratch, "l").join(names(scratch, "l").into_iter().find(|name| name.ends_with(&end)).unwrap())
}

/// Locks a byte of a key's file as another process.
fn lock_byte(scratch: &Scratch, place: Place) -> OwnedFd {
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(below(scratch, "k/k"));
    let file: OwnedFd = file.unwrap().into();
    assert!(locks::lock(&file, Mode::Exclusive, place.byte()).unwrap());
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_is_given_up_wakes_the_claim_that_has_seen_it() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    a.lock_once().await;
    let other = Arc::new(std::sync::Mutex::new(None));
    let (started, of_b, handle) = (other.clone(), b.claim(Mode::Exclusive), Handle::current());
    let backend = b.backend.clone();
    // Polled on this thread, where the gates are.
    let granted = tokio::task::block_in_place(|| {
        let stepping = at_each(move |gate| {
            let mut started = started.lock().unwrap();
            if gate == Gate::Placed && started.is_none() {
                let (backend, claim) = (backend.clone(), of_b.clone());
                *started = Some(handle.spawn(async move { backend.acquire(&claim, Wait::UntilGranted).await }));
                // It has joined behind this place, and waits for it.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let claim = a.claim(Mode::Exclusive);
        let mut waiting = Box::pin(a.backend.acquire(&claim, Wait::UntilGranted));
        let first = (&mut waiting).now_or_never();
        assert!(first.is_none(), "it has withdrawn, and waits behind the other one: {first:?}");
        drop(stepping);
        let b_first = other.lock().unwrap().take().unwrap();
        Handle::current().block_on(async {
            let grant = soon(b_first).await.unwrap().unwrap().unwrap();
            b.backend.release(&grant).await.unwrap();
            let next = soon(waiting).await.unwrap().unwrap();
            assert!(next.epoch > grant.epoch);
            next
        })
    });
    a.backend.release(&granted).await.unwrap();
}

#[tokio::test]
async fn who_is_dead_is_said_by_the_lease_and_not_by_the_lock() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let a = Manager::start(&scratch, &clock).await;
    a.lock_once().await;
    // Its lease has no name.
    let nameless = lock_byte(&scratch, Place::new(micros() - 1000, 4711).unwrap());
    let grant = a.try_lock(Mode::Exclusive).await.expect("the claim is void");
    a.backend.release(&grant).await.unwrap();
    drop(nameless);
    // Its lease has no reader.
    let fifo = below(&scratch, "l/4712.00000000000000aa");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let dead = lock_byte(&scratch, Place::new(micros() - 1000, 4712).unwrap());
    let grant = a.try_lock(Mode::Exclusive).await.expect("the claim is void");
    a.backend.release(&grant).await.unwrap();
    drop(dead);
    // And with one it counts.
    let read = |path| {
        rustix::fs::open(path, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK, rustix::fs::Mode::empty())
    };
    let reader = read(&fifo).unwrap();
    let alive = lock_byte(&scratch, Place::new(micros() - 1000, 4712).unwrap());
    assert!(a.try_lock(Mode::Exclusive).await.is_none());
    // A waiter notices the end of the reader, although the lock stays.
    let waiting = a.lock(Mode::Exclusive);
    a.waits_for(1).await;
    drop(reader);
    soon(waiting).await.unwrap().unwrap();
    drop(alive);
}

#[tokio::test]
async fn an_expired_lease_is_taken_away_and_reported() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    let old = a.try_lock(Mode::Exclusive).await.unwrap();
    clock.advance(TTL - Duration::from_millis(1));
    b.renew().unwrap();
    assert!(b.try_lock(Mode::Exclusive).await.is_none());
    clock.advance(Duration::from_millis(1));
    let new = b.try_lock(Mode::Exclusive).await.expect("its time is over");
    assert!(new.epoch > old.epoch);
    assert_eq!(soon(a.backend.next_event()).await.unwrap(), Event::LeaseLost(a.lease.id));
    assert_eq!(a.renew().unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(a.backend.release(&old).await.map_err(|error| error.kind()), Err(ErrorKind::LeaseLost));
    assert!(b.backend.inspect("k").await.unwrap().is_some(), "a late release leaves the successor alone");
}

#[tokio::test]
async fn a_renewal_that_slips_in_before_the_rename_counts() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    let held = a.try_lock(Mode::Exclusive).await.unwrap();
    clock.advance(TTL);
    b.renew().unwrap();
    let (life, slipped_in) = (life_of(&scratch, &a.lease), Arc::new(AtomicBool::new(false)));
    let (out, seen, at) = (PathBuf::from(format!("{}.out", life.display())), slipped_in.clone(), clock.now());
    let stepping = at_each(move |gate| {
        if gate == Gate::Renamed && !seen.swap(true, Ordering::SeqCst) {
            // As a renewal that was proved by the name which has been taken away since.
            let fifo = rustix::fs::open(
                &out,
                rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK,
                rustix::fs::Mode::empty(),
            );
            super::folder::set_modified(&fifo.unwrap(), at.as_nanos()).unwrap();
        }
    });
    assert!(b.try_lock(Mode::Exclusive).await.is_none(), "the lease was renewed");
    assert!(slipped_in.load(Ordering::SeqCst));
    drop(stepping);
    // It cannot be renewed again, and ends with that renewal's time.
    assert_eq!(a.backend.renew(&[a.lease]).await.remove(0).unwrap_err().kind(), ErrorKind::LeaseLost);
    drop(held);
    clock.advance(TTL - Duration::from_millis(1));
    b.renew().unwrap();
    clock.advance(TTL);
    b.renew().unwrap();
    assert!(b.try_lock(Mode::Exclusive).await.is_some());
}

#[tokio::test]
async fn a_claim_that_is_evicted_between_its_look_and_its_proof_is_not_granted() {
    for gate in [Gate::Looked, Gate::Dated] {
        let (scratch, clock) = (Scratch::new(), TestClock::new());
        let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
        // Their files are open then, and all is done in one poll.
        a.lock_once().await;
        b.lock_once().await;
        let life = life_of(&scratch, &a.lease);
        let (backend, claim) = (b.backend.clone(), b.claim(Mode::Exclusive));
        let granted = Arc::new(std::sync::Mutex::new(None));
        let successor = granted.clone();
        let stepping = at_each(move |at| {
            if at == gate && successor.lock().unwrap().is_none() {
                std::fs::remove_file(&life).unwrap();
                let grant = backend.acquire(&claim, Wait::UntilGranted).now_or_never().expect("at once");
                *successor.lock().unwrap() = grant.unwrap();
            }
        });
        let outcome = a.backend.acquire(&a.claim(Mode::Exclusive), Wait::UntilGranted).await;
        drop(stepping);
        assert_eq!(outcome.map_err(|error| error.kind()).unwrap_err(), ErrorKind::LeaseLost, "{gate:?}");
        assert!(granted.lock().unwrap().is_some());
    }
}

#[tokio::test]
async fn a_removed_key_file_is_a_loss_and_its_queue_goes_on_in_a_new_one() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    let held = a.try_lock(Mode::Exclusive).await.unwrap();
    let waiting = b.lock(Mode::Exclusive);
    a.waits_for(1).await;
    std::fs::remove_file(below(&scratch, "k/k")).unwrap();
    a.renew().unwrap();
    assert_eq!(soon(a.backend.next_event()).await.unwrap(), Event::ClaimLost(held.attempt));
    let next = soon(waiting).await.unwrap().unwrap();
    assert!(next.epoch > held.epoch && below(&scratch, "k/k").exists());
    assert_eq!(a.backend.release(&held).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(a.try_lock(Mode::Exclusive).await.is_none(), "the late release leaves the successor alone");
}

#[tokio::test]
async fn a_removed_directory_is_a_loss_and_made_again() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let mut a = Manager::start(&scratch, &clock).await;
    a.try_lock(Mode::Exclusive).await.unwrap();
    std::fs::remove_dir_all(scratch.path().join("d")).unwrap();
    assert_eq!(a.renew().unwrap_err().kind(), ErrorKind::LeaseLost);
    a.lease = a.backend.open(TTL, LeaseScope::Session).await.unwrap();
    let b = Manager::start(&scratch, &clock).await;
    let held = b.try_lock(Mode::Exclusive).await.unwrap();
    let waiting = a.lock(Mode::Exclusive);
    b.waits_for(1).await;
    b.backend.release(&held).await.unwrap();
    soon(waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_claim_is_evicted_alone() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    let (one, other) = (a.try_lock(Mode::Shared).await.unwrap(), b.try_lock(Mode::Shared).await.unwrap());
    let writer = b.lock(Mode::Exclusive);
    a.waits_for(1).await;
    let seen = a.backend.inspect("k").await.unwrap().unwrap();
    let evict = Evict { scope: EvictScope::Claim, only: Some(vec![seen.claims[0].clone()]) };
    assert_eq!(b.backend.evict("k", &evict).await.unwrap().released, ["k"]);
    assert_eq!(soon(a.backend.next_event()).await.unwrap(), Event::ClaimLost(one.attempt));
    a.renew().unwrap();
    assert!(!writer.is_finished(), "the other reader holds");
    b.backend.release(&other).await.unwrap();
    soon(writer).await.unwrap().unwrap();
    assert!(names(&scratch, "v").is_empty(), "a loss removes its mark");
}

#[tokio::test]
async fn a_lock_of_another_program_is_an_error() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let a = Manager::start(&scratch, &clock).await;
    a.lock_once().await;
    let (one, other) = (lock_byte(&scratch, Place::at(10)), below(&scratch, "k/k"));
    assert!(other.exists());
    assert!(locks::lock(&one, Mode::Exclusive, 11).unwrap());
    let error = a.backend.acquire(&a.claim(Mode::Exclusive), Wait::Never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
}

#[tokio::test]
async fn a_sweep_removes_what_is_dead_and_unused_and_nothing_else() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let a = Manager::start(&scratch, &clock).await;
    let held = a.try_lock(Mode::Exclusive).await.unwrap();
    let fifo = |path: &str| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, below(&scratch, path), mode).unwrap();
    };
    for dead in ["l/5.00000000000000aa", "l/6.00000000000000aa.out", "m/00000000000000ab"] {
        fifo(dead);
    }
    for left in
        ["l/5.00000000000000aa.json", "l/7.00000000000000aa.json", "v/5.00000000000000aa.1.2", "k/unused", "k/recent"]
    {
        std::fs::write(below(&scratch, left), "").unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for old in ["k/unused", "k/k", "slots"] {
        let file = std::fs::File::options().write(true).open(below(&scratch, old)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    a.backend.0.sweep_now().unwrap();
    let left = || {
        let mut keys = names(&scratch, "k");
        keys.sort();
        (keys, names(&scratch, "l").len(), names(&scratch, "m").len(), names(&scratch, "v").len())
    };
    let expected = (vec!["k".to_owned(), "recent".to_owned()], 2, 1, 0);
    // The manager's first sweep, if it began late, is the one that does it.
    eventually("the rest", || (left() == expected).then_some(()));
    a.renew().unwrap();
    a.backend.release(&held).await.unwrap();
    a.backend.close().await.unwrap();
    eventually("nothing is left", || (names(&scratch, "l").len() + names(&scratch, "m").len() == 0).then_some(()));
    // Not again within a minute.
    assert!(
        SystemTime::now()
            .duration_since(std::fs::metadata(below(&scratch, "slots")).unwrap().modified().unwrap())
            .unwrap()
            < SOON
    );
}

/// Calls a function at the first pass of a gate by this thread.
fn once_at(gate: Gate, step: impl FnOnce() + 'static) -> super::gates::Stepping {
    let mut step = Some(step);
    at_each(move |at| {
        if at == gate
            && let Some(step) = step.take()
        {
            step();
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_try_beside_a_sweep_that_holds_the_key_succeeds() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    a.lock_once().await;
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for old in ["k/k", "slots"] {
        std::fs::File::options().write(true).open(below(&scratch, old)).unwrap().set_modified(long_ago).unwrap();
    }
    let b = Arc::new(b);
    let (trying, handle) = (b.clone(), Handle::current());
    let (sender, tried) = std::sync::mpsc::channel();
    let swept = tokio::task::block_in_place(|| {
        let _stepping = once_at(Gate::Placed, move || {
            let task = handle.spawn(async move { trying.try_lock(Mode::Exclusive).await });
            // It has seen the sweep, and looks again and again.
            std::thread::sleep(Duration::from_millis(20));
            assert!(!task.is_finished(), "the sweep does not hold the key for long");
            sender.send(task).unwrap();
        });
        a.backend.0.sweep_now()
    });
    swept.unwrap();
    let grant = soon(tried.recv().unwrap()).await.unwrap().expect("the key is free");
    b.backend.release(&grant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn of_tries_that_begin_together_one_succeeds() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let a = Manager::start(&scratch, &clock).await;
    let b = Arc::new(Manager::start(&scratch, &clock).await);
    b.lock_once().await;
    a.lock_once().await;
    for round in 0..300_u64 {
        let (other, handle, (sender, started)) = (b.clone(), Handle::current(), std::sync::mpsc::channel());
        let tried = tokio::task::block_in_place(|| {
            // The other one joins behind this one, so that this one leaves its place, and sees it there or not.
            let _stepping = once_at(Gate::Placed, move || {
                sender.send(handle.spawn(async move { other.try_lock(Mode::Exclusive).await })).unwrap();
                let started = Instant::now();
                while started.elapsed() < Duration::from_micros(round % 100) {
                    std::hint::spin_loop();
                }
            });
            Handle::current().block_on(a.try_lock(Mode::Exclusive))
        });
        let other = soon(started.recv().unwrap()).await.unwrap();
        assert!(tried.is_some() != other.is_some(), "round {round}: {tried:?}, {other:?}");
        for (manager, grant) in [(&a, tried), (&b, other)] {
            if let Some(grant) = grant {
                manager.backend.release(&grant).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_full_mailbox_delays_nobody() {
    let (scratch, clock) = (Scratch::new(), TestClock::new());
    let (a, b) = (Manager::start(&scratch, &clock).await, Manager::start(&scratch, &clock).await);
    let held = a.try_lock(Mode::Exclusive).await.unwrap();
    let waiting = b.lock(Mode::Exclusive);
    a.waits_for(1).await;
    // More than fits, without a chance for the readers in between: this thread runs them.
    for mailbox in names(&scratch, "m") {
        let fifo = rustix::fs::open(
            below(&scratch, "m").join(mailbox),
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        let fifo = fifo.unwrap();
        while rustix::io::write(&fifo, &[7; 16]).is_ok() {}
    }
    a.backend.release(&held).now_or_never().unwrap().unwrap();
    soon(waiting).await.unwrap().unwrap();
}
