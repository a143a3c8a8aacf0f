//! The queue of a lock whose waiters are killed or stopped, or whose keys are deleted.

use std::time::{Duration, Instant};

use leasehold::LockManager;
use support::child::{self, Child};
use support::redis::Redis;
use support::{PATIENCE, eventually, in_the_background};

/// The limit for the next holder, on a busy machine: a dead place counts for 1.9 s, and a look is due each second.
const NEXT: Duration = Duration::from_secs(3);

fn manager(url: &str) -> LockManager {
    LockManager::builder().url(url).ttl(Duration::from_secs(10)).build().wait().unwrap()
}

fn waiters(manager: &LockManager, key: &str) -> usize {
    manager.info(key).wait().unwrap().map_or(0, |info| info.waiters)
}

fn waits(manager: &LockManager, count: usize) {
    eventually("they wait", || (waiters(manager, "k") == count).then_some(()));
}

/// Starts a process with so many managers, each of which waits for the lock.
fn start(redis: &Redis, managers: usize) -> Child {
    let mut child = Child::of_this_test("queues::wait_in_a_child", &[&redis.url(), &managers.to_string()]);
    child.expect("waiting");
    child
}

/// Each manager waits for the lock, says when it has it, and releases it when it hears so.
#[test]
#[ignore = "run as a child process"]
fn wait_in_a_child() {
    let Some(arguments) = child::role() else { return };
    let managers: Vec<_> = (0..arguments[1].parse().unwrap()).map(|_| manager(&arguments[0])).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let waiting = futures::future::join_all(managers.iter().map(async |manager| {
            let guard = manager.lock("k").await.unwrap();
            child::say("held");
            tokio::task::spawn_blocking(child::hear).await.unwrap();
            guard.unlock().await.unwrap();
        }));
        let all_wait = async {
            while managers.len() > waiters_of(&managers).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            child::say("waiting");
        };
        futures::future::join(waiting, all_wait).await;
    });
    child::say("done");
}

/// How many wait at least: each of these, and others perhaps.
async fn waiters_of(managers: &[LockManager]) -> usize {
    managers[0].info("k").await.unwrap().map_or(0, |info| info.waiters)
}

#[test]
fn a_thousand_managers_that_are_killed_delay_the_next_one_for_less_than_three_seconds() {
    const MANAGERS: usize = 250;
    let redis = Redis::start();
    let (holder, live) = (manager(&redis.url()), manager(&redis.url()));
    let guard = holder.lock("k").wait().unwrap();
    let mut children: Vec<_> = (1..=4)
        .map(|number| {
            let child = start(&redis, MANAGERS);
            waits(&holder, number * MANAGERS);
            child
        })
        .collect();
    let waiting = in_the_background(live.lock("k"));
    waits(&holder, 4 * MANAGERS + 1);
    children.iter_mut().for_each(|child| child.process.kill());
    let released = Instant::now();
    guard.unlock().wait().unwrap();
    let (guard, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the next one in {:?}", at - released);
    assert!(at - released < NEXT, "{:?}", at - released);
    guard.unlock().wait().unwrap();
    eventually("nothing is left", || redis.keys("*lock:k*").is_empty().then_some(()));
}

/// A waiter's process is stopped for this long. Then another one comes. Returns the names of the next three holders in order.
fn order_after(stop: Duration) -> Vec<&'static str> {
    let redis = Redis::start();
    let (holder, second, third) = (manager(&redis.url()), manager(&redis.url()), manager(&redis.url()));
    let guard = holder.lock("k").wait().unwrap();
    let mut stopped = start(&redis, 1);
    let second = in_the_background(second.lock("k"));
    waits(&holder, 2);
    stopped.process.stop();
    std::thread::sleep(stop);
    assert_eq!(waiters(&holder, "k"), 1, "its life has ended");
    stopped.process.resume();
    waits(&holder, 2);
    let third = in_the_background(third.lock("k"));
    waits(&holder, 3);
    guard.unlock().wait().unwrap();
    let (mut order, mut local) = (Vec::new(), [("second", second), ("third", third)].into_iter().peekable());
    let start = Instant::now();
    while order.len() < 3 {
        assert!(start.elapsed() < PATIENCE, "only {order:?}");
        if !order.contains(&"stopped")
            && let Some(said) = stopped.said_within(Duration::from_millis(20))
        {
            assert_eq!(said, "held");
            order.push("stopped");
            assert!(local.peek().is_none_or(|(_, waiting)| waiting.try_recv().is_err()), "two hold");
            stopped.send("release");
        }
        let Some((name, waiting)) = local.peek() else { continue };
        if let Ok((guard, _)) = waiting.try_recv() {
            order.push(name);
            guard.unlock().wait().unwrap();
            local.next();
        }
    }
    stopped.expect("done");
    assert!(stopped.finish());
    order
}

#[test]
fn a_process_that_is_stopped_for_three_seconds_keeps_its_place() {
    assert_eq!(order_after(Duration::from_secs(3)), ["stopped", "second", "third"]);
}

#[test]
fn a_process_that_is_stopped_for_twelve_seconds_queues_again() {
    let order = order_after(Duration::from_secs(12));
    let place = |name| order.iter().position(|other| *other == name).unwrap();
    assert!(place("second") < place("third"), "{order:?}");
}

/// Deletes the queue's key at random moments while managers wait and take turns.
#[test]
fn all_waiters_are_served_although_their_queue_is_deleted() {
    for shared in [[false; 6], [true; 6], [false, true, true, false, true, false]] {
        let redis = Redis::start();
        let holder = manager(&redis.url());
        let guard = holder.lock("k").wait().unwrap();
        let mut waiting: Vec<_> = shared
            .into_iter()
            .map(|shared| {
                let request = manager(&redis.url()).lock("k");
                in_the_background(if shared { request.shared() } else { request })
            })
            .collect();
        waits(&holder, shared.len());
        let queue = redis.keys("*q2*k");
        assert_eq!(queue.len(), 1, "{queue:?}");
        redis.cli(&["DEL", &queue[0]]);
        let deleted = Instant::now();
        guard.unlock().wait().unwrap();
        while !waiting.is_empty() {
            assert!(deleted.elapsed() < PATIENCE, "{} are not served", waiting.len());
            waiting.retain(|waiter| match waiter.try_recv() {
                Ok((guard, _)) => {
                    guard.unlock().wait().unwrap();
                    // Those that have come back to the queue lose their places again.
                    redis.cli(&["DEL", &queue[0]]);
                    false
                }
                Err(_) => true,
            });
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("{shared:?}: all served in {:?}", deleted.elapsed());
        eventually("nothing is left", || redis.keys("*lock:k*").is_empty().then_some(()));
    }
}
