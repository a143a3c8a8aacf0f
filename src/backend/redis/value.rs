//! The value of a lock's key: one word that names the attempt which holds it, and tells of its holder.
//!
//! `<manager>:<attempt>:<mode><version>:<TTL>:<asked at>:<pid>:<host>:<name>`: manager and attempt in 16 hex digits each, the mode
//! `x` or `s`, the version 1, times in milliseconds, the host percent-encoded. What shares a key has its word in the key of the
//! readers, and the lock's key says `shared:1:<epoch>`. Whatever else stands there is a lock of another client, and excludes too.

use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::backend::{AttemptId, Claim};
use crate::info::{Holder, Mode};

const VERSION: &str = "1";
const SHARED: &str = "shared:1:";
const UNSAFE: &AsciiSet = &CONTROLS.add(b':').add(b'%').add(b' ');

/// Writes the word of a claim.
pub(super) fn write(manager: u64, claim: &Claim) -> String {
    let mode = match claim.mode {
        Mode::Exclusive => 'x',
        Mode::Shared => 's',
    };
    let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (attempt, ttl) = (claim.attempt.0, claim.lease.ttl.as_millis());
    let Holder { name, host, pid } = &*claim.holder;
    let host = utf8_percent_encode(host, UNSAFE);
    format!("{manager:016x}:{attempt:016x}:{mode}{VERSION}:{ttl}:{asked}:{pid}:{host}:{name}")
}

/// The attempt of a word that begins with its id, as in a message.
pub(super) fn attempt(hex: &str) -> Option<AttemptId> {
    if is_id(hex) { u64::from_str_radix(hex, 16).ok().map(AttemptId) } else { None }
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What the value of a lock's key means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LockValue {
    /// Held by one of ours. A version of the future may not say more.
    Ours(Option<Holder>),
    /// Shared by ours.
    Shared,
    /// Held by another client.
    Foreign,
}

/// Reads a value that anybody may have written.
pub(super) fn read(value: &[u8]) -> LockValue {
    let Ok(text) = std::str::from_utf8(value) else { return LockValue::Foreign };
    if text.starts_with(SHARED) {
        return LockValue::Shared;
    }
    let mut parts = text.splitn(4, ':');
    let (Some(manager), Some(id), Some(mode)) = (parts.next(), parts.next(), parts.next()) else {
        return LockValue::Foreign;
    };
    let version = mode.strip_prefix(['x', 's']).filter(|version| version.parse::<u32>().is_ok());
    match version {
        Some(version) if is_id(manager) && is_id(id) => {
            LockValue::Ours(parts.next().filter(|_| version == VERSION).and_then(holder))
        }
        _ => LockValue::Foreign,
    }
}

fn holder(rest: &str) -> Option<Holder> {
    let mut parts = rest.splitn(5, ':').skip(1);
    let _asked = parts.next()?.parse::<u64>().ok()?;
    let pid = parts.next()?.parse().ok()?;
    let host = percent_decode_str(parts.next()?).decode_utf8().ok()?;
    Some(Holder::new(parts.next()?, host, pid))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::{Lease, LeaseId, Timestamp};

    fn claim(holder: Holder, mode: Mode) -> Claim {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(30), Timestamp::from_nanos(0), true);
        Claim::new(AttemptId(0xabc), "k".into(), mode, lease, Arc::new(holder))
    }

    #[test]
    fn what_is_written_is_read() {
        for holder in [Holder::new("user:service.dlock", "ho st:1%", 7), Holder::new("名", "", u32::MAX)] {
            for mode in [Mode::Exclusive, Mode::Shared] {
                let word = write(5, &claim(holder.clone(), mode));
                let LockValue::Ours(Some(read)) = read(word.as_bytes()) else { panic!("{word}") };
                assert_eq!(read, holder);
                // Where the scripts look for these.
                assert_eq!(&word[..17], "0000000000000005:");
                assert_eq!(attempt(&word[17..33]), Some(AttemptId(0xabc)));
                assert_eq!(&word[34..36], if mode == Mode::Shared { "s1" } else { "x1" });
                assert!(word[37..].starts_with("30000:"), "{word}");
            }
        }
    }

    #[test]
    fn whatever_else_stands_there_is_foreign() {
        assert_eq!(read(b"shared:1:1795266979683100"), LockValue::Shared);
        let future = b"0000000000000005:0000000000000abc:x2:who knows";
        assert_eq!(read(future), LockValue::Ours(None), "a later version excludes as well");
        let broken = b"0000000000000005:0000000000000abc:x1:30000:then:7:host:name";
        assert_eq!(read(broken), LockValue::Ours(None));
        for other in
            ["", "5f0c6a2e8d", ":::", "0000000000000005:0000000000000abc:y1:", "shared:2:", "5:abc:x1:1:1:1:h:n"]
        {
            assert_eq!(read(other.as_bytes()), LockValue::Foreign, "{other:?}");
        }
        assert_eq!(read(b"\xff\xfe"), LockValue::Foreign);
    }
}
