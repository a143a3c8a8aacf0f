//! The values on the server: what a claim and the record of a lease contain.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::names::ids;
use crate::backend::Claim;
use crate::info::{Holder, Mode};

/// The largest value that is read as leasehold's. Those are far smaller; values of other clients may be of any size.
pub(super) const MAX_VALUE: usize = 4096;

/// The maximum number of characters of a text in a value, so that no value gets too large.
const MAX_TEXT: usize = 256;

/// The version of the format.
const VERSION: u32 = 1;

/// The value of a claim.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    v: u32,
    name: String,
    host: String,
    pid: u32,
    manager: String,
    mode: String,
    /// Milliseconds since 1970.
    asked_at: u64,
}

/// The author of a claim, by its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// Written by leasehold in a format that this version reads.
    Known(Holder, SystemTime),
    /// Written by leasehold, as its name shows, but not known: in another version of the format, or not read.
    Other,
    /// Written by another client.
    Foreign,
}

/// Returns the value of a claim.
pub(super) fn of_claim(claim: &Claim, manager: &str) -> Vec<u8> {
    let asked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let metadata = Metadata {
        v: VERSION,
        name: cut(&claim.holder.name),
        host: cut(&claim.holder.host),
        pid: claim.holder.pid,
        manager: manager.into(),
        mode: if claim.mode == Mode::Shared { "shared" } else { "exclusive" }.into(),
        asked_at: u64::try_from(asked_at).unwrap_or(u64::MAX),
    };
    // Plain strings and numbers always serialize; an empty value would only hide the holder.
    serde_json::to_vec(&metadata).unwrap_or_default()
}

/// Returns the part of a text that is stored.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// Returns the value of the record of a lease.
pub(super) fn of_record(manager: &str) -> Vec<u8> {
    serde_json::json!({ "v": VERSION, "manager": manager, "pid": std::process::id() }).to_string().into_bytes()
}

/// Reads the author of a claim, which may have any value.
pub(super) fn author(child: &[u8], value: &[u8]) -> Author {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    if ids(child).is_none() || value.len() > MAX_VALUE {
        return Author::Foreign;
    }
    match serde_json::from_slice::<Version>(value) {
        Err(_) => Author::Foreign,
        Ok(Version { v: VERSION }) => serde_json::from_slice::<Metadata>(value).map_or(Author::Foreign, |metadata| {
            let asked_at = UNIX_EPOCH.checked_add(Duration::from_millis(metadata.asked_at)).unwrap_or(UNIX_EPOCH);
            Author::Known(Holder::new(metadata.name, metadata.host, metadata.pid), asked_at)
        }),
        Ok(_) => Author::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::{AttemptId, Lease, LeaseId, LeaseScope, Timestamp};

    #[test]
    fn values_are_never_trusted() {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(2), Timestamp::from_nanos(0), LeaseScope::Session);
        let holder = Arc::new(Holder::new("n", "h", 3));
        let claim = Claim::new(AttemptId(2), "k".into(), Mode::Exclusive, lease, holder.clone());
        let value = of_claim(&claim, "m");
        assert!(matches!(author(b"1-2", &value), Author::Known(known, _) if known == *holder));
        assert_eq!(author(b"1", &value), Author::Foreign);
        assert_eq!(author(b"1-2", br#"{"v":2}"#), Author::Other);
        for garbage in [&b""[..], b"\xff", b"null", b"{}", br#"{"v":1}"#, br#"{"v":-1}"#, b"[[[["] {
            assert_eq!(author(b"1-2", garbage), Author::Foreign);
        }
        let endless = String::from_utf8(value).unwrap().replace("\"asked_at\":", "\"asked_at\":9");
        assert_ne!(author(b"1-2", endless.as_bytes()), Author::Other);
    }
}
