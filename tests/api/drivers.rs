//! The drivers of the fuzz targets on random input, in every test run.

use support::drivers;
use support::walk::{any_bytes, any_of, text, walk};

const CASES: u64 = 300;

#[test]
fn urls() {
    walk(CASES, |rng| drivers::url(&any_bytes(rng, 0..100)));
}

#[test]
fn nearly_valid_urls() {
    walk(CASES, |rng| {
        let scheme = any_of(rng, &["memory", "etcd", "etcds", "redis", "rediss", "redis+unix"]);
        let rest = text(rng, "abcdefghijklmnopqrstuvwxyz0123456789:/?#@%&=,.", 0..31);
        let (mark, option) = (any_of(rng, &["?", "&"]), any_of(rng, &["ttl", "timeout", "prefix", "name", "ca"]));
        let value = text(rng, "abcdefghijklmnopqrstuvwxyz0123456789%", 0..5);
        drivers::url(format!("{scheme}://{rest}{mark}{option}={value}").as_bytes());
    });
}

#[test]
fn calls() {
    walk(CASES, |rng| drivers::calls::api_calls(&any_bytes(rng, 0..200)));
}

#[test]
#[cfg(feature = "etcd")]
fn answers() {
    walk(CASES, |rng| drivers::answers::etcd_answers(&any_bytes(rng, 0..300)));
}

#[test]
#[cfg(feature = "redis")]
fn replies() {
    walk(CASES, |rng| drivers::replies::redis_answers(&any_bytes(rng, 0..100)));
}

#[test]
#[cfg(feature = "redis")]
fn nearly_valid_replies() {
    const DIGITS: &str = "0123456789";
    const HEX: &str = "0123456789abcdef";
    walk(CASES, |rng| {
        let mut digits = |length| text(rng, DIGITS, length);
        let (short, long, few, more) = (digits(1..10), digits(0..21), digits(1..21), digits(1..13));
        let mut hex = || text(rng, HEX, 16..17);
        let (id, other) = (hex(), hex());
        let kind = any_of(rng, &["", "g", "q", "b", "i", "l", "e", "w"]);
        let (mode, list) = (any_of(rng, &["x", "s", "l"]), any_of(rng, &["g", "l"]));
        let key = text(rng, "abcdefghijklmnopqrstuvwxyz/", 0..6);
        let first = match any_of(rng, &[0, 1, 2, 3, 4]) {
            0 => format!("{kind}{long}"),
            1 => format!("{id}:{other}:{mode}2:{long}:{short}:{few}:{more}:h:n::"),
            2 => format!("shared:2:{long}"),
            3 => format!("lock:{key}"),
            _ => format!("{list}{id}{long}"),
        };
        let lines = any_of(rng, &[0, 1, 2, 3, 4]);
        let others = (0..lines).map(|_| text(rng, "abcdefghijklmnopqrstuvwxyz0123456789:", 0..41));
        let texts = others.fold(first, |texts, line| format!("{texts}\n{line}"));
        drivers::replies::redis_answers(texts.as_bytes());
    });
}

#[test]
#[cfg(feature = "etcd")]
fn names() {
    walk(CASES, |rng| {
        // Half of the bytes have a meaning in a name.
        let bytes = any_bytes(rng, 0..40);
        let name: Vec<u8> = bytes.into_iter().map(|byte| any_of(rng, &[byte, any_of_name(byte)])).collect();
        drivers::names::key_codec(&name);
    });
}

/// A byte that has a meaning in a name.
#[cfg(feature = "etcd")]
fn any_of_name(byte: u8) -> u8 {
    const BYTES: &[u8] = b"a%/2F\n";
    BYTES[usize::from(byte) % BYTES.len()]
}
