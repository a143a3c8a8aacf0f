//! A waker that blocks, against its contract, blocks the background thread of the process.

use std::task::Context;
use std::time::{Duration, Instant};

use crate::fixture::{TTL, on, works};
use futures::FutureExt;
use leasehold::Loss;
use leasehold::testing::MemoryStore;
use support::{blocks, in_a_separate_process, lost};

/// The keeper is blocked by a waker.
#[test]
fn a_waker_that_blocks_delays_no_loss_at_a_deadline() {
    in_a_separate_process!();
    let store = MemoryStore::new();
    let (manager, other) = (futures::executor::block_on(on(&store)), futures::executor::block_on(on(&store)));
    let (held, stuck) = (other.lock("held").wait().unwrap(), manager.lock("stuck").wait().unwrap());
    let (waker, end) = blocks();
    let mut loss = stuck.lost();
    assert!(loss.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    // The keeper receives the event, wakes the listener, and blocks.
    drop(store.steal("stuck"));
    let deadline = Instant::now() + held.remaining() + TTL;
    let (cause, at) = lost(&held);
    assert!(matches!(cause, Loss::Expired | Loss::Unreachable), "{cause}");
    assert!(at < deadline + Duration::from_secs(1), "late by {:?}", at - deadline);
    drop(end);
    works(&manager, &store, "k");
    works(&other, &store, "held");
}
