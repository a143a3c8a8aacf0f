//! There is one background thread, and it ends with the last manager.

use std::time::Duration;

use leasehold::testing::MemoryStore;
use leasehold::{LockGuard, LockManager};
use support::{eventually, in_a_separate_process};

const TTL: Duration = Duration::from_secs(1);

/// The number of the library's threads in this process.
fn keepers() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let name =
        |thread: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok();
    // The kernel keeps the first 15 bytes of a thread's name.
    threads.filter_map(name).filter(|name| name.trim_end() == "leasehold-keepe").count()
}

#[test]
fn there_is_one_thread_for_all_managers_and_none_after_the_last() {
    in_a_separate_process!();
    assert_eq!(keepers(), 0);
    for _ in 0..3 {
        let store = MemoryStore::new();
        let managers: Vec<LockManager> = (0..20)
            .map(|_| LockManager::builder().backend(store.link()).ttl(TTL).build().wait().unwrap())
            .chain((0..5).map(|_| LockManager::memory()))
            .chain((0..5).map(|_| LockManager::connect("memory://keeper").wait().unwrap()))
            .collect();
        let guards: Vec<LockGuard> =
            managers.iter().enumerate().map(|(n, manager)| manager.lock(format!("k{n}")).wait().unwrap()).collect();
        // A thread sets its name shortly after it has started.
        eventually("one thread", || (keepers() == 1).then_some(()));
        let handle = managers[0].handle("kept").unwrap();
        drop(managers);
        // Guards outlive their manager, and their leases are still renewed: a pause, not an event.
        std::thread::sleep(2 * TTL);
        assert_eq!(keepers(), 1);
        assert!(guards.iter().all(|guard| !guard.is_lost()));
        drop(guards);
        drop(handle.lock().wait().unwrap());
        drop(handle);
        eventually("the thread ends", || (keepers() == 0).then_some(()));
    }
}
