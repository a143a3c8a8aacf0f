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
    let error = text.strip_prefix('e')?;
    Some(error::in_script(server, error))
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
        /// The last epoch that was granted for this key; 0 if none is known.
        fence: u64,
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
                let mut fields = rest.splitn(3, ':');
                let left: i64 = fields.next()?.parse().ok()?;
                let fence = fields.next()?.parse().unwrap_or_default();
                let flags = fields.next()?;
                Self::Queued {
                    left: u64::try_from(left).ok().map(Duration::from_millis),
                    first: flags.contains('f'),
                    foreign: flags.contains('o'),
                    fence,
                }
            }
            b'd' => Self::Failed(error::lost(server)),
            b'i' => Self::Failed(error::incompatible(server)),
            b'e' => Self::Failed(error::in_script(server, rest).1),
            _ => return None,
        })
    }
}
