#![doc = include_str!("../README.md")]
//!
//! The chapters of the guide: [`ownership`](guide::ownership), [`loss`](guide::loss), [`fencing`](guide::fencing),
//! [`cancellation`](guide::cancellation), [`testing`](guide::testing), [`etcd`](guide::etcd), [`redis`](guide::redis), [`security`](guide::security), [`faults`](guide::faults),
//! [`parity`](guide::parity).
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!(
    "leasehold supports Unix systems: its clocks, its fork detection and its command line are made of their calls"
);

mod acquire;
mod acquire_all;
mod arbiter;
pub mod backend;
mod blocking;
mod builder;
mod clock;
#[cfg(feature = "config")]
mod config;
mod display;
mod engine;
mod error;
mod fence;
mod force;
mod foreign;
mod fork;
mod guard;
mod guards;
pub mod guide;
mod info;
mod keeper;
mod key;
mod lease;
mod lock;
mod manager;
mod owner;
mod pending;
mod registry;
mod report;
mod request;
mod settings;
#[cfg(test)]
#[path = "../tests/support/shared/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of each feature use a part of it")]
mod support;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use builder::LockManagerBuilder;
#[cfg(feature = "config")]
#[cfg_attr(docsrs, doc(cfg(feature = "config")))]
pub use config::Config;
pub use display::Printable;
pub use engine::{Histogram, Losses, Stats};
pub use error::{LockError, Result};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use fence::RedisFence;
pub use fence::{FenceGate, StaleToken};
pub use force::ForceUnlock;
pub use guard::{LockGuard, Lost, Run};
pub use guards::{Guards, LockGuards};
pub use info::{ClaimId, Eviction, Holder, LockInfo, Loss, Mode};
pub use lock::Lock;
pub use manager::LockManager;
pub use owner::Owner;
pub use pending::Pending;
pub use registry::Registry;
pub use request::{Acquire, LockRequest};
pub use token::FencingToken;

/// Runs an example of the documentation, which has no room for a runtime of its own.
#[doc(hidden)]
#[expect(clippy::panic, reason = "how an example fails")]
pub fn doctest(example: impl Future<Output = Result<()>>) {
    if let Err(error) = futures::executor::block_on(example) {
        panic!("{error}");
    }
}
