//! Processes that are killed: the kernel closes their descriptors one after the other, and waiters go on whichever comes first.

use std::path::Path;
use std::time::{Duration, Instant};

use leasehold::LockManager;
use support::child::{self, Child};
use support::folder::Folder;
use support::{eventually, in_the_background};

/// In a child: holds a key. Its file is opened before the lease of the hold, or after it.
#[test]
#[ignore = "a child of another test"]
fn holds_a_key_that_was_opened() {
    let Some(arguments) = child::role() else { return };
    let [url, order] = arguments.try_into().unwrap();
    let manager = LockManager::connect(url).wait().unwrap();
    let guard = manager.lock("k").wait().unwrap();
    let _guard = if order == "before" {
        drop(guard);
        // A lease for this hold alone.
        manager.lock("k").ttl(Duration::from_secs(60)).wait().unwrap()
    } else {
        guard
    };
    child::say("held");
    child::hear();
}

/// The greatest descriptor of a process for a file whose path has this part.
fn descriptor(process: u32, part: &str) -> Option<i32> {
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(Result::unwrap);
    let of_part = |path: &Path| std::fs::read_link(path).is_ok_and(|file| file.to_string_lossy().contains(part));
    let matching = open.filter(|entry| of_part(&entry.path()));
    matching.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max()
}

#[test]
fn a_waiter_goes_on_whether_the_lease_or_the_key_is_closed_first() {
    let folder = Folder::new();
    let url = format!("file://{}/locks", folder.path().display());
    let manager = LockManager::connect(&url).wait().unwrap();
    for order in ["before", "after"].repeat(10) {
        let mut holder = Child::of_this_test("deaths::holds_a_key_that_was_opened", &[&url, order]);
        holder.expect("held");
        let [key, lease] = ["/locks/k/k", "/locks/l/"].map(|part| descriptor(holder.process.id(), part).unwrap());
        assert_eq!(key < lease, order == "before", "the key's file is {key}, the lease {lease}");
        let waiting = in_the_background(manager.lock("k"));
        eventually("a waiter", || (manager.info("k").wait().unwrap()?.waiters == 1).then_some(()));
        let killed = Instant::now();
        holder.process.kill();
        let (guard, at) = waiting.recv_timeout(support::PATIENCE).unwrap();
        // Below the time after which a waiter looks in any case, and below the TTL.
        assert!(at - killed < Duration::from_secs(4), "{:?}", at - killed);
        guard.unlock().wait().unwrap();
    }
}
