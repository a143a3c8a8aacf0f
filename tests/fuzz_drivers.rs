//! The fuzz targets' drivers on random input, in every test run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use proptest::prelude::*;
use support::drivers;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn urls(data in any::<Vec<u8>>()) {
        drivers::url(&data);
    }

    #[test]
    fn urls_that_are_nearly_right(url in "(memory|etcds?|rediss?|redis\\+unix)://[a-z0-9:/?#@%&=,.]{0,30}(\\?|&)(ttl|timeout|prefix|name|ca)=[a-z0-9%]{0,4}") {
        drivers::url(url.as_bytes());
    }

    #[test]
    fn calls(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        drivers::calls::api_calls(&data);
    }

    #[test]
    #[cfg(all(feature = "etcd", feature = "testing"))]
    fn answers(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        drivers::answers::etcd_answers(&data);
    }

    #[test]
    #[cfg(all(feature = "redis", feature = "testing"))]
    fn replies(data in any::<Vec<u8>>()) {
        drivers::replies::redis_answers(&data);
    }

    #[test]
    #[cfg(all(feature = "redis", feature = "testing"))]
    fn replies_that_are_nearly_right(texts in "([gqbile]?[0-9]{0,20}|[0-9a-f]{16}:[0-9a-f]{16}:[xs]1:[0-9]{1,9}:[0-9]{1,20}:[0-9]{1,12}:h:n|shared:1:[0-9]{0,20}|lock:[a-z/]{0,5}|[gl][0-9a-f]{16}[0-9]{0,20})(\n[a-z0-9:]{0,40}){0,4}") {
        drivers::replies::redis_answers(texts.as_bytes());
    }

    #[test]
    #[cfg(all(feature = "etcd", feature = "testing"))]
    fn names(data in proptest::collection::vec(prop_oneof![any::<u8>(), "[a%/2F\n]".prop_map(|c| c.as_bytes()[0])], 0..40)) {
        drivers::names::key_codec(&data);
    }
}
