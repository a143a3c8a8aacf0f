//! Random faults of a server under a mixed load: connections that are killed, stalls, and side keys that are deleted or written by
//! others. Each manager has an account, and so connections, of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::{LockError, LockGuard, LockManager, Owner};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use support::folder::Folder;
use support::history::{History, Violation, judge};
use support::redis::Redis;
use support::walk::walk_once;
use support::{PATIENCE, eventually, soak};

const TTL: Duration = Duration::from_secs(3);
const MANAGERS: usize = 6;
const KEYS: [&str; 3] = ["a", "b", "{tag}c"];
/// How long the faults last, without `LEASEHOLD_SOAK`.
const FAULTS: Duration = Duration::from_secs(12);
/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// A server, its managers, and what has happened.
struct World {
    redis: Redis,
    managers: Vec<LockManager>,
    history: History,
    enough: AtomicBool,
    turns: AtomicUsize,
    _folder: Folder,
}

impl World {
    fn new() -> Self {
        let redis = Redis::start();
        let managers = (0..MANAGERS).map(|number| {
            let user = format!("u{number}");
            redis.cli(&["ACL", "SETUSER", &user, "reset", "on", ">pass", "~*", "&*", "+@all"]);
            let url = redis.url().replace("//", &format!("//{user}:pass@"));
            LockManager::builder().url(url).ttl(TTL).build().wait().unwrap()
        });
        let (managers, folder) = (managers.collect(), Folder::new());
        let history = History::open(folder.path().join("history"));
        let (enough, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { managers, redis, history, enough, turns, _folder: folder }
    }

    /// Uses a lock for a moment, until it is lost.
    fn hold(&self, guard: LockGuard, time: Duration, unlock: bool) {
        let (hold, start) = (self.history.acquired(&guard), Instant::now());
        self.turns.fetch_add(1, Ordering::SeqCst);
        while start.elapsed() < time {
            if hold.is_lost(&guard) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if hold.is_lost(&guard) {
            return;
        }
        hold.released();
        match unlock {
            true => drop(guard.unlock().wait()),
            false => drop(guard),
        }
    }

    /// One use of a lock, of a random kind.
    fn turn(&self, manager: &LockManager, runtime: &tokio::runtime::Runtime) -> Result<(), LockError> {
        let mut rng = rand::rng();
        let (key, owner) = (*KEYS.choose(&mut rng).unwrap(), Owner::new());
        let kind = rng.random_range(0..10);
        let timeout = if kind == 1 { Duration::from_millis(rng.random_range(1..100)) } else { PATIENCE };
        let request = manager.lock(key).timeout(timeout).owner(&owner);
        let request = if rng.random_range(0..3) == 0 { request.shared() } else { request };
        let time = match rng.random_range(0..40) {
            0 => Duration::from_millis(rng.random_range(500..2000)),
            _ => Duration::from_millis(rng.random_range(0..6)),
        };
        if kind == 0 {
            if let Some(guard) = request.try_once().wait()? {
                self.hold(guard, time, true);
            }
            return Ok(());
        }
        if kind == 2 {
            let limit = Duration::from_millis(rng.random_range(0..20));
            let dropped = runtime.block_on(async { tokio::time::timeout(limit, request).await });
            if let Ok(guard) = dropped {
                self.hold(guard?, time, true);
            }
            return Ok(());
        }
        self.hold(request.wait()?, time, rng.random());
        Ok(())
    }

    fn work(&self, manager: &LockManager) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        while !self.enough.load(Ordering::SeqCst) {
            match self.turn(manager, &runtime) {
                Ok(()) => {}
                // A key that is of another type at the moment.
                Err(error) if ["LOCK_TIMEOUT", "LOCK_BUSY", "BACKEND"].contains(&error.code()) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{}: {error}", error.code()),
            }
        }
    }

    fn key(&self, kind: &str, rng: &mut StdRng) -> Option<String> {
        self.redis.keys(&format!("*{kind}*")).choose(rng).cloned()
    }

    /// A fault after which each hold ends as its holder expects.
    fn fault(&self, rng: &mut StdRng) -> String {
        let cli = |words: &[&str]| self.redis.cli(words);
        match rng.random_range(0..11) {
            10 => {
                cli(&["CONFIG", "SET", "maxmemory", "1"]);
                std::thread::sleep(Duration::from_millis(500));
                cli(&["CONFIG", "SET", "maxmemory", "0"]);
                "no memory".into()
            }
            0 => {
                cli(&["SCRIPT", "FLUSH"]);
                "scripts forgotten".into()
            }
            1 => {
                let kind = *["normal", "pubsub"].choose(rng).unwrap();
                cli(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
                format!("all {kind} connections killed")
            }
            2 => {
                let time = [100, 1000, 3000][rng.random_range(0..3)];
                cli(&["CLIENT", "PAUSE", &time.to_string(), if rng.random() { "ALL" } else { "WRITE" }]);
                std::thread::sleep(Duration::from_millis(time));
                format!("paused for {time} ms")
            }
            3 => {
                let time = Duration::from_millis([200, 1000, 3500][rng.random_range(0..3)]);
                self.redis.process().stop();
                std::thread::sleep(time);
                self.redis.process().resume();
                format!("stopped for {time:?}")
            }
            4..8 => {
                let kind = *["%q2:", "%r2:", "%gone:", "%lives:", "%clock:"].choose(rng).unwrap();
                let Some(key) = self.key(kind, rng) else { return format!("no {kind}") };
                cli(&["DEL", &key]);
                format!("{key} deleted")
            }
            8 => {
                let kind = *["%q2:", "%gone:", "%lives:"].choose(rng).unwrap();
                let Some(key) = self.key(kind, rng) else { return format!("no {kind}") };
                cli(&["EVAL", "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], 'x')", "1", &key]);
                std::thread::sleep(Duration::from_millis(300));
                cli(&[
                    "EVAL",
                    "if redis.call('TYPE', KEYS[1]).ok == 'string' then redis.call('DEL', KEYS[1]) end",
                    "1",
                    &key,
                ]);
                format!("{key} of another type")
            }
            _ => {
                let clients = cli(&["CLIENT", "LIST"]);
                let ids: Vec<_> =
                    clients.lines().filter_map(|line| line.split(" ").next()?.strip_prefix("id=")).collect();
                for id in ids.sample(rng, 3) {
                    // It may be closed already.
                    let _ = self.redis.cli_command().args(["CLIENT", "KILL", "ID", id]).output();
                }
                "some connections killed".into()
            }
        }
    }

    /// A fault by which a holder loses a lock unexpectedly.
    fn theft(&self, rng: &mut StdRng) -> String {
        let key = *KEYS.choose(rng).unwrap();
        match rng.random_range(0..4) {
            0 => {
                self.redis.cli(&["FLUSHALL"]);
                "all keys deleted".into()
            }
            1 => {
                self.redis.cli(&["DEL", &format!("lock:{key}")]);
                format!("{key} deleted")
            }
            _ => {
                let manager = self.managers.choose(rng).unwrap();
                format!("{key} unlocked by force: {:?}", manager.force_unlock(key).wait().map(|done| done.released))
            }
        }
    }

    /// Runs the load and the faults; then checks what has happened and what is left.
    fn run(self, rng: &mut StdRng, thefts: bool) {
        let said = std::thread::scope(|scope| {
            let workers: Vec<_> =
                self.managers.iter().chain(&self.managers).map(|manager| scope.spawn(|| self.work(manager))).collect();
            let play = || {
                let (mut said, start) = (Vec::new(), Instant::now());
                let time = soak().unwrap_or(FAULTS);
                while start.elapsed() < time {
                    let what = if thefts && rng.random_range(0..3) == 0 { self.theft(rng) } else { self.fault(rng) };
                    said.push(format!("{:?} {what}", start.elapsed()));
                    std::thread::sleep(Duration::from_millis(rng.random_range(0..400)));
                    assert!(!workers.iter().any(|worker| worker.is_finished()), "a worker has failed");
                }
                // Without faults all make progress.
                let turns = self.turns.load(Ordering::SeqCst);
                eventually("progress", || (self.turns.load(Ordering::SeqCst) > turns + 50).then_some(()));
                said
            };
            let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(play));
            self.enough.store(true, Ordering::SeqCst);
            said.unwrap_or_else(|problem| std::panic::resume_unwind(problem))
        });
        let allowed = if thefts { TTL / 3 + SLACK } else { Duration::ZERO };
        let records = self.history.records();
        let mut verdict = judge(&records, allowed);
        // A hold that was taken away may be seen after its successor, with its older token.
        let begun = |hold: &str| records.iter().find(|record| record.hold == hold).map_or(0, |record| record.at);
        verdict.violations.retain(|violation| match violation {
            Violation::Token { first, second } => u128::from(begun(&second.0) - begun(&first.0)) > allowed.as_nanos(),
            _ => true,
        });
        println!("{} holds, {} faults", verdict.holds, said.len());
        assert!(verdict.violations.is_empty(), "{verdict}{}", said.join("\n"));
        for key in KEYS {
            drop(self.managers[0].lock(key).timeout(PATIENCE).wait().unwrap());
        }
        for manager in &self.managers {
            manager.close().wait().unwrap();
        }
        eventually("nothing is left", || {
            let left = self.redis.keys("*");
            left.iter().all(|key| ["%clock:", "%lives:", "%gone:"].iter().any(|kind| key.contains(kind))).then_some(())
        });
    }
}

#[test]
fn no_fault_of_the_server_lets_two_in() {
    walk_once(|rng| World::new().run(rng, false));
}

#[test]
fn a_lock_that_is_taken_away_is_lost_soon_in_any_trouble() {
    walk_once(|rng| World::new().run(rng, true));
}
