//! What integration tests need: real servers, a network that fails, child processes, and a judge of what happened.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "how a test fails")]

pub mod broken;
pub mod child;
pub mod crowd;
pub mod drivers;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod folder;
pub mod history;
#[cfg(feature = "testing")]
pub mod memory;
pub mod network;
#[cfg(feature = "etcd")]
pub mod peers;
#[cfg(any(feature = "etcd", feature = "redis"))]
pub mod ports;
pub mod process;
pub mod proxy;
#[cfg(feature = "redis")]
pub mod redis;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use leasehold::{LockGuard, Loss};

/// The time within which what has to happen happens, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

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

/// Waits until `probe` gives something.
///
/// # Panics
///
/// After [`PATIENCE`], with what `what` says.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
