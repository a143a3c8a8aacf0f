//! The conformance suite, on each backend.

#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "etcd")]
mod etcd;
mod example;
#[cfg(all(feature = "file", target_os = "linux"))]
mod file;
mod memory;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod sentinels;
