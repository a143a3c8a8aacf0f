//! Locks over TLS, with a certificate authority of the tests.

mod authority;
mod locks;
mod redis;
mod refusals;
mod server;
