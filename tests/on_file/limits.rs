//! The limits of the system, and directories that cannot be used.

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
