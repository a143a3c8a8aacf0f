//! The process that the library runs in: its threads, wakers, loggers and forks, and its platform.

pub(crate) mod blocking;
#[cfg(any(feature = "metrics", feature = "etcd", feature = "redis"))]
pub(crate) mod facade;
pub(crate) mod foreign;
pub(crate) mod fork;
#[cfg(all(feature = "file", target_os = "linux"))]
pub(crate) mod inbox;
pub(crate) mod line;
pub(crate) mod platform;
pub(crate) mod report;
pub(crate) mod wakers;
