//! The value of a lock's key, which identifies the attempt that holds it and describes the holder.
//!
//! `<manager>:<attempt>:<mode><version>:<TTL>:<asked at>:<pid>:<host>:<name>`: manager and attempt in 16 hex digits each, the mode
//! `x` or `s`, the version 1, times in milliseconds, the host percent-encoded. The values of shared holds are
//! in the readers' key, and the value of the lock's key is `shared:1:<epoch>`. Any other value is a lock of another client library,
//! and excludes as well.

use std::time::{SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::backend::{AttemptId, Claim};
use crate::info::{Holder, Mode};

const VERSION: &str = "1";
const SHARED: &str = "shared:1:";
const UNSAFE: &AsciiSet = &CONTROLS.add(b':').add(b'%').add(b' ');

/// Writes the value of a claim.
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
    /// Held by a manager of ours. The holder is `None` in the values of later versions.
    Ours(Option<Holder>),
    /// Shared by managers of ours.
    Shared,
    /// Held by another client library.
    Foreign,
}

/// Reads a value, which anyone may have written.
pub(super) fn read(value: &[u8]) -> LockValue {
    let Ok(text) = std::str::from_utf8(value) else { return LockValue::Foreign };
    if text.starts_with(SHARED) {
        return LockValue::Shared;
    }
    let mut fields = text.splitn(4, ':');
    let (Some(manager), Some(id), Some(mode)) = (fields.next(), fields.next(), fields.next()) else {
        return LockValue::Foreign;
    };
    let version = mode.strip_prefix(['x', 's']).filter(|version| version.parse::<u32>().is_ok());
    match version {
        Some(version) if is_id(manager) && is_id(id) => {
            LockValue::Ours(fields.next().filter(|_| version == VERSION).and_then(holder))
        }
        _ => LockValue::Foreign,
    }
}

fn holder(rest: &str) -> Option<Holder> {
    let mut fields = rest.splitn(5, ':').skip(1);
    let _asked = fields.next()?.parse::<u64>().ok()?;
    let pid = fields.next()?.parse().ok()?;
    let host = percent_decode_str(fields.next()?).decode_utf8().ok()?;
    Some(Holder::new(fields.next()?, host, pid))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::{Lease, LeaseId, LeaseScope, Timestamp};

    fn claim(holder: Holder, mode: Mode) -> Claim {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(30), Timestamp::from_nanos(0), LeaseScope::Session);
        Claim::new(AttemptId(0xabc), "k".into(), mode, lease, Arc::new(holder))
    }

    #[test]
    fn what_is_written_is_read() {
        for holder in [Holder::new("user:service.dlock", "ho st:1%", 7), Holder::new("名", "", u32::MAX)] {
            for mode in [Mode::Exclusive, Mode::Shared] {
                let written = write(5, &claim(holder.clone(), mode));
                let LockValue::Ours(Some(read)) = read(written.as_bytes()) else { panic!("{written}") };
                assert_eq!(read, holder);
                // The scripts expect these at fixed places.
                assert_eq!(&written[..17], "0000000000000005:");
                assert_eq!(attempt(&written[17..33]), Some(AttemptId(0xabc)));
                assert_eq!(&written[34..36], if mode == Mode::Shared { "s1" } else { "x1" });
                assert!(written[37..].starts_with("30000:"), "{written}");
            }
        }
    }

    #[test]
    fn any_other_value_is_foreign() {
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
