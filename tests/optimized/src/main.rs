//! An owner is known again in an optimized program, where a waker and its clone may have different copies of one vtable.

use std::time::Duration;

use leasehold::LockManager;
use tokio::runtime::Builder;

const SOON: Duration = Duration::from_secs(10);

fn main() {
    let manager = LockManager::memory();
    for runtime in
        [Builder::new_current_thread().enable_time().build(), Builder::new_multi_thread().enable_time().build()]
    {
        runtime.expect("a runtime").block_on(async {
            let _outer = manager.lock("k").await.expect("free");
            let inner = tokio::time::timeout(SOON, manager.lock("k")).await.expect("the root waits for itself");
            assert_eq!(inner.expect("held").depth(), 2);
        });
    }
    let _outer = manager.lock("k").wait().expect("free");
    let inner = manager.lock("k").timeout(SOON).wait().expect("the thread waits for itself");
    assert_eq!(inner.depth(), 2);
    assert!(manager.try_lock("k").wait().expect("an answer").is_some());
}
