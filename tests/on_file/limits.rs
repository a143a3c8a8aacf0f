//! The limits of the system, and directories that cannot be used.

use std::time::Duration;

use leasehold::LockManager;
use rustix::process::{Resource, Rlimit, setrlimit};

use support::child::{self, Child};

fn directory(name: &str) -> String {
    format!("/dev/shm/leasehold-{name}-{:016x}", rand::random::<u64>())
}

/// In a child: holds keys until there are no descriptors.
#[test]
#[ignore = "a child of another test"]
fn uses_all_descriptors() {
    let Some(arguments) = child::role() else { return };
    let [url] = arguments.try_into().unwrap();
    let few = Some(64);
    setrlimit(Resource::Nofile, Rlimit { current: few, maximum: few }).unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    let mut guards = Vec::new();
    let error = loop {
        match manager.lock(format!("k{}", guards.len())).wait() {
            Ok(guard) => guards.push(guard),
            Err(error) => break error,
        }
    };
    assert!(guards.len() > 10 && error.code() == "BACKEND", "{error}");
    assert!(error.to_string().contains("raise the limit (ulimit -n)"), "{error}");
    assert!(guards.iter().all(|guard| !guard.is_lost()));
    guards.clear();
    drop(manager.lock("another").wait().unwrap());
    child::say("recovered");
}

#[test]
fn without_descriptors_a_lock_fails_with_advice_and_works_again_later() {
    let directory = directory("limits");
    let mut child = Child::of_this_test("limits::uses_all_descriptors", &[&format!("file://{directory}")]);
    child.expect("recovered");
    drop(child);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_directory_on_another_kind_of_file_system_is_refused() {
    // Kernel files are on none of the list.
    let error = LockManager::connect("file:///proc/self").wait().unwrap_err();
    assert!(["UNSUPPORTED", "BACKEND"].contains(&error.code()), "{error}");
    let error = LockManager::connect("file:///sys/kernel").wait().unwrap_err();
    assert!(error.code() == "UNSUPPORTED" && error.to_string().contains("file system of type"), "{error}");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let folder = support::folder::Folder::new();
    let url = format!("file://{}", folder.path().display());
    // Only root can give a directory away.
    if std::os::unix::fs::chown(folder.path(), Some(65_534), None).is_err() {
        println!("not permitted here");
        return;
    }
    let error = LockManager::connect(url).wait().unwrap_err();
    assert!(error.code() == "BACKEND" && error.to_string().contains("belongs to"), "{error}");
}

/// How many descriptors a child may have.
const LIMIT: u64 = 48;

/// In a child: holds as many keys as it can, and others once it has released those.
#[test]
#[ignore = "a child of another test"]
fn holds_all_it_can_and_then_others() {
    let Some(arguments) = child::role() else { return };
    let [url] = arguments.try_into().unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    let lock = |key: String| manager.lock(key).timeout(Duration::from_secs(1)).wait();
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) }).unwrap();
    let mut guards = Vec::new();
    let error = loop {
        match lock(format!("k{}", guards.len())) {
            Ok(guard) => guards.push(guard),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    assert!(guards.len() > 10, "{} keys", guards.len());
    guards.truncate(guards.len() - 3);
    drop(lock("another".into()).expect("its descriptor is one of those that were released"));
    child::say("done");
}

#[test]
fn descriptors_of_released_keys_can_be_used_for_others() {
    let folder = support::folder::Folder::new();
    let url = format!("file://{}/locks", folder.path().display());
    Child::of_this_test("limits::holds_all_it_can_and_then_others", &[&url]).expect("done");
}
