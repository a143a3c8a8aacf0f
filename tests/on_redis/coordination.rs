//! Slots, values, watches and wanted holds: processes that are killed, churn, other clients, and messages that are lost.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::LockManager;
use support::child::{self, Child};
use support::clusters::RedisCluster;
use support::coordination::{self, SOON, States, is_wanted, manager, manager_with, waits};
use support::redis::Redis;
use support::{PATIENCE, in_the_background};

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
    let (median, slowest) = coordination::the_last_state_is_seen_soon(&Redis::start().url());
    println!("the last state was seen after {median:?}, the slowest after {slowest:?}");
}

#[test]
fn no_state_is_invented_under_churn() {
    let redis = Redis::start();
    coordination::no_state_is_invented_under_churn(&redis.url(), || kill_subscriptions(&redis));
}

#[test]
fn what_other_clients_do_is_seen_in_time() {
    const LIMIT: Duration = Duration::from_secs(6);
    let redis = Redis::start();
    let states = States::of(manager(&redis.url()).watch("k"));
    states.seen(Instant::now(), PATIENCE, |state| state.is_none());
    redis.cli(&["SET", "lock:k", "another"]);
    states.seen(Instant::now(), LIMIT, |state| state.is_some_and(|info| info.foreign));
    redis.cli(&["DEL", "lock:k"]);
    states.seen(Instant::now(), LIMIT, |state| state.is_none());
    let start = Instant::now();
    redis.cli(&["SET", "lock:k", "another", "PX", "8000"]);
    states.seen(start, LIMIT, |state| state.is_some());
    states.seen(start, Duration::from_secs(8) + SOON, |state| state.is_none());
}

#[test]
fn a_hold_that_ends_without_a_message_is_seen_at_its_end() {
    let redis = Redis::start();
    let states = States::of(manager(&redis.url()).watch("k"));
    let mut child = Child::of_this_test("coordination::holder_of_slots", &[&redis.url()]);
    child.expect("held");
    states.seen(Instant::now(), SOON, |state| state.is_some_and(|info| info.holders.len() == 2));
    child.process.kill();
    let took = states.seen(Instant::now(), PATIENCE, |state| state.is_none());
    assert!(took < Duration::from_secs(4), "{took:?} with a TTL of 2 s");
}

fn kill_subscriptions(redis: &Redis) {
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
}

#[test]
fn a_watch_and_a_wanted_hold_survive_their_connection() {
    let redis = Redis::start();
    let (a, b) = (manager(&redis.url()), manager(&redis.url()));
    let states = States::of(b.watch("k"));
    for round in 0..6 {
        kill_subscriptions(&redis);
        let (value, start) = (round.to_string(), Instant::now());
        let guard = a.lock("k").value(&value).wait().unwrap();
        states.seen(start, SOON, |state| state.is_some_and(|info| info.values == [Some(value.clone())]));
        let wanted = is_wanted(&guard);
        assert!(wanted.recv_timeout(Duration::from_millis(20 * round)).is_err(), "by nobody");
        kill_subscriptions(&redis);
        let waiting = in_the_background(b.lock("k"));
        wanted.recv_timeout(SOON).expect("wanted");
        drop(guard);
        drop(waiting.recv_timeout(PATIENCE).expect("granted"));
        states.seen(Instant::now(), SOON, |state| state.is_none());
    }
}

#[test]
fn a_watch_reports_an_outage_and_goes_on() {
    let redis = Redis::start();
    let (stop, resume) = (|| redis.process().stop(), || redis.process().resume());
    coordination::a_watch_reports_an_outage_and_goes_on(&redis.unix_url(), &redis.url(), stop, resume);
}

#[test]
fn a_waiter_that_races_a_listener_is_heard() {
    let slowest = coordination::waiters_that_race_a_listener_are_heard(&Redis::start().url(), 1000);
    println!("the slowest was heard after {slowest:?}");
    // A listener that was not notified asks after 20 s.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn a_watch_follows_a_slot_that_moves() {
    let cluster = RedisCluster::start_with(0, &[]);
    let (a, b) = (manager(&cluster.url()), manager(&cluster.url()));
    let states = States::of(b.watch("k"));
    states.seen(Instant::now(), PATIENCE, |state| state.is_none());
    let slot = cluster.slot("lock:k");
    for round in 0..2 {
        let guard = a.lock("k").value(round.to_string()).wait().unwrap();
        states.seen(Instant::now(), SOON, |state| state.is_some());
        let wanted = is_wanted(&guard);
        move_slot(&cluster, slot);
        let waiting = in_the_background(b.lock("k"));
        wanted.recv_timeout(SOON).expect("wanted");
        guard.unlock().wait().unwrap();
        let (guard, _) = waiting.recv_timeout(PATIENCE).expect("granted");
        drop(guard);
        states.seen(Instant::now(), SOON, |state| state.is_none());
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
