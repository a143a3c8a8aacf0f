//! Tools for tests: how your code reacts to lost locks, and whether your backend keeps the contract.
//!
//! - [`MemoryStore`] is a lock server in this process that can be made to fail: paused, disconnected, or with locks expired, revoked
//!   or stolen. [`MemoryLink`] is the connection of one manager to it.
//! - [`ManualClock`] is a clock that can be moved forward.
//! - [`conformance`] is the test suite for backends.
//!
//! # Examples
//!
//! A lock that is revoked during the work:
//!
//! ```
//! use leasehold::testing::MemoryStore;
//! use leasehold::{LockManager, Loss};
//!
//! # leasehold::doctest(async {
//! let store = MemoryStore::new();
//! let link = store.link();
//! let manager = LockManager::builder().backend(link.clone()).build().await?;
//!
//! let guard = manager.lock("k").await?;
//! store.revoke("k");
//! assert_eq!(guard.lost().await, Loss::Revoked);
//! # Ok(()) });
//! ```

mod clock;
pub mod conformance;
mod gate;
mod link;
#[cfg(test)]
mod link_tests;
#[cfg(feature = "etcd")]
mod names;
mod store;

pub use self::clock::ManualClock;
pub use self::link::{Call, MemoryLink};
#[cfg(feature = "etcd")]
#[doc(hidden)]
pub use self::names::EtcdNames;
pub use self::store::{MemoryStore, Thief};
#[cfg(feature = "etcd")]
#[doc(hidden)]
pub use crate::backend::etcd::fuzzing::{EtcdAnswers, EtcdKey, EtcdWatchAnswer};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use crate::backend::redis::fuzzing::RedisAnswers;
