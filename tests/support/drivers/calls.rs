//! Random calls on two managers of one memory store, compared with a plain model of the holds.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use leasehold::{Acquire, LockGuard, LockManager, Loss, Mode, Owner, Result};

const KEYS: [&str; 2] = ["a", "a/b"];
const OWNERS: usize = 3;

/// Makes the calls that the bytes encode, two bytes each, and compares the results with the model. The first byte enables local
/// handovers.
pub fn api_calls(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let mut fixture = Fixture::new(first % 2 == 0);
    for call in data.chunks_exact(2).take(100) {
        fixture.call(call[0] % 13, call[1]);
        fixture.quiesce();
        fixture.check();
    }
    fixture.end();
}

struct Fixture {
    managers: [LockManager; 2],
    owners: [Owner; OWNERS],
    hand_over: bool,
    holds: Vec<Hold>,
    waiting: Vec<Waiting>,
    /// The greatest tokens of each key: of an exclusive hold, of a shared one.
    tokens: [(u64, u64); KEYS.len()],
}

/// A request or a hold in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Who {
    manager: usize,
    owner: usize,
    key: usize,
    mode: Mode,
}

struct Hold {
    who: Who,
    guards: Vec<LockGuard>,
    lost: bool,
}

struct Waiting {
    who: Who,
    future: Acquire,
}

impl Who {
    fn is_same_hold(&self, other: &Self) -> bool {
        (self.manager, self.owner, self.key) == (other.manager, other.owner, other.key)
    }

    fn excludes(&self, other: &Self) -> bool {
        self.key == other.key && (self.mode == Mode::Exclusive || other.mode == Mode::Exclusive)
    }
}

impl Fixture {
    fn new(hand_over: bool) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let url = format!("memory://model-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let manager = || {
            let builder = LockManager::builder().url(&url).drop_wait(Duration::ZERO);
            let builder = if hand_over { builder } else { builder.hand_over(Duration::ZERO, 0) };
            block_on(builder.build()).unwrap()
        };
        Self {
            managers: [manager(), manager()],
            owners: std::array::from_fn(|_| Owner::new()),
            hand_over,
            holds: Vec::new(),
            waiting: Vec::new(),
            tokens: [(0, 0); KEYS.len()],
        }
    }

    fn call(&mut self, call: u8, argument: u8) {
        let number = usize::from(argument);
        let who = self.who(argument);
        match call {
            0..=2 => self.lock(who),
            3 => self.try_lock(who),
            4 | 5 => {
                if let Some((hold, guard)) = self.pick(number) {
                    let guard = self.take(hold, guard);
                    drop(guard);
                }
            }
            6 => {
                if let Some((hold, guard)) = self.pick(number) {
                    let lost = self.holds[hold].lost;
                    let unlocked = block_on(self.take(hold, guard).unlock());
                    assert_eq!(unlocked.err().map(|error| error.code()), lost.then_some("LOCK_EXPIRED"));
                }
            }
            7 if !self.waiting.is_empty() => {
                self.waiting.remove(number % self.waiting.len());
            }
            7 => {}
            8 => self.reenter(number),
            9 => {
                if let Some((hold, guard)) = self.pick(number) {
                    let renewed = block_on(self.holds[hold].guards[guard].renew());
                    assert_eq!(renewed.is_err(), self.holds[hold].lost);
                }
            }
            10 => self.force_unlock(who.key, true),
            11 => self.try_all(who),
            // Waiters on the same lease would begin again at different times, which the model does not cover.
            _ if self.waiting.is_empty() => self.force_unlock(who.key, false),
            _ => {}
        }
    }

    fn who(&self, argument: u8) -> Who {
        let number = usize::from(argument);
        Who {
            manager: number % 2,
            owner: number / 2 % OWNERS,
            key: number / 2 / OWNERS % KEYS.len(),
            mode: if number / 12 % 3 == 0 { Mode::Shared } else { Mode::Exclusive },
        }
    }

    fn request(&self, who: Who) -> leasehold::LockRequest {
        let request = self.managers[who.manager].lock(KEYS[who.key]).owner(&self.owners[who.owner]);
        if who.mode == Mode::Shared { request.shared() } else { request }
    }

    fn lock(&mut self, who: Who) {
        // Without a bound, a case could consist of waiters only.
        if self.waiting.len() < 6 {
            let mut future = self.request(who).into_future();
            match poll(&mut future) {
                Poll::Ready(result) => self.resolved(who, result),
                Poll::Pending => {
                    assert!(self.reentered(who).is_none(), "{who:?} waits for itself");
                    assert!(!self.is_free_for(who), "{who:?} waits for a free key");
                    self.waiting.push(Waiting { who, future });
                }
            }
        }
    }

    fn try_lock(&mut self, who: Who) {
        let tried = block_on(self.request(who).try_once());
        let free = self.is_free_for(who) || self.reentered(who).is_some();
        match tried.transpose() {
            Some(result) => {
                assert!(free || self.may_join(who), "{who:?} has overtaken a waiter");
                self.resolved(who, result);
            }
            None => assert!(!free, "{who:?} was refused a free lock"),
        }
    }

    /// All keys at once, one of them twice.
    fn try_all(&mut self, who: Who) {
        let asked = [1, 0, 1].map(|key| Who { key, ..who });
        let request =
            self.managers[who.manager].lock_all(asked.map(|who| KEYS[who.key])).owner(&self.owners[who.owner]);
        let request = if who.mode == Mode::Shared { request.shared() } else { request };
        let free = |who: Who| self.is_free_for(who) || self.reentered(who).is_some();
        let (all_free, all_to_be_had) =
            (asked.into_iter().all(free), asked.into_iter().all(|who| free(who) || self.may_join(who)));
        match block_on(request.try_once()) {
            Ok(Some(guards)) => {
                assert!(all_to_be_had, "{who:?} has overtaken a waiter");
                asked.into_iter().zip(guards).for_each(|(who, guard)| self.resolved(who, Ok(guard)));
            }
            Ok(None) => assert!(!all_free, "{who:?} was refused free locks"),
            Err(error) => {
                assert_eq!(error.code(), "LOCK_ALREADY_HELD");
                let refused = |who| self.reentered(who).is_some_and(|hold| self.holds[hold].who.mode == Mode::Shared);
                assert!(who.mode == Mode::Exclusive && asked.into_iter().any(refused), "{who:?}");
            }
        }
    }

    /// An acquire has completed.
    fn resolved(&mut self, who: Who, result: Result<LockGuard>) {
        match (self.reentered(who), result) {
            (Some(hold), Err(error)) => {
                assert_eq!(error.code(), "LOCK_ALREADY_HELD");
                assert_eq!((self.holds[hold].who.mode, who.mode), (Mode::Shared, Mode::Exclusive), "{who:?}");
            }
            (Some(hold), Ok(guard)) => {
                let held = &mut self.holds[hold];
                assert!(held.who.mode == Mode::Exclusive || who.mode == Mode::Shared, "{who:?} got more than it may");
                assert_eq!(guard.token(), held.guards[0].token());
                held.guards.push(guard);
            }
            (None, Err(error)) => panic!("{who:?}: {error}"),
            (None, Ok(guard)) => {
                let other = self.holds.iter().find(|hold| !hold.lost && hold.who.excludes(&who));
                assert!(other.is_none(), "{who:?} holds together with {:?}", other.map(|hold| hold.who));
                let token = guard.token().get();
                let (writer, reader) = &mut self.tokens[who.key];
                match who.mode {
                    Mode::Exclusive => {
                        assert!(token > *writer && token > *reader, "{token} after {writer} and {reader}")
                    }
                    Mode::Shared => assert!(token >= *writer, "shared {token} after {writer}"),
                }
                let greatest = if who.mode == Mode::Exclusive { writer } else { reader };
                *greatest = token.max(*greatest);
                self.holds.push(Hold { who, guards: vec![guard], lost: false });
            }
        }
    }

    fn reenter(&mut self, number: usize) {
        let Some((hold, guard)) = self.pick(number) else { return };
        let hold = &mut self.holds[hold];
        match hold.guards[guard].reenter() {
            Ok(guard) => {
                assert!(!hold.lost);
                hold.guards.push(guard);
            }
            Err(error) => assert!(hold.lost && error.code() == "LOCK_EXPIRED", "{error}"),
        }
    }

    fn force_unlock(&mut self, key: usize, key_only: bool) {
        let admin = &self.managers[0];
        let request = admin.force_unlock(KEYS[key]);
        let eviction = block_on(if key_only { request.key_only() } else { request }.into_future()).unwrap();
        let evicted: Vec<usize> =
            self.holds.iter().filter(|hold| !hold.lost && hold.who.key == key).map(|hold| hold.who.manager).collect();
        assert_eq!(eviction.released.iter().any(|released| released == KEYS[key]), !evicted.is_empty());
        for hold in &mut self.holds {
            // All holds here have one TTL, so those of a manager are on one lease.
            let gone = if key_only { hold.who.key == key } else { evicted.contains(&hold.who.manager) };
            if gone && !hold.lost {
                hold.lost = true;
                let cause = block_on(hold.guards[0].lost());
                assert_eq!(cause, Loss::Revoked);
            }
        }
    }

    /// Polls all waiters until none makes progress. A waiter that is not blocked must make progress.
    fn quiesce(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let ready = (0..self.waiting.len()).find_map(|n| match poll(&mut self.waiting[n].future) {
                Poll::Ready(result) => Some((n, result)),
                Poll::Pending => None,
            });
            match ready {
                Some((n, result)) => {
                    let who = self.waiting.remove(n).who;
                    let before = self.waiting[..n].iter().map(|waiting| waiting.who);
                    if self.reentered(who).is_none() {
                        // Exactly in order within a manager; across managers the store's queue decides.
                        let overtaken =
                            before.clone().find(|other| (other.manager, other.key) == (who.manager, who.key));
                        assert!(overtaken.is_none(), "{who:?} before {overtaken:?}");
                    }
                    self.resolved(who, result);
                }
                None if self.a_waiter_could_proceed() => {
                    assert!(
                        Instant::now() < deadline,
                        "no waiter makes progress: {:?}",
                        self.waiting.iter().map(|w| w.who).collect::<Vec<_>>()
                    );
                    std::thread::yield_now();
                }
                None => return,
            }
        }
    }

    fn a_waiter_could_proceed(&self) -> bool {
        (0..KEYS.len()).any(|key| {
            let mut waiting = self.waiting.iter().filter(|waiting| waiting.who.key == key).peekable();
            waiting.peek().is_some() && !self.holds.iter().any(|hold| !hold.lost && hold.who.key == key)
        })
    }

    /// The hold that a request of `who` enters without waiting.
    fn reentered(&self, who: Who) -> Option<usize> {
        self.holds.iter().position(|hold| !hold.lost && hold.who.is_same_hold(&who))
    }

    /// Whether no holder and no earlier waiter is in conflict.
    fn is_free_for(&self, who: Who) -> bool {
        let held = self.holds.iter().any(|hold| !hold.lost && hold.who.excludes(&who));
        !held && !self.waiting.iter().any(|waiting| waiting.who.key == who.key)
    }

    /// Whether this manager has a shared grant that a reader may join without a request to the store, which knows the other manager's
    /// writers.
    fn may_join(&self, who: Who) -> bool {
        let same = |other: &Who| (other.manager, other.key) == (who.manager, who.key);
        self.hand_over
            && self.holds.iter().any(|hold| !hold.lost && same(&hold.who) && !hold.who.excludes(&who))
            && !self.waiting.iter().any(|waiting| same(&waiting.who))
    }

    fn pick(&self, number: usize) -> Option<(usize, usize)> {
        let hold = number.checked_rem(self.holds.len())?;
        Some((hold, number / self.holds.len() % self.holds[hold].guards.len()))
    }

    fn take(&mut self, hold: usize, guard: usize) -> LockGuard {
        let taken = self.holds[hold].guards.swap_remove(guard);
        if self.holds[hold].guards.is_empty() {
            self.holds.remove(hold);
        }
        taken
    }

    /// Compares the results of all queries with the model.
    fn check(&self) {
        for hold in &self.holds {
            for guard in &hold.guards {
                assert_eq!(guard.is_lost(), hold.lost);
                assert_eq!(guard.depth() as usize, hold.guards.len());
                assert_eq!(guard.key(), KEYS[hold.who.key]);
                assert_eq!(guard.mode(), hold.who.mode);
            }
        }
        let alive = || self.holds.iter().filter(|hold| !hold.lost);
        for (key, name) in KEYS.iter().enumerate() {
            let holders = || alive().filter(move |hold| hold.who.key == key);
            let info = block_on(self.managers[0].info(name)).unwrap();
            assert_eq!(info.is_some(), holders().next().is_some(), "{name}");
            if let (Some(info), Some(hold)) = (info, holders().next()) {
                assert_eq!((info.mode, info.foreign), (hold.who.mode, false));
            }
            for (manager, handle) in self.managers.iter().enumerate() {
                let held = holders().any(|hold| hold.who.manager == manager);
                assert_eq!(handle.handle(name).unwrap().is_held(), held, "{name} by manager {manager}");
            }
        }
        let listed: Vec<_> = block_on(self.managers[1].list("")).unwrap().into_iter().map(|info| info.key).collect();
        let held: Vec<_> =
            (0..KEYS.len()).filter(|&key| alive().any(|hold| hold.who.key == key)).map(|key| KEYS[key]).collect();
        assert_eq!(listed, held);
        for (manager, handle) in self.managers.iter().enumerate() {
            let waiting = self.waiting.iter().filter(|waiting| waiting.who.manager == manager).count();
            assert_eq!(handle.stats().waiting as usize, waiting);
        }
    }

    /// Drops everything, in any order: nothing may be left.
    fn end(mut self) {
        self.waiting.clear();
        self.holds.clear();
        for key in KEYS {
            assert_eq!(block_on(self.managers[0].info(key)).unwrap(), None);
        }
        for manager in &self.managers {
            let stats = manager.stats();
            assert_eq!((stats.held, stats.waiting), (0, 0));
        }
    }
}

fn poll(future: &mut Acquire) -> Poll<Result<LockGuard>> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
