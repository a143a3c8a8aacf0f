//! Helpers of the integration tests: real servers, a network that fails, child processes, and a judge of histories.

#![allow(clippy::new_without_default, reason = "`new` starts servers and creates folders")]

mod blocks;
pub mod broken;
pub mod child;
#[cfg(feature = "redis")]
pub mod clusters;
pub mod coordination;
pub mod crowd;
#[cfg(any(feature = "etcd", feature = "redis"))]
pub mod doctor;
pub mod drivers;
#[cfg(feature = "etcd")]
pub mod grpc;
pub mod history;
pub mod island;
pub mod logs;
pub mod program;
pub mod recorder;
#[cfg(feature = "redis")]
pub mod replication;
#[cfg(feature = "redis")]
pub mod sentinels;
mod shared;
#[cfg(feature = "redis")]
pub mod stub;

use std::error::Error;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use leasehold::{LockGuard, LockRequest, Loss};

pub use blocks::blocks;
pub use shared::*;

/// The duration of each soak test, from `LEASEHOLD_SOAK`, in seconds.
pub fn soak() -> Option<Duration> {
    let seconds = std::env::var("LEASEHOLD_SOAK").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap_or_else(|_| panic!("LEASEHOLD_SOAK: {seconds:?} is not a number"))))
}

/// Acquires a lock on a separate thread, which sends the guard and the time of the grant.
pub fn in_the_background(request: LockRequest) -> Receiver<(LockGuard, Instant)> {
    let (got, guards) = channel();
    std::thread::spawn(move || got.send((request.wait().unwrap(), Instant::now())));
    guards
}

/// Waits for the loss of a hold on this thread. Returns the cause, and the time of the notification.
///
/// # Panics
///
/// After [`PATIENCE`].
pub fn lost(guard: &LockGuard) -> (Loss, Instant) {
    let (lost, (sender, losses)) = (guard.lost(), channel());
    std::thread::spawn(move || sender.send((futures::executor::block_on(lost), Instant::now())));
    losses.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no loss within {PATIENCE:?}"))
}

/// Waits for the loss of a hold on this thread, and prints it. Returns the cause, and the time since `start`.
///
/// # Panics
///
/// After [`PATIENCE`].
pub fn lost_since(guard: &LockGuard, start: Instant) -> (Loss, Duration) {
    let (loss, at) = lost(guard);
    let took = at.saturating_duration_since(start);
    println!("{loss:?} after {took:?}");
    (loss, took)
}

/// All texts of an error that a log can show: `Display` and `Debug` of it and of its sources.
pub fn all_texts(error: &dyn Error) -> String {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    sources.map(|error| format!("{error} {error:?}")).collect::<Vec<_>>().join(" ")
}
