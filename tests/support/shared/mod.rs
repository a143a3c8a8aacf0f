//! Helpers that the library's unit tests use as well: real servers, processes, the network between them, and random walks.
//!
//! The unit tests include this folder by its path, so it cannot use the library.

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod folder;
#[cfg(any(feature = "etcd", feature = "redis"))]
pub mod listener;
#[cfg(feature = "etcd")]
pub mod peers;
pub mod ports;
pub mod process;
#[cfg(any(feature = "etcd", feature = "redis"))]
pub mod proxy;
#[cfg(feature = "redis")]
pub mod redis;
pub mod walk;

use std::time::{Duration, Instant};

/// The limit for an expected event, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `probe` returns a value.
///
/// # Panics
///
/// After [`PATIENCE`], with the text `what`.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, probe)
}

/// The same for what takes longer.
///
/// # Panics
///
/// After this time, with the text `what`.
pub fn eventually_within<T>(time: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + time;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
