//! Processes in other namespaces, and file systems of a test's own: bind mounts, other process numbers, a full disk, and one that cannot be
//! written.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use leasehold::LockManager;
use support::child::{self, Child};
use support::folder::Folder;
use support::{PATIENCE, eventually};

/// Runs a function of this program in new namespaces, after a script. `None` where that is not permitted.
fn within(namespaces: &[&str], script: &str, function: &str, arguments: &[&str]) -> Option<Child> {
    let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let flags = [user, namespaces].concat();
    let is_permitted = std::process::Command::new("unshare").args(&flags).arg("true").status().unwrap().success();
    if !is_permitted {
        println!("unshare {flags:?} is not permitted here");
        return None;
    }
    let script = format!("set -e\n{script}\nexec \"$@\"");
    Some(Child::start(PathBuf::from("unshare"), |command| {
        command.args(&flags).args(["sh", "-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
        child::play(command, function, arguments);
    }))
}

fn url(folder: &Folder) -> String {
    format!("file://{}", folder.path().join("locks").display())
}

/// In a child: holds a lock until its parent requests the release.
#[test]
#[ignore = "a child of another test"]
fn holds() {
    let Some(arguments) = child::role() else { return };
    let [url] = arguments.try_into().unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    child::say("held");
    child::hear();
    guard.unlock().wait().unwrap();
    child::say("released");
    drop(manager.lock("k").wait().unwrap());
    let _guard = manager.lock("k").wait().unwrap();
    child::say("held");
    child::hear();
}

#[test]
fn a_bind_mount_in_another_namespace_excludes() {
    let (folder, other) = (Folder::new(), Folder::new());
    let manager = LockManager::connect(url(&folder)).wait().unwrap();
    let script = format!("mount --bind {} {}", folder.path().display(), other.path().display());
    let Some(mut holder) = within(&["--mount"], &script, "namespaces::holds", &[&url(&other)]) else { return };
    holder.expect("held");
    assert!(manager.try_lock("k").wait().unwrap().is_none());
    let waiting = support::in_the_background(manager.lock("k"));
    eventually("it waits", || (manager.info("k").wait().unwrap()?.waiters == 1).then_some(()));
    let released = Instant::now();
    holder.send("release");
    let (guard, at) = waiting.recv_timeout(PATIENCE).unwrap();
    println!("granted {:?} after the request to release", at - released);
    holder.expect("released");
    guard.unlock().wait().unwrap();
    holder.expect("held");
    let killed = Instant::now();
    holder.process.kill();
    drop(manager.lock("k").wait().unwrap());
    assert!(killed.elapsed() < Duration::from_secs(4), "{:?}", killed.elapsed());
}

/// In a child: waits for a lock.
#[test]
#[ignore = "a child of another test"]
fn waits() {
    let Some(arguments) = child::role() else { return };
    let [url] = arguments.try_into().unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    child::say("connected");
    let _guard = manager.lock("k").wait().unwrap();
    child::say("granted");
}

#[test]
fn a_fork_of_a_holder_is_outwaited_where_the_numbers_of_processes_differ() {
    const TTL: Duration = Duration::from_secs(3);
    let folder = Folder::new();
    let manager = LockManager::connect(url(&folder)).wait().unwrap();
    let mut holder = Child::of_this_test("forks::holds_and_forks", &[&format!("{}?ttl=3s", url(&folder))]);
    let fork: i32 = holder.said().parse().unwrap();
    let waiter =
        within(&["--pid", "--fork", "--mount"], "mount -t proc proc /proc", "namespaces::waits", &[&url(&folder)]);
    if let Some(mut waiter) = waiter {
        waiter.expect("connected");
        eventually("it waits", || (manager.info("k").wait().unwrap()?.waiters == 1).then_some(()));
        let killed = Instant::now();
        holder.process.kill();
        waiter.expect("granted");
        let took = killed.elapsed();
        println!("granted {took:?} after the kill, with a TTL of {TTL:?}");
        // The last renewal was up to a third of the TTL before.
        assert!(took > TTL / 2 && took < TTL + Duration::from_secs(3), "{took:?}");
    }
    let fork = rustix::process::Pid::from_raw(fork).unwrap();
    rustix::process::kill_process(fork, rustix::process::Signal::KILL).unwrap();
}

/// In a child: uses a file system for few files.
#[test]
#[ignore = "a child of another test"]
fn fills_a_disk() {
    let Some(arguments) = child::role() else { return };
    let [folder] = arguments.try_into().unwrap();
    let folder = PathBuf::from(folder);
    let url = format!("file://{}", folder.join("locks").display());
    let manager = LockManager::builder().url(url).ttl(Duration::from_secs(1)).build().wait().unwrap();
    let held = manager.lock("held").wait().unwrap();
    let fillers = (0..).take_while(|n| std::fs::File::create(folder.join(n.to_string())).is_ok()).count();
    let again = manager.lock("held-again").timeout(Duration::from_millis(300)).wait().unwrap_err();
    assert!(["BACKEND", "LOCK_TIMEOUT"].contains(&again.code()), "{again}");
    assert!(again.to_string().contains("No space left"), "{again}");
    let error = manager.try_lock("new").wait().unwrap_err();
    assert_eq!(error.code(), "BACKEND", "{error}");
    // Two renewals, and a key that is known.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!held.is_lost());
    held.unlock().wait().unwrap();
    drop(manager.lock("held").wait().unwrap());
    let waiting = support::in_the_background(manager.lock("new"));
    assert!(waiting.recv_timeout(Duration::from_millis(500)).is_err(), "on a full disk");
    for n in 0..fillers {
        std::fs::remove_file(folder.join(n.to_string())).unwrap();
    }
    drop(waiting.recv_timeout(PATIENCE).expect("there is room again"));
    child::say("done");
}

#[test]
fn on_a_full_disk_known_keys_are_locked_and_new_ones_when_there_is_room() {
    let folder = Folder::new();
    let path = folder.path().to_str().unwrap();
    let script = format!("mount -t tmpfs -o nr_inodes=40 tmpfs {path}");
    let Some(mut child) = within(&["--mount"], &script, "namespaces::fills_a_disk", &[path]) else { return };
    child.expect("done");
}

/// In a child: finds that nothing can be written.
#[test]
#[ignore = "a child of another test"]
fn may_not_write() {
    let Some(arguments) = child::role() else { return };
    for url in arguments {
        let error = LockManager::connect(url).wait().unwrap_err();
        assert!(error.to_string().contains("Read-only file system"), "{error}");
        child::say(error.code());
    }
}

#[test]
fn a_file_system_that_cannot_be_written_is_refused() {
    let folder = Folder::new();
    let path = folder.path().to_str().unwrap();
    let there = format!("file://{path}/there");
    let script = format!("mount -t tmpfs tmpfs {path}\nmkdir -m 700 {path}/there\nmount -o remount,ro {path}");
    let child = within(&["--mount"], &script, "namespaces::may_not_write", &[&there, &url(&folder)]);
    let Some(mut child) = child else { return };
    for _ in 0..2 {
        child.expect("BACKEND");
    }
}
