//! What a network can do to a lock, on a real Redis behind a proxy.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use support::redis::Redis;

network_tests!(("redis", Redis::shared().address()));
