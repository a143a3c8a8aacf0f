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

mod api;
mod arbiter;
pub mod backend;
mod clock;
#[cfg(feature = "config")]
mod config;
mod display;
mod engine;
mod error;
mod fence;
pub mod guide;
mod info;
mod keeper;
mod key;
mod lease;
mod owner;
mod process;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use api::builder::LockManagerBuilder;
pub use api::force_unlock::ForceUnlock;
pub use api::guard::LockGuard;
pub use api::guards::{Guards, LockGuards};
pub use api::lock::Lock;
pub use api::lost::{Lost, Run};
pub use api::manager::LockManager;
pub use api::pending::Pending;
pub use api::registry::Registry;
pub use api::request::{Acquire, LockRequest};
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
pub use info::{ClaimId, Eviction, Holder, LockInfo, Loss, Mode};
pub use owner::Owner;
pub use token::FencingToken;

/// Runs an example of the documentation, which has no room for a runtime of its own.
#[doc(hidden)]
#[expect(clippy::panic, reason = "how an example fails")]
pub fn doctest(example: impl Future<Output = Result<()>>) {
    if let Err(error) = futures::executor::block_on(example) {
        panic!("{error}");
    }
}
