//! Many processes on one key, killed and stopped at random. The judge is the kernel: another lock on another file, which dies with its
//! process as well.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use leasehold::LockManager;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use support::child::{self, Child};

const TTL: Duration = Duration::from_secs(1);
/// How long a process that was killed may take to close its files, on a busy machine.
const DYING: Duration = Duration::from_millis(500);

fn url(folder: &Path) -> String {
    format!("file://{}/locks?ttl={}ms", folder.display(), TTL.as_millis())
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let shared = Path::new("/dev/shm");
        let base = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("leasehold-crowd-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// In a child: locks until it is killed or its input ends. Each hold is judged; the outcome is written to a file at each second.
#[test]
#[ignore = "a child of another test"]
fn locks_and_is_judged() {
    let Some(arguments) = child::role() else { return };
    let [folder, number] = arguments.try_into().unwrap();
    let folder = Path::new(&folder);
    let judge = File::options().read(true).write(true).open(folder.join("judge")).unwrap();
    let report = folder.join(format!("report-{number}-{}", std::process::id()));
    let manager = LockManager::connect(url(folder)).wait().unwrap();
    child::say("ready");
    let (mut holds, mut lost, mut overlaps, mut longest, mut written) =
        (0_u64, 0_u64, 0_u64, Duration::ZERO, Instant::now());
    loop {
        let is_reader = !rand::random::<u8>().is_multiple_of(4);
        let request = manager.lock("k");
        let request = if is_reader { request.shared() } else { request };
        let started = Instant::now();
        let guard = request.wait().unwrap();
        longest = longest.max(started.elapsed());
        let operation =
            if is_reader { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        let asked = Instant::now();
        while flock(&judge, operation).is_err() {
            // The one before may be dying, or have been stopped and lost its lock; a loss of this one excuses it, too.
            if guard.is_lost() {
                break;
            }
            if asked.elapsed() > DYING && !others_are_stopped(folder) {
                overlaps += 1;
                break;
            }
            std::thread::yield_now();
        }
        holds += 1;
        // The second judge, which excuses nobody: a later hold that excludes this one, while this one is not lost.
        let offset = if is_reader { 8 } else { 0 };
        judge.write_at(&guard.token().get().to_ne_bytes(), offset).unwrap();
        std::thread::sleep(Duration::from_micros(rand::random::<u64>() % 200));
        let seen = |offset| {
            let mut token = [0; 8];
            let length = judge.read_at(&mut token, offset).unwrap();
            if length == token.len() { u64::from_ne_bytes(token) } else { 0 }
        };
        let later = if is_reader { seen(0) } else { seen(0).max(seen(8)) };
        if later > guard.token().get() && !guard.is_lost() {
            overlaps += 1;
        }
        flock(&judge, FlockOperation::Unlock).unwrap();
        lost += u64::from(guard.unlock().wait().is_err());
        if written.elapsed() > Duration::from_millis(200) || overlaps > 0 {
            written = Instant::now();
            std::fs::write(&report, format!("{holds} {lost} {overlaps} {}", longest.as_micros())).unwrap();
        }
    }
}

/// Whether the parent has a child stopped at present, or has had so within the last TTL.
fn others_are_stopped(folder: &Path) -> bool {
    let stopped = std::fs::metadata(folder.join("stopped")).and_then(|stopped| stopped.modified());
    stopped.is_ok_and(|at| at.elapsed().unwrap_or_default() < 3 * TTL)
}

struct Outcome {
    holds: u64,
    lost: u64,
    overlaps: u64,
    longest: Duration,
}

fn outcome(folder: &Path) -> Outcome {
    let mut sum = Outcome { holds: 0, lost: 0, overlaps: 0, longest: Duration::ZERO };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with("report-") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        if let [holds, lost, overlaps, longest] = numbers[..] {
            sum.holds += holds;
            sum.lost += lost;
            sum.overlaps += overlaps;
            sum.longest = sum.longest.max(Duration::from_micros(longest));
        }
    }
    sum
}

/// Runs a crowd, kills its processes at random, and stops them where `stops`.
fn crowd(processes: usize, time: Duration, pause: Duration, stops: bool) -> Outcome {
    let folder = Folder::new();
    File::create(folder.0.join("judge")).unwrap();
    let start = |number: usize| {
        let mut child =
            Child::of_this_test("crowd::locks_and_is_judged", &[folder.0.to_str().unwrap(), &number.to_string()]);
        child.expect("ready");
        child
    };
    let mut children: Vec<_> = (0..processes).map(start).collect();
    // Several at a time: with the time at which each goes on.
    let mut stopped: Vec<(usize, Instant)> = Vec::new();
    let (began, mut faults) = (Instant::now(), 0);
    while began.elapsed() < time {
        std::thread::sleep(pause);
        if !stopped.is_empty() {
            File::create(folder.0.join("stopped")).unwrap();
        }
        stopped.retain(|&(number, until)| {
            let is_due = until <= Instant::now();
            if is_due {
                children[number].process.signal(Signal::CONT);
            }
            !is_due
        });
        let victim = rand::random::<u32>() as usize % processes;
        if stops && rand::random() {
            // Longer than the TTL now and then: then its place is taken away.
            let paused = if rand::random::<u8>().is_multiple_of(8) { TTL + TTL / 2 } else { Duration::from_millis(20) };
            File::create(folder.0.join("stopped")).unwrap();
            children[victim].process.signal(Signal::STOP);
            stopped.push((victim, Instant::now() + paused));
        } else {
            children[victim].process.kill();
            children[victim] = start(victim);
        }
        faults += 1;
    }
    for (number, _) in stopped {
        children[number].process.signal(Signal::CONT);
    }
    // Nobody is stranded: a newcomer has its turn.
    let manager = LockManager::connect(url(&folder.0)).wait().unwrap();
    drop(manager.lock("k").timeout(Duration::from_secs(10)).wait().expect("a turn"));
    for child in &mut children {
        child.process.kill();
    }
    let outcome = outcome(&folder.0);
    drop(manager.lock("k").timeout(Duration::from_secs(5)).wait().expect("all others are dead"));
    drop(manager);
    swept(&folder.0);
    println!(
        "{processes} processes, {faults} faults in {:?}: {} holds, {} lost, longest wait {:?}",
        began.elapsed(),
        outcome.holds,
        outcome.lost,
        outcome.longest
    );
    outcome
}

/// After all have been killed, a sweep leaves nothing.
fn swept(folder: &Path) {
    let locks = folder.join("locks");
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for old in ["slots", "k/k"] {
        File::options().write(true).open(locks.join(old)).unwrap().set_modified(long_ago).unwrap();
    }
    let manager = LockManager::connect(url(folder)).wait().unwrap();
    let names = |folder: &str| std::fs::read_dir(locks.join(folder)).unwrap().count();
    // Its own mailbox is there.
    support::eventually("the directory is swept", || {
        let left = ["k", "l", "v", "m"].map(names);
        (left == [0, 0, 0, 1]).then_some(())
    });
    drop(manager);
    support::eventually("the mailbox is removed", || (names("m") == 0).then_some(()));
}

#[test]
fn killed_processes_leave_no_overlap_and_no_waiter_behind() {
    let outcome = crowd(8, Duration::from_secs(4), Duration::from_millis(20), false);
    assert_eq!(outcome.overlaps, 0);
    assert!(outcome.holds > 1000, "{} holds", outcome.holds);
    // Below the time after which a waiter looks in any case: all were woken.
    assert!(outcome.longest < Duration::from_secs(4), "{:?}", outcome.longest);
}

#[test]
fn stopped_processes_lose_their_places_at_most() {
    let outcome = crowd(8, Duration::from_secs(10), Duration::from_millis(20), true);
    assert_eq!(outcome.overlaps, 0);
    assert!(outcome.longest < Duration::from_secs(10), "{:?}", outcome.longest);
}

/// The figure of the documentation.
#[test]
#[ignore = "a minute"]
fn a_crowd_of_32_for_a_minute() {
    let outcome = crowd(32, Duration::from_secs(60), Duration::from_millis(15), true);
    assert_eq!(outcome.overlaps, 0);
}
