//! What a process is allowed to have.

use std::time::Duration;

use leasehold::LockManager;
use rustix::process::{Resource, Rlimit, setrlimit};
use support::child::{self, Child};

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
