//! A waker that blocks, against its contract, holds up the background thread of the process.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use crate::fixture::{TTL, on, works};
use futures::FutureExt;
use leasehold::Loss;
use leasehold::testing::MemoryStore;
use parking_lot::Mutex;
use support::{in_a_separate_process, lost};

/// Blocks the thread that wakes it, until its other end is dropped.
struct Blocks(Mutex<Receiver<()>>);

impl Wake for Blocks {
    fn wake(self: Arc<Self>) {
        let _ = self.0.lock().recv();
    }
}

fn blocks() -> (Waker, Sender<()>) {
    let (end, blocked) = channel();
    (Waker::from(Arc::new(Blocks(Mutex::new(blocked)))), end)
}

/// The keeper itself is held up by a waker that blocks, which is against a waker's contract.
#[test]
fn a_waker_that_blocks_delays_no_loss_at_a_deadline() {
    in_a_separate_process!();
    let store = MemoryStore::new();
    let (manager, other) = (futures::executor::block_on(on(&store)), futures::executor::block_on(on(&store)));
    let (held, stuck) = (other.lock("held").wait().unwrap(), manager.lock("stuck").wait().unwrap());
    let (waker, end) = blocks();
    let mut loss = stuck.lost();
    assert!(loss.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    // The keeper hears of it, wakes, and is stuck.
    drop(store.steal("stuck"));
    let deadline = Instant::now() + held.remaining() + TTL;
    let (cause, at) = lost(&held);
    assert!(matches!(cause, Loss::Expired | Loss::Unreachable), "{cause}");
    assert!(at < deadline + Duration::from_secs(1), "late by {:?}", at - deadline);
    drop(end);
    works(&manager, &store, "k");
    works(&other, &store, "held");
}
