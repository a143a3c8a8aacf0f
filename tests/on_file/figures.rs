//! Figures of the documentation: `cargo test --release -p leasehold-tests --test on_file -- --ignored --nocapture figures`.

use std::time::{Duration, Instant};

use leasehold::LockManager;

use support::child::{self, Child};

const TIME: Duration = Duration::from_secs(3);

fn url() -> String {
    format!("file:///dev/shm/leasehold-figures-{}", std::process::id())
}

/// In a child: locks and unlocks for a while, and reports the number of holds and the longest wait in microseconds.
#[test]
#[ignore = "a child of another test"]
fn takes_turns() {
    let Some(arguments) = child::role() else { return };
    let [url] = arguments.try_into().unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    child::say("ready");
    child::hear();
    let (started, mut holds, mut longest) = (Instant::now(), 0_u64, Duration::ZERO);
    while started.elapsed() < TIME {
        let asked = Instant::now();
        let guard = manager.lock("k").wait().unwrap();
        longest = longest.max(asked.elapsed());
        drop(guard);
        holds += 1;
    }
    child::say(&format!("{holds} {}", longest.as_micros()));
}

#[test]
#[ignore = "a measurement"]
fn figures() {
    let manager = LockManager::connect(url()).wait().unwrap();
    let mut times: Vec<_> = (0..50_000)
        .map(|_| {
            let started = Instant::now();
            manager.lock("k").wait().unwrap().unlock().wait().unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("lock + unlock: {:?} p50, {:?} p99", times[times.len() / 2], times[times.len() * 99 / 100]);
    for processes in [2, 8, 64] {
        let mut children: Vec<_> =
            (0..processes).map(|_| Child::of_this_test("figures::takes_turns", &[&url()])).collect();
        children.iter_mut().for_each(|child| child.expect("ready"));
        children.iter_mut().for_each(|child| child.send("go"));
        let (mut holds, mut longest) = (0, 0);
        for child in &mut children {
            let said = child.said();
            let (one, wait) = said.split_once(' ').unwrap();
            holds += one.parse::<u64>().unwrap();
            longest = longest.max(wait.parse::<u64>().unwrap());
        }
        println!("{processes} processes: {} holds/s, longest wait {longest} us", holds / TIME.as_secs());
    }
    drop(manager);
    std::fs::remove_dir_all(url().trim_start_matches("file://")).unwrap();
}
