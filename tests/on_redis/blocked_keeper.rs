//! A waker that blocks, against its contract, blocks the background thread of the process.

use std::task::Context;
use std::time::{Duration, Instant};

use futures::FutureExt;
use leasehold::testing::MemoryStore;
use leasehold::{LockManager, Loss};
use support::redis::Redis;
use support::{PATIENCE, blocks, eventually, in_a_separate_process, in_the_background, lost};

#[test]
fn a_waker_that_blocks_delays_no_loss_of_a_handover_by_message() {
    in_a_separate_process!();
    let server = Redis::start();
    let connect = || LockManager::connect(server.url()).wait().unwrap();
    let (a, b) = (connect(), connect());
    let store = MemoryStore::new();
    let memory = LockManager::builder().backend(store.link()).build().wait().unwrap();
    let stuck = memory.lock("stuck").wait().unwrap();
    let (waker, end) = blocks();
    let mut loss = stuck.lost();
    assert!(loss.poll_unpin(&mut Context::from_waker(&waker)).is_pending());

    let first = a.lock("k").wait().unwrap();
    let waiting = in_the_background(b.lock("k"));
    eventually("it waits", || (a.info("k").wait().unwrap()?.waiters == 1).then_some(()));
    drop(first);
    let (guard, _) = waiting.recv_timeout(PATIENCE).unwrap();
    // It cannot be confirmed from now on, and the keeper cannot notify its loss.
    server.process().stop();
    drop(store.steal("stuck"));
    let stopped = Instant::now();
    // Unless it was confirmed before the stop: then it lasts for its TTL.
    if guard.remaining() < Duration::from_secs(3) {
        let (cause, _) = lost(&guard);
        assert_eq!(cause, Loss::Unreachable);
        assert!(stopped.elapsed() < Duration::from_secs(3), "late: {:?}", stopped.elapsed());
    }
    server.process().resume();
    drop(end);
}
