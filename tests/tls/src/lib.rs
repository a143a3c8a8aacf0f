//! What tests over TLS need: an authority that signs anything, and servers that ask for its certificates.

#![allow(clippy::unwrap_used, clippy::panic, clippy::new_without_default, reason = "how a test fails")]

pub mod authority;
pub mod server;
#[path = "../../support/mod.rs"]
pub mod support;
