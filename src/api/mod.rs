//! What users hold: managers, handles, requests, guards. No I/O.

pub(crate) mod builder;
mod connect;
#[cfg(feature = "cli")]
pub(crate) mod examine;
pub(crate) mod force_unlock;
pub(crate) mod guard;
pub(crate) mod guards;
mod lead;
pub(crate) mod lock;
pub(crate) mod lost;
pub(crate) mod manager;
pub(crate) mod pending;
pub(crate) mod registry;
pub(crate) mod request;
#[cfg(feature = "tower")]
pub mod tower;
pub(crate) mod wanted;
pub(crate) mod watch;
