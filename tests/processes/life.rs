//! Processes that end, are killed, stopped or forked while they hold a lock, and the next holders.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockManager};
use support::child::{self, Child};
use support::folder::Folder;
use support::history::{History, What, now};
use support::{PATIENCE, eventually};

/// The shortest TTL that etcd grants.
const TTL: Duration = Duration::from_secs(2);
/// The limit from the end of a lease to the next hold, on a busy machine.
const AFTER: Duration = Duration::from_secs(1);

fn manager(url: &str) -> LockManager {
    LockManager::builder().url(url).ttl(TTL).build().wait().unwrap()
}

/// A child that holds `key`, and the parent's manager.
struct Fixture {
    folder: Folder,
    url: String,
    manager: LockManager,
}

impl Fixture {
    fn new(url: String) -> Self {
        Self { folder: Folder::new(), manager: manager(&url), url }
    }

    fn history(&self) -> History {
        History::open(self.folder.path().join("history"))
    }

    /// Starts a child that says "held" once it has the lock.
    fn holder(&self, role: &str, key: &str) -> Child {
        let folder = self.folder.path().to_str().unwrap();
        let mut child = Child::of_this_test(role, &[&self.url, folder, key]);
        child.expect("held");
        child
    }

    /// Waits for the lock on a separate thread; sends the guard and the time.
    fn wait_for(&self, key: &str) -> Receiver<(LockGuard, u64)> {
        let (request, history, (got, guards)) = (self.manager.lock(key), self.history(), channel());
        std::thread::spawn(move || {
            let guard = request.wait().unwrap();
            let at = now();
            history.acquired(&guard);
            got.send((guard, at))
        });
        eventually("we wait for it", || {
            (self.manager.info(key).wait().unwrap().is_some_and(|info| info.waiters == 1)).then_some(())
        });
        guards
    }
}

/// Generates a test of each function on the server with this URL.
macro_rules! on_a_server {
    ($server:expr; $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                super::$test($server);
            }
        )*
    };
    ($server:expr) => {
        on_a_server! {
            $server;
            the_lock_of_a_killed_process_is_free_when_its_lease_is_over
            a_stopped_process_finds_its_lock_lost_at_the_first_check
            a_panic_releases
            a_forked_child_does_not_have_its_parents_holds
            a_forked_child_can_create_a_manager
        }
    };
}

mod etcd {
    use support::etcd::Etcd;
    use support::eventually;

    on_a_server!(Etcd::shared().url());

    #[test]
    fn a_program_that_ends_after_its_drops_leaves_no_lock_behind() {
        let etcd = Etcd::start();
        super::a_program_that_ends_after_its_drops_leaves_no_lock_behind(etcd.url());
        eventually("no lease is left either", || etcd.leases().is_empty().then_some(()));
    }
}

mod redis {
    use support::redis::Redis;

    on_a_server!(Redis::shared().url());

    #[test]
    fn a_program_that_ends_after_its_drops_leaves_no_lock_behind() {
        let redis = Redis::start();
        super::a_program_that_ends_after_its_drops_leaves_no_lock_behind(redis.url());
        assert!(redis.keys("lock:*").is_empty());
    }
}

/// In a child: the URL, the folder for files, and the key.
fn in_child() -> Option<[String; 3]> {
    child::role().map(|arguments| arguments.try_into().unwrap())
}

fn history_in(folder: &str) -> History {
    History::open(Path::new(folder).join("history"))
}

fn elapsed(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

fn a_program_that_ends_after_its_drops_leaves_no_lock_behind(server: String) {
    let fixture = Fixture::new(server);
    for n in 0..4 {
        let key = format!("ends-{n}");
        let mut child = fixture.holder("life::drops_and_exits", &key);
        let waiting = (n % 2 == 0).then(|| fixture.wait_for(&key));
        child.send("go");
        let (dropped, got) = match waiting {
            Some(waiting) => {
                let dropped: u64 = child.said().parse().unwrap();
                (dropped, waiting.recv_timeout(PATIENCE).unwrap().1)
            }
            // A try: the release must be complete when the process has ended.
            None => {
                let dropped: u64 = child.said().parse().unwrap();
                eventually("the child ends", || child.process.ended());
                drop(fixture.manager.try_lock(&key).wait().unwrap().expect("free once the process has ended"));
                (dropped, now())
            }
        };
        let took = elapsed(dropped, got);
        println!("the next one in {took:?} after the drops began");
        assert!(took < AFTER, "{took:?}");
    }
}

#[test]
#[ignore = "a child of another test"]
fn drops_and_exits() {
    let Some([url, _, key]) = in_child() else { return };
    let manager = manager(&url);
    let guard = manager.lock(&key).wait().unwrap();
    child::say("held");
    child::hear();
    child::say(&now().to_string());
    drop(guard);
    drop(manager);
    std::process::exit(0);
}

fn the_lock_of_a_killed_process_is_free_when_its_lease_is_over(server: String) {
    let fixture = Fixture::new(server);
    for (role, key) in [("life::holds_until_it_is_killed", "killed"), ("life::holds_and_aborts", "aborted")] {
        let mut child = fixture.holder(role, key);
        let waiting = fixture.wait_for(key);
        let killed = now();
        match role {
            "life::holds_and_aborts" => child.send("go"),
            _ => child.process.kill(),
        }
        let (guard, got) = waiting.recv_timeout(PATIENCE).unwrap();
        let took = elapsed(killed, got);
        println!("{key}: the next one in {took:?} after the end, T is {TTL:?}");
        assert!(took < TTL + AFTER + Duration::from_millis(500), "{took:?}");
        guard.unlock().wait().unwrap();
    }
    fixture.history().assert_clean(4);
}

#[test]
#[ignore = "a child of another test"]
fn holds_until_it_is_killed() {
    hold_and(|| {
        loop {
            std::thread::park();
        }
    });
}

#[test]
#[ignore = "a child of another test"]
fn holds_and_aborts() {
    hold_and(|| {
        child::hear();
        std::process::abort();
    });
}

/// In a child: locks, reports it, and continues.
fn hold_and(then: impl FnOnce()) {
    let Some([url, folder, key]) = in_child() else { return };
    let manager = manager(&url);
    let guard = manager.lock(&key).wait().unwrap();
    history_in(&folder).acquired(&guard);
    child::say("held");
    then();
}

fn a_stopped_process_finds_its_lock_lost_at_the_first_check(server: String) {
    let fixture = Fixture::new(server);
    let mut child = fixture.holder("life::checks_repeatedly", "stopped");
    let waiting = fixture.wait_for("stopped");
    let stopped = now();
    child.process.stop();
    let (guard, got) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the next one in {:?} after the stop, T is {TTL:?}", elapsed(stopped, got));
    // A fixed pause: the stop lasts 2 T.
    std::thread::sleep((2 * TTL).saturating_sub(elapsed(stopped, now())));
    let resumed = now();
    child.process.resume();
    let tokens: Vec<u64> =
        [child.said(), guard.token().to_string()].iter().map(|token| token.parse().unwrap()).collect();
    assert!(tokens[0] < tokens[1], "{tokens:?}");
    assert!(child.finish());
    let records = fixture.history().records();
    let believed = records.iter().find(|record| record.what == What::Alive && record.at >= resumed);
    assert_eq!(believed, None, "resumed at {resumed}");
    assert!(records.iter().any(|record| record.what == What::FoundLost));
    // Its late drop had no effect on the successor.
    assert!(!guard.is_lost() && guard.renew().wait().is_ok());
    guard.unlock().wait().unwrap();
    fixture.history().assert_clean(2);
}

#[test]
#[ignore = "a child of another test"]
fn checks_repeatedly() {
    let Some([url, folder, key]) = in_child() else { return };
    let manager = manager(&url);
    let guard = manager.lock(&key).wait().unwrap();
    let hold = history_in(&folder).acquired(&guard);
    child::say("held");
    while !hold.is_lost(&guard) {
        std::thread::yield_now();
    }
    child::say(&guard.token().to_string());
    hold.released();
    assert_eq!(guard.unlock().wait().unwrap_err().code(), "LOCK_EXPIRED");
}

fn a_panic_releases(server: String) {
    let fixture = Fixture::new(server);
    let mut child = fixture.holder("life::panics", "panicked");
    let waiting = fixture.wait_for("panicked");
    child.send("go");
    let panicked: u64 = child.said().parse().unwrap();
    let (guard, got) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("the next one in {:?} after the panic", elapsed(panicked, got));
    assert!(elapsed(panicked, got) < AFTER);
    assert!(!child.finish());
    guard.unlock().wait().unwrap();
}

#[test]
#[ignore = "a child of another test"]
fn panics() {
    let Some([url, _, key]) = in_child() else { return };
    let manager = manager(&url);
    let _guard = manager.lock(&key).wait().unwrap();
    child::say("held");
    child::hear();
    child::say(&now().to_string());
    panic!("on purpose");
}

fn a_forked_child_does_not_have_its_parents_holds(server: String) {
    let fixture = Fixture::new(server);
    let mut child = fixture.holder("life::forks", "forked");
    child.expect("forked");
    // The fork drops guards and a manager meanwhile, calls everything, and ends.
    let found = child.said();
    println!("{found}");
    assert!(found.starts_with("lost after "), "{found}");
    for key in ["forked", "forked/dropped", "forked/unlocked"] {
        assert!(fixture.manager.try_lock(key).wait().unwrap().is_none(), "{key} is still the parent's");
    }
    // A fixed pause: the parent continues to renew.
    std::thread::sleep(2 * TTL);
    assert!(fixture.manager.try_lock("forked").wait().unwrap().is_none());
    child.send("go");
    child.expect("unlocked");
    assert!(child.finish());
    for key in ["forked", "forked/dropped", "forked/unlocked"] {
        drop(fixture.manager.lock(key).timeout(PATIENCE).wait().unwrap());
    }
}

#[test]
#[ignore = "a child of another test"]
fn forks() {
    let Some([url, folder, key]) = in_child() else { return };
    let manager = manager(&url);
    let guard = manager.lock(&key).wait().unwrap();
    let dropped = manager.lock(format!("{key}/dropped")).wait().unwrap();
    let unlocked = manager.lock(format!("{key}/unlocked")).wait().unwrap();
    let handle = manager.handle(&key).unwrap();
    child::say("held");
    let report = Path::new(&folder).join("report");
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            // A panic must not reach the test harness of the parent.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let forked = Instant::now();
                let codes = [
                    manager.lock("else").wait().map(drop),
                    manager.lock(&key).wait().map(drop),
                    manager.try_lock("else").wait().map(drop),
                    manager.is_locked("else").wait().map(drop),
                    manager.info("else").wait().map(drop),
                    manager.list("").wait().map(drop),
                    manager.ping().wait().map(drop),
                    manager.force_unlock(&key).wait().map(drop),
                    handle.lock().wait().map(drop),
                    handle.renew().wait().map(drop),
                    guard.renew().wait().map(drop),
                    guard.reenter().map(drop),
                    unlocked.unlock().wait(),
                    manager.lock_all(["else", "other"]).wait().map(drop),
                    manager.lock("else").wait_with(|_| ()),
                    manager.handle("else").map(drop),
                    manager.close().wait(),
                ];
                for (n, code) in codes.into_iter().enumerate() {
                    let refused = matches!(code, Err(leasehold::LockError::Closed { forked: true, .. }));
                    assert!(refused, "call {n}: {code:?}");
                }
                drop(dropped);
                while !guard.is_lost() {
                    assert!(forked.elapsed() < 2 * TTL, "not lost");
                    std::thread::sleep(Duration::from_millis(1));
                }
                let lost = forked.elapsed();
                drop((guard, handle, manager));
                let drops = forked.elapsed() - lost;
                assert!(lost <= TTL && drops < Duration::from_millis(500), "{lost:?}, {drops:?}");
                format!("lost after {lost:?}, the drops took {drops:?}")
            }));
            let text = outcome.unwrap_or_else(|_| "it panicked".into());
            let written = std::fs::write(report.with_extension("new"), text);
            let _ = written.and_then(|()| std::fs::rename(report.with_extension("new"), report));
            std::process::exit(0);
        }
        fork::Fork::Parent(_) => {
            child::say("forked");
            child::say(&eventually("the fork's report", || std::fs::read_to_string(&report).ok()));
            child::hear();
            assert!(!guard.is_lost() && !dropped.is_lost() && !unlocked.is_lost());
            for guard in [guard, dropped, unlocked] {
                guard.unlock().wait().unwrap();
            }
            child::say("unlocked");
        }
    }
}

fn a_forked_child_can_create_a_manager(server: String) {
    let fixture = Fixture::new(server);
    let mut child = fixture.holder("life::forks_and_connects", "prefork");
    assert_eq!(child.said(), "the lock is its parent's; locked another");
    assert!(child.finish());
}

#[test]
#[ignore = "a child of another test"]
fn forks_and_connects() {
    let Some([url, folder, key]) = in_child() else { return };
    let parents = manager(&url);
    let guard = parents.lock(&key).wait().unwrap();
    child::say("held");
    let report = Path::new(&folder).join("report");
    match fork::fork().unwrap() {
        fork::Fork::Child => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let own = manager(&url);
                assert!(own.try_lock(&key).wait().unwrap().is_none());
                own.lock("prefork/other").wait().unwrap().unlock().wait().unwrap();
            }));
            let text = outcome.map_or("it panicked", |()| "the lock is its parent's; locked another");
            let written = std::fs::write(report.with_extension("new"), text);
            let _ = written.and_then(|()| std::fs::rename(report.with_extension("new"), report));
            std::process::exit(0);
        }
        fork::Fork::Parent(_) => {
            child::say(&eventually("the fork's report", || std::fs::read_to_string(&report).ok()));
            guard.unlock().wait().unwrap();
        }
    }
}
