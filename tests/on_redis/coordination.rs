//! Slots, values, watches and wanted holds: processes that are killed, churn, other clients, and messages that are lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::executor::block_on;
use leasehold::{LockGuard, LockInfo, LockManager, Owner, Watch};
use support::child::{self, Child};
use support::clusters::RedisCluster;
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background};

/// Sooner than a look, which is after 5 s.
const SOON: Duration = Duration::from_secs(2);

fn manager_with(url: &str, ttl: Duration) -> LockManager {
    LockManager::builder().url(url).ttl(ttl).build().wait().unwrap()
}

fn manager(url: &str) -> LockManager {
    manager_with(url, Duration::from_secs(30))
}

fn waits(manager: &LockManager, count: usize) {
    let waiters = || manager.info("k").wait().unwrap().map_or(0, |info| info.waiters);
    eventually("they wait", || (waiters() == count).then_some(()));
}

/// A watch, read on a thread: each state, and when it was read.
fn states(mut watch: Watch) -> Receiver<(Option<LockInfo>, Instant)> {
    let (seen, states) = std::sync::mpsc::channel();
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
    states
}

/// Waits for a state. Returns the time since `start`.
#[track_caller]
fn seen(
    states: &Receiver<(Option<LockInfo>, Instant)>,
    start: Instant,
    limit: Duration,
    fits: impl Fn(Option<&LockInfo>) -> bool,
) -> Duration {
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let (state, at) = states.recv_timeout(left).unwrap_or_else(|_| panic!("not seen within {limit:?}"));
        if fits(state.as_ref()) {
            return at.saturating_duration_since(start);
        }
    }
}

#[test]
#[ignore = "a part of a test, in a child process"]
fn holder_of_slots() {
    let Some(arguments) = child::role() else { return };
    let manager = manager_with(&arguments[0], Duration::from_secs(2));
    let _slots = [(); 2].map(|()| manager.semaphore("k", 3).wait().unwrap());
    child::say("held");
    child::hear();
}

#[test]
fn the_slots_of_a_killed_process_go_to_the_first_waiters() {
    let redis = Redis::start();
    let a = manager(&redis.url());
    let _kept = a.semaphore("k", 3).wait().unwrap();
    let mut child = Child::of_this_test("coordination::holder_of_slots", &[&redis.url()]);
    child.expect("held");
    let managers: Vec<_> = (0..3).map(|_| manager(&redis.url())).collect();
    let waiting: Vec<_> = managers
        .iter()
        .enumerate()
        .map(|(number, manager)| {
            let waiting = in_the_background(manager.semaphore("k", 3));
            waits(&a, number + 1);
            waiting
        })
        .collect();
    let killed = Instant::now();
    child.process.kill();
    let slots = waiting[..2].iter().map(|waiting| waiting.recv_timeout(PATIENCE).expect("a slot"));
    let _slots: Vec<_> = slots.collect();
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?} with a TTL of 2 s");
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting[2].try_recv().is_err(), "two were free");
}

#[test]
fn slots_and_writers_are_served_in_the_order_in_which_they_came() {
    let redis = Redis::start();
    let holder = manager(&redis.url());
    let guard = holder.lock("k").wait().unwrap();
    let kinds = ["x", "l", "l", "s", "x", "l", "s", "s", "x"];
    let order = Arc::<Mutex<Vec<usize>>>::default();
    let waiting: Vec<_> = kinds
        .into_iter()
        .enumerate()
        .map(|(number, kind)| {
            let (manager, order) = (manager(&redis.url()), order.clone());
            let waiting = std::thread::spawn(move || {
                let request = match kind {
                    "x" => manager.lock("k"),
                    "s" => manager.lock("k").shared(),
                    _ => manager.semaphore("k", 2),
                };
                let guard = request.wait().unwrap();
                order.lock().unwrap().push(number);
                std::thread::sleep(Duration::from_millis(30));
                guard.unlock().wait().unwrap();
            });
            waits(&holder, number + 1);
            waiting
        })
        .collect();
    guard.unlock().wait().unwrap();
    waiting.into_iter().for_each(|waiting| waiting.join().unwrap());
    // Those that share the lock come together.
    let groups = [0, 1, 1, 2, 3, 4, 5, 5, 6];
    let order: Vec<_> = order.lock().unwrap().iter().map(|number| groups[*number]).collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_long_value_is_renewed_handed_over_and_shown() {
    let redis = Redis::start();
    let (name, value) = ("ä".repeat(500), "%\0:\n".repeat(256));
    let holder = LockManager::builder().url(redis.url()).ttl(Duration::from_secs(1)).name(&name).build();
    let holder = holder.wait().unwrap();
    for shared in [false, true] {
        let first = manager(&redis.url()).lock("k").wait().unwrap();
        let request = holder.lock("k").value(&value);
        let waiting = in_the_background(if shared { request.shared() } else { request });
        waits(&holder, 1);
        first.unlock().wait().unwrap();
        let (guard, _) = waiting.recv_timeout(PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!guard.is_lost());
        let info = manager(&redis.url()).info("k").wait().unwrap().unwrap();
        assert_eq!((&*info.holders[0].name, info.values), (&*name, vec![Some(value.clone())]));
        guard.unlock().wait().unwrap();
    }
}

#[test]
fn the_last_state_is_seen_soon() {
    let redis = Redis::start();
    let (a, b) = (manager(&redis.url()), manager(&redis.url()));
    let states = states(b.watch("k"));
    seen(&states, Instant::now(), PATIENCE, |state| state.is_none());
    let mut slowest = Duration::ZERO;
    for round in 0..30 {
        for _ in 0..round % 5 {
            a.lock("k").wait().unwrap().unlock().wait().unwrap();
        }
        let value = round.to_string();
        let guard = a.lock("k").value(&value).wait().unwrap();
        let is_last = |state: Option<&LockInfo>| state.is_some_and(|info| info.values == [Some(value.clone())]);
        slowest = slowest.max(seen(&states, Instant::now(), SOON, is_last));
        guard.unlock().wait().unwrap();
        slowest = slowest.max(seen(&states, Instant::now(), SOON, |state| state.is_none()));
    }
    println!("the slowest was seen after {slowest:?}");
}

/// When a hold with this value may have been held: from its request to the end of its release.
type Held = Arc<Mutex<Vec<(Instant, Option<Instant>)>>>;

#[test]
fn no_state_is_invented_under_churn() {
    const SLOTS: usize = 3;
    let redis = Redis::start();
    let (held, enough) = (Held::default(), Arc::<AtomicBool>::default());
    let tasks: Vec<_> = (0..6)
        .map(|number| {
            let (manager, held, enough) = (manager(&redis.url()), held.clone(), enough.clone());
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
    let watcher = manager(&redis.url());
    let states: Vec<_> = (0..2).map(|_| states(watcher.watch("k"))).collect();
    std::thread::sleep(Duration::from_secs(4));
    enough.store(true, Ordering::SeqCst);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    let held = held.lock().unwrap();
    for states in &states {
        let (mut count, mut last) = (0, 0);
        let end = Instant::now() + SOON;
        while let Ok((state, at)) = states.recv_timeout(end.saturating_duration_since(Instant::now())) {
            count += 1;
            let Some(info) = state else { continue };
            let values: Vec<usize> = info.values.iter().map(|value| value.as_ref().unwrap().parse().unwrap()).collect();
            let begun = values.iter().map(|value| held[*value].0).max().expect("a holder");
            let ended = values.iter().filter_map(|value| held[*value].1).min().expect("all have ended");
            assert!(begun < ended && begun < at, "{info:?} was never the state");
            assert!(info.limit.is_none() || values.len() <= SLOTS, "{info:?}");
            assert!(info.mode == leasehold::Mode::Shared || values.len() == 1, "{info:?}");
            let token = info.token.unwrap().get();
            assert!(token >= last, "an old state after a new one: {info:?}");
            last = token;
        }
        assert!(count > 20, "{count} states");
    }
    assert!(watcher.info("k").wait().unwrap().is_none());
}

#[test]
fn what_other_clients_do_is_seen_in_time() {
    const LIMIT: Duration = Duration::from_secs(6);
    let redis = Redis::start();
    let states = states(manager(&redis.url()).watch("k"));
    seen(&states, Instant::now(), PATIENCE, |state| state.is_none());
    redis.cli(&["SET", "lock:k", "another"]);
    seen(&states, Instant::now(), LIMIT, |state| state.is_some_and(|info| info.foreign));
    redis.cli(&["DEL", "lock:k"]);
    seen(&states, Instant::now(), LIMIT, |state| state.is_none());
    let start = Instant::now();
    redis.cli(&["SET", "lock:k", "another", "PX", "8000"]);
    seen(&states, start, LIMIT, |state| state.is_some());
    seen(&states, start, Duration::from_secs(8) + SOON, |state| state.is_none());
}

#[test]
fn a_hold_that_ends_without_a_message_is_seen_at_its_end() {
    let redis = Redis::start();
    let states = states(manager(&redis.url()).watch("k"));
    let mut child = Child::of_this_test("coordination::holder_of_slots", &[&redis.url()]);
    child.expect("held");
    seen(&states, Instant::now(), SOON, |state| state.is_some_and(|info| info.holders.len() == 2));
    child.process.kill();
    let took = seen(&states, Instant::now(), PATIENCE, |state| state.is_none());
    assert!(took < Duration::from_secs(4), "{took:?} with a TTL of 2 s");
}

fn kill_subscriptions(redis: &Redis) {
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
}

#[test]
fn a_watch_and_a_wanted_hold_survive_their_connection() {
    let redis = Redis::start();
    let (a, b) = (manager(&redis.url()), manager(&redis.url()));
    let states = states(b.watch("k"));
    for round in 0..6 {
        kill_subscriptions(&redis);
        let (value, start) = (round.to_string(), Instant::now());
        let guard = a.lock("k").value(&value).wait().unwrap();
        seen(&states, start, SOON, |state| state.is_some_and(|info| info.values == [Some(value.clone())]));
        let wanted = is_wanted(&guard);
        assert!(wanted.recv_timeout(Duration::from_millis(20 * round)).is_err(), "by nobody");
        kill_subscriptions(&redis);
        let waiting = in_the_background(b.lock("k"));
        wanted.recv_timeout(SOON).expect("wanted");
        drop(guard);
        drop(waiting.recv_timeout(PATIENCE).expect("granted"));
        seen(&states, Instant::now(), SOON, |state| state.is_none());
    }
}

#[test]
fn a_watch_reports_an_outage_and_goes_on() {
    let redis = Redis::start();
    let a = manager(&redis.url());
    let b = LockManager::builder().url(redis.unix_url()).timeout(Duration::from_millis(500)).build().wait().unwrap();
    let mut watch = b.watch("k");
    assert!(watch.wait_next().unwrap().unwrap().is_none());
    redis.process().stop();
    let start = Instant::now();
    let error = watch.wait_next().unwrap().expect_err("it may be outdated");
    assert_eq!(error.code(), "BACKEND", "{error}");
    assert!(start.elapsed() < PATIENCE);
    redis.process().resume();
    assert!(watch.wait_next().unwrap().unwrap().is_none());
    let _guard = a.lock("k").wait().unwrap();
    assert!(watch.wait_next().unwrap().unwrap().is_some());
}

/// Waits on a thread until a hold is wanted.
fn is_wanted(guard: &LockGuard) -> Receiver<()> {
    let (heard, wanted) = std::sync::mpsc::channel();
    let waiting = guard.wanted();
    std::thread::spawn(move || {
        block_on(waiting);
        heard.send(())
    });
    wanted
}

#[test]
fn a_waiter_that_races_a_listener_is_heard() {
    let redis = Redis::start();
    let (a, b) = (manager(&redis.url()), manager(&redis.url()));
    let turn = Arc::<AtomicU64>::default();
    let waiters = {
        let (turn, b) = (turn.clone(), b.clone());
        std::thread::spawn(move || {
            for number in 1..=1000 {
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
    for number in 1..=1000 {
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
    println!("the slowest was heard after {slowest:?}");
    // A listener that was not notified asks after 20 s.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn a_watch_follows_a_slot_that_moves() {
    let cluster = RedisCluster::start_with(0, &[]);
    let (a, b) = (manager(&cluster.url()), manager(&cluster.url()));
    let states = states(b.watch("k"));
    seen(&states, Instant::now(), PATIENCE, |state| state.is_none());
    let slot = cluster.slot("lock:k");
    for round in 0..2 {
        let guard = a.lock("k").value(round.to_string()).wait().unwrap();
        seen(&states, Instant::now(), SOON, |state| state.is_some());
        let wanted = is_wanted(&guard);
        move_slot(&cluster, slot);
        let waiting = in_the_background(b.lock("k"));
        wanted.recv_timeout(SOON).expect("wanted");
        guard.unlock().wait().unwrap();
        let (guard, _) = waiting.recv_timeout(PATIENCE).expect("granted");
        drop(guard);
        seen(&states, Instant::now(), SOON, |state| state.is_none());
    }
}

/// Moves a slot to the next master, with its keys.
fn move_slot(cluster: &RedisCluster, slot: u16) {
    let from = cluster.master_of(slot);
    let (to, nodes, number) = ((from + 1) % 3, cluster.nodes(), slot.to_string());
    nodes[to].cli(&["CLUSTER", "SETSLOT", &number, "IMPORTING", &cluster.id(from)]);
    nodes[from].cli(&["CLUSTER", "SETSLOT", &number, "MIGRATING", &cluster.id(to)]);
    let port = nodes[to].address().port().to_string();
    for key in nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &number, "1000"]).lines().filter(|key| !key.is_empty()) {
        nodes[from].cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000", "REPLACE"]);
    }
    for node in [to, from] {
        nodes[node].cli(&["CLUSTER", "SETSLOT", &number, "NODE", &cluster.id(to)]);
    }
}
