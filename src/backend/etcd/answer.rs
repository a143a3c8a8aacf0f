//! Checked values from the server's answers.
//!
//! No server is trusted: each number is checked before anything is computed from it. `None` means that no etcd gives such an answer;
//! the caller turns that into an error, or ignores it.

use std::ops::Range;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbKeyValue, PbRangeResponse, PbResponseHeader, PbWatchResponse};

use super::names::signed;
use super::watch::hub::Change;
use crate::backend::LeaseId;

/// Valid revisions of the store, and versions of keys. A token contains such a revision, and has room for no more.
const REVISIONS: Range<i64> = 1..1 << 53;

/// The longest TTL that etcd grants for a shorter request: one and a half election timeouts, each of 50 s at most.
const RAISED: Duration = Duration::from_secs(75);

/// The longest TTL that etcd grants to any client.
const LONGEST: Duration = Duration::from_secs(9_000_000_000);

/// The type of an event that is a deletion. etcd-client's own way to read it panics at a type that it does not know.
const DELETE: i32 = 1;

/// The type of an event that is none.
const PUT: i32 = 0;

/// Reads a revision or a version.
pub(super) fn number(number: i64) -> Option<i64> {
    REVISIONS.contains(&number).then_some(number)
}

/// Reads the store's revision.
pub(super) fn revision(header: Option<&PbResponseHeader>) -> Option<i64> {
    number(header?.revision)
}

/// Reads an epoch from the revision that proves a grant.
pub(super) fn epoch(revision: i64) -> Option<u64> {
    u64::try_from(number(revision)?).ok()
}

/// Reads a key that is in the store.
pub(super) fn key(found: PbKeyValue) -> Option<PbKeyValue> {
    let known = number(found.create_revision).is_some() && number(found.version).is_some() && found.lease >= 0;
    known.then_some(found)
}

/// Reads the keys of a range up to `end`, which is empty for a single name.
pub(super) fn range(found: PbRangeResponse, start: &[u8], end: &[u8]) -> Option<Vec<PbKeyValue>> {
    let inside = |name: &[u8]| match end {
        [] => name == start,
        // Everything from the start on.
        [0] => name >= start,
        _ => name >= start && name < end,
    };
    found.kvs.into_iter().map(|found| key(found).filter(|found| inside(&found.key))).collect()
}

/// Reads the granted TTL of a lease. `None` if the lease has ended.
pub(super) fn ttl(seconds: i64, requested: Duration) -> Option<Duration> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).min(requested.max(RAISED)))
}

/// Reads the remaining time of a lease of any client. `None` if it has ended.
pub(super) fn time_left(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().map(|seconds| Duration::from_secs(seconds).min(LONGEST))
}

/// Returns whether an answer is about this lease.
pub(super) fn is_about(id: i64, lease: LeaseId) -> bool {
    id == signed(lease)
}

/// Reads the revision of the last deletion of a key from a watch's answer.
pub(super) fn deletion(answer: &PbWatchResponse, name: &[u8]) -> Option<i64> {
    let deletions = answer.events.iter().filter(|event| event.r#type == DELETE).filter_map(|event| event.kv.as_ref());
    deletions.filter(|deleted| deleted.key == name).filter_map(|deleted| number(deleted.mod_revision)).max()
}

/// Reads the changes of the keys in a range up to `end`, or of a single name, from a watch's answer.
pub(super) fn changes(answer: &PbWatchResponse, start: &[u8], end: Option<&[u8]>) -> Vec<Change> {
    let change = |event: &PbEvent| {
        let changed = event.kv.as_ref()?;
        let is_watched = end.map_or(changed.key == start, |end| (start..end).contains(&changed.key.as_slice()));
        let put = match event.r#type {
            PUT => Some(key(changed.clone())?),
            DELETE => None,
            _ => return None,
        };
        let at = number(changed.mod_revision).filter(|_| is_watched)?;
        Some(Change { name: changed.key.as_slice().into(), at, put })
    };
    answer.events.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {

    use super::*;

    const ODD: [i64; 7] = [0, -1, i64::MIN, 1 << 53, (1 << 53) + 1, 1 << 54, i64::MAX];

    fn found(name: &[u8]) -> PbKeyValue {
        PbKeyValue { key: name.to_vec(), create_revision: 3, mod_revision: 4, version: 1, ..PbKeyValue::default() }
    }

    #[test]
    fn revisions_are_between_one_and_two_to_the_53() {
        for odd in ODD {
            assert_eq!((number(odd), epoch(odd)), (None, None), "{odd}");
            let header = PbResponseHeader { revision: odd, ..PbResponseHeader::default() };
            assert_eq!(revision(Some(&header)), None, "{odd}");
        }
        assert_eq!(revision(None), None);
        for good in [1, 2, (1 << 53) - 1] {
            assert_eq!((number(good), epoch(good)), (Some(good), u64::try_from(good).ok()));
        }
    }

    #[test]
    fn a_range_has_the_keys_that_were_requested() {
        let read = |name: &[u8], start: &[u8], end: &[u8]| {
            range(PbRangeResponse { kvs: vec![found(name)], ..PbRangeResponse::default() }, start, end).is_some()
        };
        assert!(read(b"p/k/1", b"p/k/", b"p/k0") && read(b"p", b"p", b"") && read(b"x", b"p", b"\0"));
        for name in [&b""[..], b"p", b"p/j/1", b"p/k0", b"q", b"\xff"] {
            assert!(!read(name, b"p/k/", b"p/k0") && !read(name, b"x", b""), "{name:?}");
        }
        assert!(!read(b"a", b"p", b"\0"));
    }

    #[test]
    fn a_key_with_an_odd_number_is_none() {
        assert!(key(found(b"k")).is_some());
        for odd in ODD {
            assert!(key(PbKeyValue { create_revision: odd, ..found(b"k") }).is_none());
            assert!(key(PbKeyValue { version: odd, ..found(b"k") }).is_none());
        }
        assert!(key(PbKeyValue { lease: -1, ..found(b"k") }).is_none());
    }

    #[test]
    fn a_ttl_is_the_requested_one_or_what_etcd_raises_it_to() {
        let second = Duration::from_secs(1);
        assert_eq!((ttl(0, second), ttl(-1, second), ttl(i64::MIN, second)), (None, None, None));
        assert_eq!((ttl(1, second), ttl(2, second)), (Some(second), Some(2 * second)));
        assert_eq!(ttl(i64::MAX, second), Some(RAISED));
        assert_eq!(ttl(i64::MAX, 2 * RAISED), Some(2 * RAISED));
        assert_eq!((time_left(-1), time_left(0), time_left(i64::MAX)), (None, Some(Duration::ZERO), Some(LONGEST)));
    }

    #[test]
    fn changes_are_those_of_the_watched_keys() {
        let read = |r#type, kv, end| {
            let event = PbEvent { r#type, kv, ..PbEvent::default() };
            changes(&PbWatchResponse { events: vec![event], ..PbWatchResponse::default() }, b"k/", end)
        };
        let change = |put| Change { name: (*b"k/1").into(), at: 4, put };
        assert_eq!(read(PUT, Some(found(b"k/1")), Some(b"k0")), [change(Some(found(b"k/1")))]);
        // A deletion has no create revision.
        let deleted = PbKeyValue { create_revision: 0, version: 0, ..found(b"k/1") };
        assert_eq!(read(DELETE, Some(deleted.clone()), Some(b"k0")), [change(None)]);
        assert_eq!(read(PUT, Some(deleted), Some(b"k0")), []);
        for (kv, end) in [
            (None, Some(&b"k0"[..])),
            (Some(found(b"k0")), Some(b"k0")),
            (Some(found(b"j")), Some(b"k0")),
            (Some(found(b"k/1")), None),
            (Some(PbKeyValue { mod_revision: 0, ..found(b"k/1") }), Some(b"k0")),
        ] {
            assert_eq!((read(PUT, kv.clone(), end), read(DELETE, kv, end)), (vec![], vec![]));
        }
        assert_eq!(read(2, Some(found(b"k/1")), Some(b"k0")), []);
    }

    #[test]
    fn a_deletion_is_one_of_the_watched_key() {
        let read = |r#type, kv| {
            let event = PbEvent { r#type, kv, ..PbEvent::default() };
            deletion(&PbWatchResponse { events: vec![event], ..PbWatchResponse::default() }, b"k")
        };
        assert_eq!(read(DELETE, Some(found(b"k"))), Some(4));
        for r#type in [0, 2, -1, i32::MAX] {
            assert_eq!(read(r#type, Some(found(b"k"))), None);
        }
        assert_eq!((read(DELETE, None), read(DELETE, Some(found(b"other")))), (None, None));
        for odd in ODD {
            assert_eq!(read(DELETE, Some(PbKeyValue { mod_revision: odd, ..found(b"k") })), None);
        }
    }
}
