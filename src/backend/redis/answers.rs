//! Reads the answers of the scripts.

use std::time::Duration;

use redis::Value;

use super::error::{self, Meaning};
use crate::backend::BackendError;

/// Splits the answer to a call into one value for each of its `count` operations. `None` if it is not the answer to call `number`.
pub(super) fn split(answer: Value, number: u64, count: usize) -> Option<impl Iterator<Item = Value>> {
    let Value::Array(values) = answer else { return None };
    let mut values = values.into_iter();
    let matches = text(&values.next()?)?.parse() == Ok(number);
    (matches && values.len() == count).then_some(values)
}

/// A value as text.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Whether a renewal or a release found the hold: `1`, or `0` if there was none.
pub(super) fn found(answer: &Value) -> bool {
    text(answer) == Some("1")
}

/// Reads an epoch of which a token can be made: with greater ones tokens pass 2^63, and the scripts' arithmetic is exact up to 2^53.
pub(super) fn epoch(text: &str) -> Option<u64> {
    text.parse().ok().filter(|epoch| (1..1 << 53).contains(epoch))
}

/// The error that an operation's answer is, if it is one, and what it means for the operation.
pub(super) fn failed(server: &str, answer: &Value) -> Option<(Meaning, BackendError)> {
    let text = text(answer)?;
    if let Some(key) = text.strip_prefix('w') {
        return Some((Meaning::Incompatible, error::not_ours(server, key)));
    }
    let error = text.strip_prefix('e')?;
    Some(error::in_script(server, error))
}

/// Takes off the mark that a step remains to be done. Returns whether it was there.
pub(super) fn take_mark(answer: &mut Value) -> bool {
    match answer {
        Value::BulkString(text) if text.len() > 1 && text.ends_with(b"m") && b"gbq01".contains(&text[0]) => {
            text.pop();
            true
        }
        // After the removed claims, of which there is at least one.
        Value::Array(removed) if removed.len() > 1 && removed.last().and_then(text) == Some("m") => {
            removed.pop();
            true
        }
        _ => false,
    }
}

/// The answer to a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LifeAnswer {
    /// It had not ended.
    Alive,
    /// It had, so places may have been removed; the old ones can be had again.
    Ended,
    /// It ended long ago, or is the first one: old places are lost.
    Unknown,
}

impl LifeAnswer {
    pub(super) fn read(answer: &Value) -> Option<Self> {
        match text(answer)? {
            "1" => Some(Self::Alive),
            "0" => Some(Self::Ended),
            "n" => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// The answer to an acquire.
#[derive(Clone, Debug)]
pub(super) enum AcquireAnswer {
    Granted(u64),
    Busy,
    Queued {
        /// The time until the hold may end, if it has an end.
        left: Option<Duration>,
        /// Whether the attempt is the first in the queue.
        first: bool,
        /// Whether the holder is another client library.
        foreign: bool,
        /// The last epoch before this call; 0 if none is known.
        clock: u64,
        /// The place in the queue.
        place: u64,
    },
    Failed(BackendError),
}

impl AcquireAnswer {
    pub(super) fn read(server: &str, answer: &Value) -> Self {
        Self::try_read(server, answer).unwrap_or_else(|| Self::Failed(error::malformed(server)))
    }

    fn try_read(server: &str, answer: &Value) -> Option<Self> {
        let text = text(answer)?;
        let rest = text.get(1..)?;
        Some(match text.as_bytes()[0] {
            b'g' => Self::Granted(epoch(rest)?),
            b'b' => Self::Busy,
            b'q' => {
                let mut fields = rest.splitn(4, ':');
                let left: i64 = fields.next()?.parse().ok()?;
                let clock = fields.next()?.parse().unwrap_or_default();
                let place = fields.next()?.parse().ok()?;
                let flags = fields.next()?;
                Self::Queued {
                    left: u64::try_from(left).ok().map(Duration::from_millis),
                    first: flags.contains('f'),
                    foreign: flags.contains('o'),
                    clock,
                    place,
                }
            }
            b'd' => Self::Failed(error::lost(server)),
            b'i' => Self::Failed(error::incompatible(server)),
            b'w' => Self::Failed(error::not_ours(server, rest)),
            b'e' => Self::Failed(error::in_script(server, rest).1),
            _ => return None,
        })
    }
}
