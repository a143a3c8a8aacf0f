//! For tests: of your own code against lost locks, and of backends of your own against the contract.
//!
//! - [`MemoryStore`] is a lock server in this process that can be made to fail: stopped, cut off, made to expire, revoke or
//!   give away a lock. [`MemoryLink`] is the connection to it that one manager gets.
//! - [`ManualClock`] is a clock that can be moved forward.
//! - [`conformance`] is the suite that every backend has to pass.
//!
//! # Examples
//!
//! How does a worker of yours take it when its lock is revoked in the middle of the work?
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
pub use crate::backend::etcd::sent::{EtcdAnswers, EtcdKey, EtcdWatchAnswer};
#[cfg(feature = "redis")]
#[doc(hidden)]
pub use crate::backend::redis::sent::RedisAnswers;
