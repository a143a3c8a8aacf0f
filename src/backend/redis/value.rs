//! The value of a lock's key, which identifies the attempt that holds it and describes the holder.
//!
//! `<manager>:<attempt>:<mode><version>:<epoch>:<TTL>:<asked at>:<pid>:<host>:<name>:<limit>:<value>`: manager and attempt in 16 hex
//! digits each, the mode `x`, `s` or `l`, the version 2, times in milliseconds, host and name percent-encoded, the limit of a hold with
//! mode `l`, and the value that the hold publishes, `=` and its text, percent-encoded; else the last field is empty. A
//! *claim* is the same without an epoch: the server adds it with the lock. Claims are the members of the queue and of the readers'
//! key; while the lock is shared, its key has the value `shared:2:<epoch>`, or `limited:2:<epoch>`. Any other value is a lock of another
//! client library, or of another version of this one, and excludes as well.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::answers;
use crate::backend::{AttemptId, Claim};
use crate::info::{Holder, Mode};

const VERSION: &str = "2";

/// The beginning of the value of a lock that is a semaphore.
pub(super) const LIMITED: &[u8] = b"limited:2:";

const UNSAFE: &AsciiSet = &CONTROLS.add(b':').add(b'%').add(b' ');

/// How many bytes identify an attempt: manager and attempt.
const ID: usize = 33;

/// How many bytes precede the attempt: the manager and a colon.
const MANAGER: usize = 17;

/// How many bytes precede the epoch.
const HEAD: usize = 37;

/// The text of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClaimText(String);

/// Writes the claims of one manager, which have much in common.
#[derive(Debug)]
pub(super) struct Writer {
    /// The manager, and a colon.
    manager: String,
    /// The last holder, and its description.
    described: Mutex<Option<(Arc<Holder>, Arc<str>)>>,
}

impl Writer {
    pub(super) fn new(manager: u64) -> Self {
        Self { manager: format!("{manager:016x}:"), described: Mutex::new(None) }
    }

    /// The description of a holder.
    fn describe(&self, holder: &Arc<Holder>) -> Arc<str> {
        let mut described = self.described.lock();
        match &*described {
            Some((known, text)) if Arc::ptr_eq(known, holder) => text.clone(),
            _ => {
                let Holder { name, host, pid } = &**holder;
                let (host, name) = (utf8_percent_encode(host, UNSAFE), utf8_percent_encode(name, UNSAFE));
                let text: Arc<str> = format!(":{pid}:{host}:{name}:").into();
                *described = Some((holder.clone(), text.clone()));
                text
            }
        }
    }
}

impl ClaimText {
    /// Writes a claim.
    pub(super) fn new(writer: &Writer, claim: &Claim) -> Self {
        let mode = match (claim.mode, claim.limit) {
            (Mode::Exclusive, _) => ":x",
            (Mode::Shared, None) => ":s",
            (Mode::Shared, Some(_)) => ":l",
        };
        let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (ttl, description) = (claim.lease.ttl.as_millis(), writer.describe(&claim.holder));
        let mut text = String::with_capacity(HEAD + 48 + description.len());
        text.push_str(&writer.manager);
        push_id(&mut text, claim.attempt.0);
        text.push_str(mode);
        text.push_str(VERSION);
        text.push_str("::");
        push_number(&mut text, ttl);
        text.push(':');
        push_number(&mut text, asked);
        text.push_str(&description);
        if let Some(limit) = claim.limit {
            push_number(&mut text, limit.into());
        }
        text.push(':');
        if let Some(value) = &claim.value {
            text.push('=');
            text.extend(utf8_percent_encode(value, UNSAFE));
        }
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a value is that of this attempt.
    pub(super) fn is_in(&self, value: &[u8]) -> bool {
        value.starts_with(&self.0.as_bytes()[..ID])
    }

    /// The attempt of a value, if that is of the same manager.
    pub(super) fn attempt_beside(&self, value: &[u8]) -> Option<AttemptId> {
        let (own, head) = (self.0.get(..MANAGER)?, std::str::from_utf8(value.get(..HEAD)?).ok()?);
        attempt(head.strip_prefix(own)?.get(..ID - MANAGER)?)
    }

    /// The value of the lock's key while the claim holds it with this epoch.
    pub(super) fn with(&self, epoch: u64) -> String {
        let (head, rest) = self.0.split_at(HEAD);
        format!("{head}{epoch}{rest}")
    }
}

/// Adds a number in decimal digits.
fn push_number(text: &mut String, mut number: u128) {
    let (mut digits, mut first) = ([0; 39], 39);
    while first == 39 || number > 0 {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text.push_str(std::str::from_utf8(&digits[first..]).unwrap_or_default());
}

/// Adds an id, 16 hex digits.
fn push_id(text: &mut String, id: u64) {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(id >> (60 - 4 * place)) as usize & 15];
    }
    text.push_str(std::str::from_utf8(&digits).unwrap_or_default());
}

/// Reads the id of an attempt.
pub(super) fn attempt(hex: &str) -> Option<AttemptId> {
    if is_id(hex) { u64::from_str_radix(hex, 16).ok().map(AttemptId) } else { None }
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The meaning of a lock's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LockValue {
    /// Held by a manager of ours. Values of other versions have neither an epoch nor a description.
    Ours { epoch: Option<u64>, described: Option<Described> },
    /// Shared by managers of ours since this epoch.
    Shared(u64),
    /// Held by another client library.
    Foreign,
}

/// What a value says of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) holder: Holder,
    pub(super) limit: Option<u32>,
    /// What the hold publishes.
    pub(super) value: Option<String>,
}

/// Reads a value, which anyone may have written.
pub(super) fn read(value: &[u8]) -> LockValue {
    let Ok(text) = std::str::from_utf8(value) else { return LockValue::Foreign };
    if let Some(("shared" | "limited", epoch)) = text.split_once(":2:")
        && let Some(epoch) = answers::epoch(epoch)
    {
        return LockValue::Shared(epoch);
    }
    let mut fields = text.splitn(4, ':');
    let (Some(manager), Some(id), Some(mode)) = (fields.next(), fields.next(), fields.next()) else {
        return LockValue::Foreign;
    };
    let version = mode.strip_prefix(['x', 's', 'l']).filter(|version| version.parse::<u32>().is_ok());
    match version {
        Some(version) if is_id(manager) && is_id(id) => {
            let rest = fields.next().filter(|_| version == VERSION).and_then(|rest| rest.split_once(':'));
            let Some((epoch, rest)) = rest else { return LockValue::Ours { epoch: None, described: None } };
            LockValue::Ours { epoch: answers::epoch(epoch), described: described(rest) }
        }
        _ => LockValue::Foreign,
    }
}

fn described(rest: &str) -> Option<Described> {
    let mut fields = rest.split(':').skip(1);
    let _asked = fields.next()?.parse::<u64>().ok()?;
    let pid = fields.next()?.parse().ok()?;
    let host = percent_decode_str(fields.next()?).decode_utf8().ok()?;
    let name = percent_decode_str(fields.next()?).decode_utf8().ok()?;
    let limit = fields.next()?.parse().ok();
    let value = fields.next().and_then(|value| value.strip_prefix('=')).map(percent_decode_str);
    let value = value.and_then(|value| value.decode_utf8().ok()).map(Cow::into_owned);
    Some(Described { holder: Holder::new(name, host, pid), limit, value })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{Lease, LeaseId, LeaseScope, Timestamp};

    fn claim(holder: Holder, mode: Mode, limit: Option<u32>, value: Option<&str>) -> Claim {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(30), Timestamp::from_nanos(0), LeaseScope::Session);
        let mut claim = Claim::new(AttemptId(0xabc), "k".into(), mode, lease, Arc::new(holder));
        (claim.limit, claim.value) = (limit, value.map(Into::into));
        claim
    }

    #[test]
    fn what_is_written_is_read() {
        for holder in [Holder::new("user:service.dlock", "ho st:1%", 7), Holder::new("名", "", u32::MAX)] {
            for (mode, limit, marked) in
                [(Mode::Exclusive, None, ":x2:"), (Mode::Shared, None, ":s2:"), (Mode::Shared, Some(1000), ":l2:")]
            {
                let written = ClaimText::new(&Writer::new(5), &claim(holder.clone(), mode, limit, None));
                let described = Some(Described { holder: holder.clone(), limit, value: None });
                let expected = LockValue::Ours { epoch: None, described: described.clone() };
                assert_eq!(read(written.as_str().as_bytes()), expected);
                let value = written.with(1_795_266_979_683_100);
                let epoch = Some(1_795_266_979_683_100);
                assert_eq!(read(value.as_bytes()), LockValue::Ours { epoch, described });
                assert!(written.is_in(value.as_bytes()) && !written.is_in(b"0000000000000005:"));
                // The scripts expect these at fixed places.
                assert_eq!(&value[..17], "0000000000000005:");
                assert_eq!(attempt(&value[17..33]), Some(AttemptId(0xabc)));
                assert_eq!(&value[33..37], marked);
                assert!(written.as_str()[HEAD..].starts_with(":30000:"), "{written:?}");
            }
        }
    }

    #[test]
    fn what_a_hold_publishes_is_read() {
        let all: String = (0..=0x2ff).filter_map(char::from_u32).chain(['鍵', '\u{10ffff}']).collect();
        for value in [None, Some(""), Some("="), Some(":::%00\n"), Some("10.0.0.7:8080"), Some(&*all)] {
            let holder = Holder::new("name", "host", 7);
            for (mode, limit) in [(Mode::Exclusive, None), (Mode::Shared, None), (Mode::Shared, Some(3))] {
                let written = ClaimText::new(&Writer::new(5), &claim(holder.clone(), mode, limit, value)).with(7);
                let described = Described { holder: holder.clone(), limit, value: value.map(str::to_owned) };
                let expected = LockValue::Ours { epoch: Some(7), described: Some(described) };
                assert_eq!(read(written.as_bytes()), expected);
                assert!(written.bytes().all(|byte| byte.is_ascii_graphic()), "{written}");
            }
        }
    }

    #[test]
    fn the_longest_claim_is_shorter_than_what_is_read() {
        let (name, host, value) = ("\u{7f}".repeat(1024), "ä".repeat(127), "\0".repeat(1024));
        let claim = claim(Holder::new(name, host, u32::MAX), Mode::Shared, Some(1000), Some(&value));
        assert!(ClaimText::new(&Writer::new(5), &claim).with(1 << 52).len() < 8192);
    }

    #[test]
    fn any_other_value_is_foreign() {
        assert_eq!(read(b"shared:2:1795266979683100"), LockValue::Shared(1_795_266_979_683_100));
        assert_eq!(read(b"limited:2:1795266979683100"), LockValue::Shared(1_795_266_979_683_100));
        let other_versions = [
            &b"0000000000000005:0000000000000abc:x3:who knows"[..],
            b"0000000000000005:0000000000000abc:x1:30000:1:7:host:name",
            b"0000000000000005:0000000000000abc:x2:",
        ];
        for value in other_versions {
            assert_eq!(
                read(value),
                LockValue::Ours { epoch: None, described: None },
                "another version excludes as well"
            );
        }
        let broken = b"0000000000000005:0000000000000abc:x2:1795266979683100:30000:then:7:host:name::";
        assert_eq!(read(broken), LockValue::Ours { epoch: Some(1_795_266_979_683_100), described: None });
        for other in [
            "",
            "5f0c6a2e8d",
            ":::",
            "0000000000000005:0000000000000abc:y1:",
            "shared:2:",
            "shared:1:5",
            "shared:2:inf",
            "5:abc:x1:1:1:1:h:n",
        ] {
            assert_eq!(read(other.as_bytes()), LockValue::Foreign, "{other:?}");
        }
        assert_eq!(read(b"\xff\xfe"), LockValue::Foreign);
    }
}
