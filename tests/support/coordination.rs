//! Watches and wanted holds: readers on threads of their own, and tests that all servers have.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use leasehold::{LockGuard, LockInfo, LockManager, Mode, Owner, Watch};

use crate::{PATIENCE, eventually};

/// Sooner than a look, which is after 5 s.
pub const SOON: Duration = Duration::from_secs(2);

/// Creates a manager with this TTL.
pub fn manager_with(url: &str, ttl: Duration) -> LockManager {
    LockManager::builder().url(url).ttl(ttl).build().wait().unwrap()
}

/// Creates a manager whose holds outlast a test.
pub fn manager(url: &str) -> LockManager {
    manager_with(url, Duration::from_secs(30))
}

/// Waits until this many wait for the key `k`.
pub fn waits(manager: &LockManager, count: usize) {
    let waiters = || manager.info("k").wait().unwrap().map_or(0, |info| info.waiters);
    eventually("they wait", || (waiters() == count).then_some(()));
}

/// The states that a watch has reported, each with the time at which it was read.
pub struct States(Receiver<(Option<LockInfo>, Instant)>);

impl States {
    /// Reads a watch on a thread.
    pub fn of(mut watch: Watch) -> Self {
        let (seen, states) = channel();
        std::thread::spawn(move || {
            while let Some(state) = block_on(watch.next()) {
                // What is unreachable for a moment is seen again.
                if let Ok(state) = state
                    && seen.send((state, Instant::now())).is_err()
                {
                    return;
                }
            }
        });
        Self(states)
    }

    /// Waits for a state. Returns the time since `start`.
    #[track_caller]
    pub fn seen(&self, start: Instant, limit: Duration, fits: impl Fn(Option<&LockInfo>) -> bool) -> Duration {
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let (state, at) = self.0.recv_timeout(left).unwrap_or_else(|_| panic!("not seen within {limit:?}"));
            if fits(state.as_ref()) {
                return at.saturating_duration_since(start);
            }
        }
    }

    /// Returns the states that were not waited for.
    fn rest(&self) -> Vec<(Option<LockInfo>, Instant)> {
        self.0.try_iter().collect()
    }
}

/// Waits on a thread until a hold is wanted.
pub fn is_wanted(guard: &LockGuard) -> Receiver<()> {
    let (heard, wanted) = channel();
    let waiting = guard.wanted();
    std::thread::spawn(move || {
        block_on(waiting);
        heard.send(())
    });
    wanted
}

/// Asserts that after some holds that follow each other quickly a watch shows the last one. Returns the median of the times until then, and
/// the longest.
pub fn the_last_state_is_seen_soon(url: &str) -> (Duration, Duration) {
    let (a, b) = (manager(url), manager(url));
    let states = States::of(b.watch("k"));
    states.seen(Instant::now(), PATIENCE, |state| state.is_none());
    let mut times = Vec::new();
    for round in 0..30 {
        for _ in 0..round % 5 {
            a.lock("k").wait().unwrap().unlock().wait().unwrap();
        }
        let value = round.to_string();
        let guard = a.lock("k").value(&value).wait().unwrap();
        let is_last = |state: Option<&LockInfo>| state.is_some_and(|info| info.values == [Some(value.clone())]);
        times.push(states.seen(Instant::now(), SOON, is_last));
        guard.unlock().wait().unwrap();
        times.push(states.seen(Instant::now(), SOON, |state| state.is_none()));
    }
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

/// When a hold with this value may have been held: from its request to the end of its release.
type Held = Arc<Mutex<Vec<(Instant, Option<Instant>)>>>;

/// Asserts that watches show nothing that was never so, while locks of all kinds are held and `disturb` is called, and the last state.
pub fn no_state_is_invented_under_churn(url: &str, disturb: impl FnOnce()) {
    const SLOTS: usize = 3;
    let (held, enough) = (Held::default(), Arc::<AtomicBool>::default());
    let tasks: Vec<_> = (0..6)
        .map(|number| {
            let (manager, held, enough) = (manager(url), held.clone(), enough.clone());
            std::thread::spawn(move || {
                for turn in 0.. {
                    if enough.load(Ordering::SeqCst) {
                        return;
                    }
                    let value = {
                        let mut held = held.lock().unwrap();
                        held.push((Instant::now(), None));
                        held.len() - 1
                    };
                    let request = manager.lock("k").owner(&Owner::new()).value(value.to_string());
                    let request = match (number + turn) % 3 {
                        0 => request,
                        1 => request.shared(),
                        _ => request.limit(SLOTS as u32),
                    };
                    let guard = request.wait().unwrap();
                    std::thread::sleep(Duration::from_millis(turn % 4));
                    guard.unlock().wait().unwrap();
                    held.lock().unwrap()[value].1 = Some(Instant::now());
                }
            })
        })
        .collect();
    let watcher = manager(url);
    let early: Vec<_> = (0..2).map(|_| States::of(watcher.watch("k"))).collect();
    std::thread::sleep(Duration::from_secs(2));
    disturb();
    // Those that begin amid all this.
    let late: Vec<_> = (0..6).map(|_| States::of(manager(url).watch("k"))).collect();
    std::thread::sleep(Duration::from_secs(2));
    enough.store(true, Ordering::SeqCst);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    // The last state has to be seen by then.
    std::thread::sleep(SOON);
    let all: Vec<_> = early.iter().chain(&late).map(States::rest).collect();
    let held = held.lock().unwrap();
    for states in all {
        let mut last = 0;
        for (info, at) in states.iter().filter_map(|(state, at)| Some((state.as_ref()?, at))) {
            let values: Vec<usize> = info.values.iter().map(|value| value.as_ref().unwrap().parse().unwrap()).collect();
            let begun = values.iter().map(|value| held[*value].0).max().expect("a holder");
            let ended = values.iter().filter_map(|value| held[*value].1).min().expect("all have ended");
            assert!(begun < ended && begun < *at, "{info:?} was never the state");
            assert!(info.limit.is_none() || values.len() <= SLOTS, "{info:?}");
            assert!(info.mode == Mode::Shared || values.len() == 1, "{info:?}");
            // Not each backend shows the tokens of others.
            let token = info.token.map_or(last, |token| token.get());
            assert!(token >= last, "an old state after a new one: {info:?}");
            last = token;
        }
        assert!(states.len() > 20, "{} states", states.len());
        assert!(states.last().is_some_and(|(state, _)| state.is_none()), "{:?} is not the last state", states.last());
    }
    assert!(watcher.info("k").wait().unwrap().is_none());
}

/// Asserts that a holder that asks while another client begins to wait is notified, in so many races, or 10,000 in a soak. Returns the
/// slowest of these times.
pub fn waiters_that_race_a_listener_are_heard(url: &str, races: u64) -> Duration {
    let races = crate::soak().map_or(races, |_| 10_000);
    let (a, b) = (manager(url), manager(url));
    let turn = Arc::<AtomicU64>::default();
    let waiters = {
        let (turn, b) = (turn.clone(), b.clone());
        std::thread::spawn(move || {
            for number in 1..=races {
                while turn.load(Ordering::Acquire) < number {
                    std::hint::spin_loop();
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_micros(number * 7 % 900));
                b.lock("k").wait().unwrap().unlock().wait().unwrap();
            }
        })
    };
    let mut slowest = Duration::ZERO;
    for number in 1..=races {
        // The last one may have it still.
        let guard = a.lock("k").wait().unwrap();
        turn.store(number, Ordering::Release);
        std::thread::sleep(Duration::from_micros(number * 13 % 700));
        let start = Instant::now();
        is_wanted(&guard).recv_timeout(PATIENCE).expect("wanted");
        slowest = slowest.max(start.elapsed());
        guard.unlock().wait().unwrap();
    }
    waiters.join().unwrap();
    slowest
}

/// Asserts that a watch through `url` reports an outage of the server and goes on after it. `direct` reaches the same server.
pub fn a_watch_reports_an_outage_and_goes_on(url: &str, direct: &str, stop: impl FnOnce(), resume: impl FnOnce()) {
    let a = manager(direct);
    let b = LockManager::builder().url(url).timeout(Duration::from_millis(500)).build().wait().unwrap();
    let mut watch = b.watch("k");
    assert!(watch.wait_next().unwrap().unwrap().is_none());
    stop();
    let start = Instant::now();
    let error = watch.wait_next().unwrap().expect_err("it may be outdated");
    assert_eq!(error.code(), "BACKEND", "{error}");
    assert!(start.elapsed() < PATIENCE);
    resume();
    assert!(watch.wait_next().unwrap().unwrap().is_none());
    let _guard = a.lock("k").wait().unwrap();
    assert!(watch.wait_next().unwrap().unwrap().is_some());
}
