//! What a network can do to a lock, on a real etcd behind a proxy.
#![cfg(feature = "etcd")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use support::etcd::Etcd;

network_tests!(("etcd", Etcd::shared().address()));
