//! Reads the answers of the scripts.

use std::time::Duration;

use redis::{RedisError, Value};

use super::error::{self, Meaning};
use crate::backend::BackendError;

/// The answer to a call.
#[derive(Debug)]
pub(super) enum Reply {
    /// A line for the number of the call, and one for each of its operations.
    Lines(String),
    /// One value for each of its operations.
    Values(Vec<Value>),
}

impl Reply {
    /// Reads the answer to a call of `count` operations. `None` if it is not the answer to call `number`.
    pub(super) fn read(answer: Value, number: u64, count: usize) -> Option<Self> {
        let (reply, said, parts) = match answer {
            Value::Array(mut values) if !values.is_empty() => {
                let said = text(&values.remove(0))?.parse();
                let parts = values.len();
                (Self::Values(values), said, parts)
            }
            Value::BulkString(bytes) => {
                let lines = String::from_utf8(bytes).ok()?;
                let (said, rest) = lines.split_once('\n')?;
                let (said, parts) = (said.parse(), rest.bytes().filter(|byte| *byte == b'\n').count() + 1);
                (Self::Lines(lines), said, parts)
            }
            _ => return None,
        };
        (said == Ok(number) && parts == count).then_some(reply)
    }

    /// The answers to its operations.
    pub(super) fn take_answers(&mut self) -> Vec<Answer<'_>> {
        match self {
            Self::Lines(lines) => lines.split('\n').skip(1).map(Answer::Text).collect(),
            Self::Values(values) => std::mem::take(values).into_iter().map(Answer::Value).collect(),
        }
    }
}

/// The answer to an operation.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    Text(&'a str),
    Value(Value),
}

impl Answer<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Value(value) => text(value),
        }
    }

    /// Takes off the mark that a step remains to be done. Returns whether it was there.
    pub(super) fn take_mark(&mut self) -> bool {
        match self {
            Self::Text(text) => match text.strip_suffix('m') {
                Some(rest) if rest.starts_with(['g', 'b', 'q', '0', '1']) => {
                    *text = rest;
                    true
                }
                _ => false,
            },
            // After the removed claims, of which there is at least one.
            Self::Value(Value::Array(removed)) if removed.len() > 1 && removed.last().and_then(text) == Some("m") => {
                removed.pop();
                true
            }
            Self::Value(_) => false,
        }
    }

    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Text(text) => Value::SimpleString(text.to_owned()),
            Self::Value(value) => value,
        }
    }
}

/// A value as text.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Whether the answer to a `PING` shows that the connection is alive: it is ours, or the server serves no requests at present.
pub(super) fn is_pong(answer: &Result<Value, RedisError>, number: u64) -> bool {
    match answer {
        Ok(answer) => text(answer) == Some(&*number.to_string()),
        Err(error) => error::meaning(error) == Some(Meaning::Later),
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
pub(super) fn failed(server: &str, answer: &Answer<'_>) -> Option<(Meaning, BackendError)> {
    let text = answer.text()?;
    if let Some(key) = text.strip_prefix('w') {
        return Some((Meaning::Incompatible, error::not_ours(server, key)));
    }
    let error = text.strip_prefix('e')?;
    Some(error::in_script(server, error))
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
    pub(super) fn read(answer: &Answer<'_>) -> Option<Self> {
        match answer.text()? {
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
    pub(super) fn read(server: &str, answer: &Answer<'_>) -> Self {
        Self::try_read(server, answer).unwrap_or_else(|| Self::Failed(error::malformed(server)))
    }

    fn try_read(server: &str, answer: &Answer<'_>) -> Option<Self> {
        let text = answer.text()?;
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
