//! The values on the server: what a claim and the record of a lease contain.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::names::ids;
use crate::backend::Claim;
use crate::info::{Holder, Mode};

/// The largest value that is read as leasehold's: six times the longest texts, as if all of them were escaped. Values of other clients may
/// be of any size.
pub(super) const MAX_VALUE: usize = 12 * 1024;

/// The maximum number of characters of a text in a value, so that no value gets too large.
const MAX_TEXT: usize = 256;

/// The most that follows the [head](Writer::head) of a value, beside the text that the holder publishes: a number, a field's name, and
/// a brace.
const MAX_END: usize = 34;

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
    /// What the holder publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// The author of a claim, by its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// Written by leasehold in a format that this version reads.
    Known(Description),
    /// Written by leasehold, as its name shows, but not known: in another version of the format, or not read.
    Other,
    /// Written by another client.
    Foreign,
}

/// What a claim says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) holder: Holder,
    pub(super) asked_at: SystemTime,
    /// What the holder publishes.
    pub(super) value: Option<String>,
}

/// Writes the values of one manager's claims, which have much in common.
#[derive(Debug)]
pub(super) struct Writer {
    manager: String,
    /// The last holder, and the values of its exclusive and its shared claims without their ends.
    described: Mutex<Option<Described>>,
}

type Described = (Arc<Holder>, [Arc<str>; 2]);

impl Writer {
    /// Creates the writer of the manager with this id.
    pub(super) fn new(manager: String) -> Self {
        Self { manager, described: Mutex::new(None) }
    }

    /// Returns the id of the manager.
    pub(super) fn manager(&self) -> &str {
        &self.manager
    }

    /// Returns the value of a claim.
    pub(super) fn claim(&self, claim: &Claim) -> Vec<u8> {
        let asked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let asked_at = u64::try_from(asked_at).unwrap_or(u64::MAX);
        let head = self.head(&claim.holder, claim.mode);
        let published = claim.value.as_ref().map_or(0, |published| published.len());
        let mut value = Vec::with_capacity(head.len() + MAX_END + published);
        value.extend_from_slice(head.as_bytes());
        // Writing to a vector never fails, and a text always serializes.
        let _ = write!(value, "{asked_at}");
        if let Some(published) = &claim.value {
            value.extend_from_slice(b",\"value\":");
            let _ = serde_json::to_writer(&mut value, &**published);
        }
        value.push(b'}');
        value
    }

    /// Returns what the values of a holder's claims begin with.
    fn head(&self, holder: &Arc<Holder>, mode: Mode) -> Arc<str> {
        let of =
            |[exclusive, shared]: &[Arc<str>; 2]| if mode == Mode::Shared { shared.clone() } else { exclusive.clone() };
        let mut described = self.described.lock();
        match &*described {
            Some((known, heads)) if Arc::ptr_eq(known, holder) => of(heads),
            _ => {
                let heads = [Mode::Exclusive, Mode::Shared].map(|mode| self.describe(holder, mode));
                let head = of(&heads);
                *described = Some((holder.clone(), heads));
                head
            }
        }
    }

    fn describe(&self, holder: &Holder, mode: Mode) -> Arc<str> {
        let metadata = Metadata {
            v: VERSION,
            name: cut(&holder.name),
            host: cut(&holder.host),
            pid: holder.pid,
            manager: self.manager.clone(),
            mode: mode.word().into(),
            asked_at: 0,
            value: None,
        };
        // Plain strings and numbers always serialize; an empty value would only hide the holder.
        let mut value = serde_json::to_string(&metadata).unwrap_or_default();
        // The last field follows: without its number and the brace.
        value.truncate(value.len().saturating_sub(2));
        value.into()
    }
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
            let holder = Holder::new(metadata.name, metadata.host, metadata.pid);
            Author::Known(Description { holder, asked_at, value: metadata.value })
        }),
        Ok(_) => Author::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{AttemptId, Lease, LeaseId, LeaseScope, Timestamp};

    #[test]
    fn values_are_never_trusted() {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(2), Timestamp::from_nanos(0), LeaseScope::Session);
        let holder = Arc::new(Holder::new("n", "h", 3));
        let claim = Claim::new(AttemptId(2), "k".into(), Mode::Exclusive, lease, holder.clone());
        let writer = Writer::new("m".into());
        let value = writer.claim(&claim);
        assert_eq!(
            writer.claim(&claim)[..value.len() - 5],
            value[..value.len() - 5],
            "the same for each claim of a holder"
        );
        assert!(
            matches!(author(b"1-2", &value), Author::Known(known) if known.holder == *holder && known.value.is_none())
        );
        assert_eq!(author(b"1", &value), Author::Foreign);
        assert_eq!(author(b"1-2", br#"{"v":2}"#), Author::Other);
        for garbage in [&b""[..], b"\xff", b"null", b"{}", br#"{"v":1}"#, br#"{"v":-1}"#, b"[[[["] {
            assert_eq!(author(b"1-2", garbage), Author::Foreign);
        }
        let endless = String::from_utf8(value).unwrap().replace("\"asked_at\":", "\"asked_at\":9");
        assert_ne!(author(b"1-2", endless.as_bytes()), Author::Other);
    }

    #[test]
    fn a_published_text_comes_back_as_it_was() {
        let lease = Lease::new(LeaseId(1), Duration::from_secs(2), Timestamp::from_nanos(0), LeaseScope::Session);
        // The longest texts, of what takes the most space.
        let holder = Arc::new(Holder::new("\u{1}".repeat(300), "\u{1}".repeat(300), u32::MAX));
        let writer = Writer::new("m".into());
        let longest = "\u{1}".repeat(1024);
        for text in ["", "10.0.0.7:8080", "\"}\\ \n{\"v\":2}", "鍵\u{10ffff}\0", ",\"value\":\"x\"", &longest] {
            let mut claim = Claim::new(AttemptId(2), "k".into(), Mode::Shared, lease, holder.clone());
            claim.value = Some(text.into());
            let value = writer.claim(&claim);
            let Author::Known(known) = author(b"1-2", &value) else { panic!("{text:?} is not read") };
            assert_eq!(known.value.as_deref(), Some(text));
        }
        let other = br#"{"v":1,"name":"","host":"","pid":1,"manager":"","mode":"shared","asked_at":1,"value":7}"#;
        assert_eq!(author(b"1-2", other), Author::Foreign);
    }
}
