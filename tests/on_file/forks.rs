//! A fork of a holder keeps the locks of the kernel.

use std::time::{Duration, Instant};

use fork::{Fork, fork};
use leasehold::LockManager;

use support::child::{self, Child};

/// In a child: locks, forks, and reports the fork.
#[test]
#[ignore = "a child of another test"]
fn holds_and_forks() {
    let Some(arguments) = child::role() else { return };
    let [url] = arguments.try_into().unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    match fork().unwrap() {
        Fork::Child => {
            // Its drops free nothing.
            drop(guard);
            drop(manager);
            std::thread::sleep(Duration::from_secs(20));
            std::process::exit(0);
        }
        Fork::Parent(pid) => {
            // Time for those drops.
            std::thread::sleep(Duration::from_millis(300));
            child::say(&pid.to_string());
            child::hear();
        }
    }
}

#[test]
fn a_killed_holder_is_noticed_although_a_fork_of_it_lives() {
    let url = format!("file:///dev/shm/leasehold-forks-{:016x}/locks", rand::random::<u64>());
    let directory = url.trim_start_matches("file://").trim_end_matches("/locks").to_owned();
    let mut holder = Child::of_this_test("forks::holds_and_forks", &[&url]);
    let pid: i32 = holder.said().parse().unwrap();
    let manager = LockManager::connect(&url).wait().unwrap();
    assert!(manager.try_lock("k").wait().unwrap().is_none(), "the fork's drops free nothing");
    let waiting = std::thread::spawn({
        let manager = manager.clone();
        move || drop(manager.lock("k").wait().unwrap())
    });
    support::eventually("a waiter", || (manager.info("k").wait().unwrap()?.waiters == 1).then_some(()));
    let killed = Instant::now();
    holder.process.kill();
    waiting.join().unwrap();
    // Far below the TTL of 30 s, and below the time after which a waiter looks in any case.
    assert!(killed.elapsed() < Duration::from_secs(4), "{:?}", killed.elapsed());
    let fork = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(fork, rustix::process::Signal::KILL).unwrap();
    drop(manager);
    std::fs::remove_dir_all(directory).unwrap();
}
