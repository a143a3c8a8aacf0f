//! A directory that somebody empties while it is in use.

use std::time::Duration;

use leasehold::LockManager;
use support::folder::Folder;

#[test]
fn the_managers_of_an_emptied_directory_lose_their_holds_and_go_on() {
    let folder = Folder::new();
    let url = format!("file://{}", folder.path().display());
    let manager = || LockManager::builder().url(&url).ttl(Duration::from_secs(1)).build().wait().unwrap();
    let (one, other) = (manager(), manager());
    let guard = one.lock("k").wait().unwrap();
    let waiting = support::in_the_background(other.lock("k"));
    support::eventually("a waiter", || (one.info("k").wait().unwrap()?.waiters == 1).then_some(()));
    for part in std::fs::read_dir(folder.path()).unwrap() {
        let path = part.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    support::lost(&guard);
    let (next, _) = waiting.recv_timeout(support::PATIENCE).expect("its turn, in a new directory");
    // In the directory that a newcomer sees.
    assert!(manager().try_lock("k").wait().unwrap().is_none());
    drop(next);
    drop(one.lock("new").timeout(support::PATIENCE).wait().unwrap());
}
