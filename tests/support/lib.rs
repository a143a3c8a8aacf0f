//! What integration tests need: real servers, a network that fails, child processes, and a judge of what happened.

#![allow(clippy::new_without_default, reason = "what starts a server is no default")]

pub mod broken;
pub mod child;
pub mod crowd;
pub mod drivers;
#[cfg(feature = "etcd")]
pub mod grpc;
pub mod history;
pub mod logs;
pub mod program;
mod shared;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use leasehold::{LockGuard, Loss};

pub use shared::*;

/// How long the tests that can go on and on may do so each, if somebody wants them to: `LEASEHOLD_SOAK`, in seconds.
pub fn soak() -> Option<Duration> {
    let seconds = std::env::var("LEASEHOLD_SOAK").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap_or_else(|_| panic!("LEASEHOLD_SOAK: {seconds:?} is no number"))))
}

/// Waits for the loss of a hold on this thread. Returns the cause, and when it was told.
///
/// # Panics
///
/// After [`PATIENCE`].
pub fn lost(guard: &LockGuard) -> (Loss, Instant) {
    let (lost, (tell, told)) = (guard.lost(), channel());
    std::thread::spawn(move || tell.send((futures::executor::block_on(lost), Instant::now())));
    told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not told of a loss within {PATIENCE:?}"))
}
