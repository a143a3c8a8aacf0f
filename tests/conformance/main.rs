//! The conformance suite, on each backend.

#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "etcd")]
mod etcd;
mod example;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod sentinels;
