//! Waiters that are many, are closed, get no messages, or whose keys are deleted or filled by others.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager};
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background};

fn manager(url: &str) -> LockManager {
    LockManager::builder().url(url).ttl(Duration::from_secs(10)).build().wait().unwrap()
}

fn waiters(manager: &LockManager) -> usize {
    manager.info("k").wait().unwrap().map_or(0, |info| info.waiters)
}

fn waits(manager: &LockManager, count: usize) {
    eventually("they wait", || (waiters(manager) == count).then_some(()));
}

/// Waits until each has had its turn. Returns the order.
fn turns(waiting: Vec<Receiver<(LockGuard, Instant)>>, mut between: impl FnMut()) -> Vec<usize> {
    let (start, mut order) = (Instant::now(), Vec::new());
    let mut waiting: Vec<_> = waiting.into_iter().enumerate().collect();
    while !waiting.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{} are not served", waiting.len());
        waiting.retain(|(number, waiter)| match waiter.try_recv() {
            Ok((guard, _)) => {
                order.push(*number);
                between();
                // It may have been lost between.
                let _ = guard.unlock().wait();
                false
            }
            Err(_) => true,
        });
        std::thread::sleep(Duration::from_micros(200));
    }
    order
}

fn nothing_is_left(redis: &Redis) {
    eventually("nothing is left", || redis.keys("*lock:k*").is_empty().then_some(()));
}

#[test]
fn three_hundred_managers_get_a_lock_in_the_order_in_which_they_came() {
    const MANAGERS: usize = 300;
    let redis = Redis::start();
    let holder = manager(&redis.url());
    let guard = holder.lock("k").wait().unwrap();
    let managers: Vec<_> = (0..MANAGERS).map(|_| manager(&redis.url())).collect();
    let waiting = managers.iter().enumerate().map(|(number, manager)| {
        let waiting = in_the_background(manager.lock("k"));
        waits(&holder, number + 1);
        waiting
    });
    let waiting = waiting.collect();
    let start = Instant::now();
    guard.unlock().wait().unwrap();
    assert!(turns(waiting, || ()).is_sorted());
    println!("{MANAGERS} turns in {:?}", start.elapsed());
    nothing_is_left(&redis);
}

#[test]
fn managers_that_are_closed_while_they_wait_leave_no_place() {
    let redis = Redis::start();
    let holder = manager(&redis.url());
    let guard = holder.lock("k").wait().unwrap();
    let managers: Vec<_> = (0..20).map(|_| manager(&redis.url())).collect();
    let (mut closed, mut waiting) = (Vec::new(), Vec::new());
    for (number, manager) in managers.iter().enumerate() {
        match number % 2 {
            0 => {
                let request = manager.lock("k");
                closed.push(std::thread::spawn(move || request.wait().unwrap_err()));
            }
            _ => waiting.push(in_the_background(manager.lock("k"))),
        }
        waits(&holder, number + 1);
    }
    for manager in managers.iter().step_by(2) {
        manager.close().wait().unwrap();
    }
    for closed in closed {
        assert_eq!(closed.join().unwrap().code(), "CLOSED");
    }
    assert_eq!(waiters(&holder), 10);
    let start = Instant::now();
    guard.unlock().wait().unwrap();
    assert!(turns(waiting, || ()).is_sorted());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}: a turn waited for a look", start.elapsed());
    nothing_is_left(&redis);
}

/// A hold of ours says nothing about one's own place.
#[test]
fn waiters_whose_queue_is_deleted_come_back_while_the_lock_is_held() {
    let redis = Redis::start();
    let holder = manager(&redis.url());
    let guard = holder.lock("k").wait().unwrap();
    let managers: Vec<_> = (0..4).map(|_| manager(&redis.url())).collect();
    let waiting = managers.iter().enumerate().map(|(number, manager)| {
        let request = manager.lock("k");
        in_the_background(if number % 2 == 0 { request } else { request.shared() })
    });
    let waiting = waiting.collect();
    waits(&holder, 4);
    redis.cli(&["DEL", &redis.keys("*%q2:*")[0]]);
    let deleted = Instant::now();
    assert_eq!(waiters(&holder), 0);
    waits(&holder, 4);
    // Each fifth look, of one a second, is at the own place.
    assert!(deleted.elapsed() < Duration::from_secs(7), "{:?}", deleted.elapsed());
    assert!(!guard.is_lost());
    guard.unlock().wait().unwrap();
    turns(waiting, || ());
    nothing_is_left(&redis);
}

#[test]
fn all_waiters_are_served_although_all_keys_are_deleted() {
    let redis = Redis::start();
    let holder = manager(&redis.url());
    let guard = holder.lock("k").wait().unwrap();
    let managers: Vec<_> = (0..6).map(|_| manager(&redis.url())).collect();
    let waiting = managers.iter().enumerate().map(|(number, manager)| {
        let request = manager.lock("k");
        in_the_background(if number % 3 > 0 { request } else { request.shared() })
    });
    let waiting = waiting.collect();
    waits(&holder, 6);
    redis.cli(&["FLUSHALL"]);
    turns(waiting, || drop(redis.cli(&["FLUSHALL"])));
    drop(guard);
    nothing_is_left(&redis);
}

/// Stalls a server with six waiters. Returns the order of their turns afterwards.
fn order_after_a_stall(stall: impl FnOnce(&Redis)) -> Vec<usize> {
    let redis = Redis::start();
    let build = || LockManager::builder().url(redis.url()).build().wait().unwrap();
    let (holder, managers) = (build(), [(); 6].map(|()| build()));
    let guard = holder.lock("k").wait().unwrap();
    let mut waiting = Vec::new();
    for manager in &managers {
        waiting.push(in_the_background(manager.lock("k")));
        waits(&holder, waiting.len());
    }
    stall(&redis);
    waits(&holder, managers.len());
    assert!(!guard.is_lost());
    guard.unlock().wait().unwrap();
    let order = turns(waiting, || ());
    nothing_is_left(&redis);
    order
}

#[test]
fn a_stall_of_the_server_loses_no_waiter_and_a_short_one_no_order() {
    let stop = |seconds| {
        move |redis: &Redis| {
            redis.process().stop();
            std::thread::sleep(Duration::from_secs(seconds));
            redis.process().resume();
        }
    };
    let pause = |seconds: u64| {
        move |redis: &Redis| {
            redis.cli(&["CLIENT", "PAUSE", &(seconds * 1000).to_string()]);
            std::thread::sleep(Duration::from_secs(seconds));
        }
    };
    std::thread::scope(|scope| {
        for seconds in [1, 3, 12] {
            let orders = [
                scope.spawn(move || order_after_a_stall(stop(seconds))),
                scope.spawn(move || order_after_a_stall(pause(seconds))),
            ];
            for order in orders {
                let order = order.join().unwrap();
                println!("after {seconds} s: {order:?}");
                assert!(order.is_sorted() || seconds > 10, "{order:?} after {seconds} s");
            }
        }
    });
}

/// The lock is held by a sentinel, as others' would be: only the own place among those who share it tells.
#[test]
fn readers_that_are_let_in_without_a_message_find_out_by_a_look() {
    let redis = Redis::start();
    redis.cli(&["ACL", "SETUSER", "mute", "on", ">mute", "~*", "&*", "+@all", "-publish"]);
    let mute = manager(&redis.url().replace("//", "//mute:mute@"));
    let readers = [manager(&redis.url()), manager(&redis.url())];
    let guard = mute.lock("k").wait().unwrap();
    let waiting = readers.each_ref().map(|reader| in_the_background(reader.lock("k").shared()));
    waits(&mute, 2);
    let released = Instant::now();
    guard.unlock().wait().unwrap();
    let guards = waiting.map(|waiting| waiting.recv_timeout(PATIENCE).unwrap().0);
    // The handover of 2 s has not lapsed.
    assert!(released.elapsed() < Duration::from_secs(2), "{:?}", released.elapsed());
    assert_eq!(guards[0].token(), guards[1].token(), "one sharing period");
    let writer = in_the_background(mute.lock("k"));
    waits(&readers[0], 1);
    assert!(guards.iter().all(|guard| !guard.is_lost()) && writer.try_recv().is_err());
    guards.into_iter().for_each(|guard| guard.unlock().wait().unwrap());
    writer.recv_timeout(PATIENCE).unwrap().0.unlock().wait().unwrap();
}

/// Others have written a great many members. The server stays responsive, and a waiter has its turn.
#[test]
fn side_keys_with_many_members_of_others_block_nobody() {
    const MEMBERS: &str = "100000";
    for (kind, score) in [("q2", "number"), ("gone", "1"), ("gone", "'+inf'"), ("lives", "1"), ("lives", "'+inf'")] {
        let redis = Redis::start();
        let (holder, bystander) = (manager(&redis.url()), manager(&redis.url()));
        let (guard, waiter) = (holder.lock("{t}k").wait().unwrap(), manager(&redis.url()));
        let waiting = in_the_background(waiter.lock("{t}k"));
        let waits = || holder.info("{t}k").wait().unwrap().filter(|info| info.waiters > 0).map(drop);
        eventually("it waits", waits);
        let name = match kind {
            "lives" => redis.keys("*lives*").remove(0),
            // Of the holder, whose release comes next.
            "gone" => {
                redis.keys("*clock*").remove(0).replace("clock", "gone") + &redis.cli(&["GET", "lock:{t}k"])[..16]
            }
            _ => format!("{{t}}%{kind}:lock:{{t}}k"),
        };
        let fill = format!(
            "for number = 1, {MEMBERS} do redis.call('ZADD', KEYS[1], {score}, string.format('%016x:%016x:x2::9:1:7:h:n::', number, number)) end"
        );
        redis.cli(&["EVAL", &fill, "1", &name]);
        redis.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "100000"]);
        redis.cli(&["SLOWLOG", "RESET"]);
        let released = Instant::now();
        guard.unlock().wait().unwrap();
        let mut longest = Duration::ZERO;
        let guard = loop {
            let start = Instant::now();
            bystander.lock("b").wait().unwrap().unlock().wait().unwrap();
            longest = longest.max(start.elapsed());
            if let Ok((guard, _)) = waiting.try_recv() {
                break guard;
            }
            assert!(released.elapsed() < PATIENCE, "{kind}: it is never served");
        };
        println!("{kind} {score}: {:?}, a bystander waited for {longest:?} at most", released.elapsed());
        assert_eq!(redis.cli(&["SLOWLOG", "LEN"]), "0", "{kind} {score}: {}", redis.cli(&["SLOWLOG", "GET", "1"]));
        guard.unlock().wait().unwrap();
    }
}
