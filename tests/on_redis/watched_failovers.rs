//! Watches over failovers: the states go on with the new master, and none is invented.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::{LockInfo, LockManager, Watch};
use support::sentinels::Watched;
use support::{PATIENCE, eventually};

/// At least 1.5 × (down-after + 3 s).
const TTL: Duration = Duration::from_secs(6);
/// The limit for what takes a second, on a busy machine.
const SOON: Duration = Duration::from_secs(4);

fn manager(url: &str) -> LockManager {
    LockManager::builder().url(url).ttl(TTL).min_replicas(1).build().wait().unwrap()
}

/// A state, or `Err` if the last one may be outdated.
type Seen = (Result<Option<LockInfo>, ()>, Instant);

fn states(mut watch: Watch) -> Receiver<Seen> {
    let (seen, states) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Some(state) = watch.wait_next() {
            if seen.send((state.map_err(drop), Instant::now())).is_err() {
                return;
            }
        }
    });
    states
}

/// When a hold was requested, and when its release was confirmed.
type Held = (Instant, Option<Instant>);

/// Holds of one key, one after another, each with its number as the value.
struct Churn {
    holds: Arc<Mutex<Vec<Held>>>,
    enough: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Churn {
    fn start(manager: LockManager) -> Self {
        let (holds, enough) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let (recorded, ended) = (holds.clone(), enough.clone());
        let thread = std::thread::spawn(move || {
            for number in 0.. {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                recorded.lock().unwrap().push((Instant::now(), None));
                let guard = manager.lock("changes").value(number.to_string()).timeout(PATIENCE).wait().unwrap();
                std::thread::sleep(Duration::from_millis(rand::random_range(0..40)));
                guard.unlock().wait().unwrap();
                recorded.lock().unwrap()[number].1 = Some(Instant::now());
            }
        });
        Self { holds, enough, thread }
    }

    fn count(&self) -> usize {
        self.holds.lock().unwrap().len()
    }

    /// Waits for more holds.
    fn progress(&self) {
        let count = self.count();
        eventually("progress", || (self.count() > count + 5).then_some(()));
    }
}

/// Checks what was seen of the churn. A failover may bring back for a moment what it has not replicated, so the order is that of the
/// holds outside of it only.
fn assert_not_invented(seen: &[Seen], holds: &[Held], failover: (Instant, Instant)) {
    let is_in_failover = |at: Instant| failover.0 <= at && at <= failover.1;
    let (mut count, mut last) = (0, 0);
    for (state, at) in seen {
        let Ok(Some(info)) = state else { continue };
        assert_eq!(info.values.len(), 1, "{info:?}");
        let number: usize = info.values[0].as_ref().unwrap().parse().unwrap();
        let (asked, ended) = holds[number];
        assert!(asked < *at, "{number} was seen before it was requested");
        if !is_in_failover(*at) {
            assert!(
                number >= last,
                "{number} after {last}, {:?} after the fault",
                at.saturating_duration_since(failover.0)
            );
            assert!(ended.is_none_or(|ended| *at < ended + SOON), "{number} was seen long after its end");
        }
        (count, last) = (count + 1, number);
    }
    assert!(count > 20, "{count} states");
}

fn watches_go_on(fail: impl Fn(&mut Watched, usize), mend: impl Fn(&mut Watched, usize)) {
    let mut watched = Watched::start();
    let url = watched.url();
    let (holder, watcher) = (manager(&url), manager(&url));
    let held = holder.lock("held").value("all the time").wait().unwrap();
    let (of_held, of_churn) = (states(watcher.watch("held")), states(watcher.watch("changes")));
    let churn = Churn::start(manager(&url));
    churn.progress();
    std::thread::sleep(Duration::from_secs(1));
    let (old, failed) = (watched.master().unwrap(), Instant::now());
    fail(&mut watched, old);
    watched.wait_for_another(old);
    churn.progress();
    let replaced = Instant::now() + SOON;
    mend(&mut watched, old);
    std::thread::sleep(SOON + Duration::from_secs(2));
    churn.progress();
    churn.enough.store(true, Ordering::SeqCst);
    churn.thread.join().unwrap();
    // The last change is seen soon, and so is that of the other key.
    assert!(!held.is_lost(), "the failover takes less than the TTL");
    held.unlock().wait().unwrap();
    let start = Instant::now();
    let until_free = |states: &Receiver<Seen>| {
        let mut seen = Vec::new();
        loop {
            seen.extend(states.try_iter());
            if let Some((Ok(None), _)) = seen.last() {
                return seen;
            }
            assert!(start.elapsed() < SOON, "the end is not seen: {:?}", seen.last());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let (seen_held, seen_churn) = (until_free(&of_held), until_free(&of_churn));
    let errors = |seen: &[Seen]| seen.iter().filter(|(state, _)| state.is_err()).count();
    println!(
        "{} holds, {} states of them, {} errors; {} states of the other, {} errors",
        churn.holds.lock().unwrap().len(),
        seen_churn.len(),
        errors(&seen_churn),
        seen_held.len(),
        errors(&seen_held)
    );
    let ends = seen_held.iter().filter(|(state, _)| matches!(state, Ok(None))).count();
    assert_eq!(ends, 1, "it was shown as free: {seen_held:?}");
    assert_not_invented(&seen_churn, &churn.holds.lock().unwrap(), (failed, replaced));
}

#[test]
fn watches_go_on_when_the_master_is_killed() {
    watches_go_on(|watched, old| watched.servers[old].kill(), |watched, old| watched.servers[old].restart());
}

#[test]
fn watches_go_on_when_a_stopped_master_is_back() {
    watches_go_on(
        |watched, old| watched.servers[old].process().stop(),
        |watched, old| watched.servers[old].process().resume(),
    );
}
