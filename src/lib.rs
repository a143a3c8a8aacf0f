//! Distributed locks, held by leases on etcd, on Redis, in files of one machine, or in memory.
//!
//! A lock is an RAII guard backed by a lease, which a background thread renews. If the lease cannot be renewed, the guard reports
//! the loss before another client can acquire the lock. The API is the same for async code under any executor (`.await`) and for
//! plain threads (`.wait()`).
//!
//! ```
//! # leasehold::doctest(async {
//! use leasehold::LockManager;
//!
//! // Or a server: "etcd://10.0.0.1:2379", "redis://10.0.0.1".
//! let manager = LockManager::connect("memory://orders").await?;
//! let guard = manager.lock("orders/42").await?; // waits until the lock is free
//! tokio::select! {
//!     biased; // check for a loss first
//!     cause = guard.lost() => eprintln!("stopped: {cause}"),
//!     () = ship_order(guard.token()) => guard.unlock().await?, // or drop the guard
//! }
//! # Ok(()) });
//! # async fn ship_order(_token: leasehold::FencingToken) {}
//! ```
//!
//! | Type | |
//! | --- | --- |
//! | [`LockManager`] | A connection to a store, and the factory of its locks. [`LockManagerBuilder`] has all options, and with the feature `serde` so has `Config`. |
//! | [`LockRequest`] | A request for a lock, with its options: [`shared`](LockRequest::shared), [`timeout`](LockRequest::timeout), [`ttl`](LockRequest::ttl), [`limit`](LockRequest::limit), [`owner`](LockRequest::owner) and others. `.await` it, or [`wait`](LockRequest::wait). |
//! | [`LockGuard`], [`LockGuards`] | Hold one lock, or several. Dropping them releases; [`unlock`](LockGuard::unlock) also confirms, [`lost`](LockGuard::lost) reports a loss, and [`token`](LockGuard::token) is the fencing token. |
//! | [`Watch`] | The holders of a key as they change. |
//! | [`Lock`] | A handle of one key, for repeated use and inspection. |
//! | [`Owner`] | An explicit owner, for reentrancy across tasks and threads. |
//! | [`FenceGate`], `RedisFence` (feature `redis`), `LockGuard::etcd_compare` (feature `etcd`) | Refuse the late writes of an outdated holder. |
//! | [`Registry`] | Managers by name, for several servers. |
//! | [`ForceUnlock`], [`LockInfo`], [`Stats`] | Administration and inspection. |
//! | [`backend::Backend`] | The trait to implement for another store. |
//!
//! The [guide] explains the rest: begin with the [tour](guide::tour), the [choice](guide::choosing) of a backend and a TTL, and the
//! [guarantees](guide::guarantees). [Ownership](guide::ownership) has the rules of reentrancy. [Loss](guide::loss) and
//! [fencing](guide::fencing) explain how to handle a lost lock. [Testing](guide::testing) shows how to lose locks on purpose in
//! tests.
//!
//! # Features
//!
//! The memory backend is always available. `etcd` (with TLS: `etcd-tls`; its build needs `protoc`) and `redis` (`redis-tls`) add
//! backends, `file` one for the processes of one machine (Linux), `serde` adds serialization and the struct `Config`, `config` loads it
//! from files and the environment, `tower` a layer for services, `metrics` the `metrics` facade, `tracing` spans and events, `testing` the module `testing` for tests against lost locks, and `cli`
//! the program `leasehold`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod api;
mod arbiter;
pub mod backend;
mod clock;
#[cfg(feature = "serde")]
mod config;
mod credentials;
mod display;
mod engine;
mod error;
mod fence;
#[cfg(feature = "cli")]
#[cfg_attr(
    not(any(feature = "etcd", feature = "redis", feature = "file")),
    allow(dead_code, reason = "what is only found elsewhere than in memory")
)]
mod finding;
pub mod guide;
mod info;
mod keeper;
mod key;
mod lease;
mod owner;
mod process;
mod settings;
#[cfg(test)]
#[path = "../tests/support/shared/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of each feature use a part of it")]
mod support;
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
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub use api::tower;
pub use api::wanted::Wanted;
pub use api::watch::Watch;
#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
pub use config::Config;
pub use credentials::{Credentials, CredentialsSource, Secret};
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

/// The examination of servers, for the command line.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod doctor {
    pub use crate::api::examine::examine;
    pub use crate::finding::{Finding, Level, Report};
}

/// Parses a duration as in a URL, for the command line.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    settings::parse_duration(text).ok_or_else(|| format!("expected {}", settings::EXPECTED_DURATION))
}

/// Runs an example of the documentation without a runtime.
#[doc(hidden)]
#[expect(clippy::panic, reason = "how an example fails")]
pub fn doctest(example: impl Future<Output = Result<()>>) {
    if let Err(error) = futures::executor::block_on(example) {
        panic!("{error}");
    }
}

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
