//! The five scripts, what they are called with, and what they answer.
//!
//! A call is about any number of locks, one [`Op`] each. Each part's outcome is its own.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, Pipeline, Script, Value};

use super::attempt::Attempt;
use super::error::{self, Meaning};
use super::names::Name;
use crate::backend::BackendError;
use crate::info::{ClaimId, Mode};

/// Which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Release,
    Acquire,
    Renew,
    Inspect,
    Evict,
}

impl Kind {
    /// In the order in which they are sent: what is given up goes before what is asked for.
    pub(super) const ALL: [Self; 5] = [Self::Release, Self::Acquire, Self::Renew, Self::Inspect, Self::Evict];

    /// How many locks one call is about at most: it must not block the server for longer than some milliseconds.
    pub(super) fn most(self) -> usize {
        match self {
            Self::Release | Self::Acquire | Self::Inspect | Self::Evict => 128,
            Self::Renew => 200,
        }
    }

    /// The script, with or without what wakes python-redis-lock's waiters.
    fn compiled(self, signals: bool) -> &'static Compiled {
        static SCRIPTS: LazyLock<[[Compiled; 5]; 2]> = LazyLock::new(|| {
            [false, true].map(|signals| {
                Kind::ALL.map(|kind| {
                    let own = match kind {
                        Kind::Release => include_str!("scripts/release.lua"),
                        Kind::Acquire => include_str!("scripts/acquire.lua"),
                        Kind::Renew => include_str!("scripts/renew.lua"),
                        Kind::Inspect => include_str!("scripts/inspect.lua"),
                        Kind::Evict => include_str!("scripts/evict.lua"),
                    };
                    let frees = matches!(kind, Kind::Release | Kind::Evict);
                    let signal = if signals && frees { include_str!("scripts/signal.lua") } else { "" };
                    let text = [include_str!("scripts/common.lua"), signal, own].concat();
                    Compiled { hash: Script::new(&text).get_hash().to_owned(), text }
                })
            })
        });
        &SCRIPTS[usize::from(signals)][self as usize]
    }
}

struct Compiled {
    text: String,
    hash: String,
}

/// The scripts as one manager calls them.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    /// What the names of the managers' channels begin with.
    pub(super) channels: String,
    /// Whether python-redis-lock's waiters are woken.
    pub(super) signals: bool,
}

impl Scripts {
    /// Asks the server to know all scripts.
    ///
    /// A call that it does not know has to be made again, and what was sent after it comes before it then: a try might find its
    /// own manager's lock that is about to be released.
    pub(super) fn load(&self) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for kind in Kind::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&kind.compiled(self.signals).text).ignore();
        }
        pipeline
    }

    /// Writes a call about these parts, all of one kind. `number` comes back with the answer.
    pub(super) fn call<'a>(
        &self,
        kind: Kind,
        by: By,
        number: u64,
        parts: impl ExactSizeIterator<Item = &'a Op> + Clone,
    ) -> Cmd {
        let script = kind.compiled(self.signals);
        let mut call = match by {
            By::Hash => redis::cmd("EVALSHA"),
            By::Text => redis::cmd("EVAL"),
        };
        call.arg(if by == By::Hash { &script.hash } else { &script.text }).arg(parts.len());
        for part in parts.clone() {
            call.arg(&part.name().lock);
        }
        call.arg(number).arg(&self.channels);
        for part in parts {
            part.write(&mut call);
        }
        call
    }
}

/// One lock's part in a call.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Take it, or join its queue.
    Acquire(Arc<Attempt>),
    /// Give up whatever the attempt has; for this long, copies of its requests are refused.
    Release(Arc<Attempt>, Duration),
    /// Give a hold its TTL again, of this epoch.
    Renew(Arc<Attempt>, u64),
    Inspect(Arc<Name>),
    /// Take it away from its holders, or from these only if there is a list.
    Evict(Arc<Name>, Option<Vec<ClaimId>>),
}

impl Op {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Acquire(_) => Kind::Acquire,
            Self::Release(..) => Kind::Release,
            Self::Renew(..) => Kind::Renew,
            Self::Inspect(_) => Kind::Inspect,
            Self::Evict(..) => Kind::Evict,
        }
    }

    fn name(&self) -> &Name {
        match self {
            Self::Acquire(attempt) | Self::Release(attempt, _) | Self::Renew(attempt, _) => &attempt.name,
            Self::Inspect(name) | Self::Evict(name, _) => name,
        }
    }

    fn write(&self, call: &mut Cmd) {
        call.arg(&self.name().side);
        match self {
            Self::Acquire(attempt) => {
                call.arg(&attempt.token).arg(millis(attempt.ttl)).arg(u8::from(attempt.wait));
            }
            Self::Release(attempt, grave) => {
                call.arg(&attempt.token).arg(millis(*grave));
            }
            Self::Renew(attempt, epoch) => {
                call.arg(&attempt.token).arg(millis(attempt.ttl));
                match attempt.mode {
                    Mode::Exclusive => call.arg(""),
                    Mode::Shared => call.arg(*epoch),
                };
            }
            Self::Evict(_, only) => {
                let list = |only: &Vec<ClaimId>| {
                    only.iter().fold(String::from("="), |list, claim| list + claim.as_str() + ",")
                };
                call.arg(only.as_ref().map(list).unwrap_or_default());
            }
            Self::Inspect(_) => {}
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How the script is named: by its hash, or by its text where the server does not know it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Hash,
    Text,
}

/// Takes the answer apart: one value for each of `count` parts. `None` if it is not the answer to call `number`.
pub(super) fn answers(answer: Value, number: u64, count: usize) -> Option<impl Iterator<Item = Value>> {
    let Value::Array(values) = answer else { return None };
    let mut values = values.into_iter();
    let named = text(&values.next()?)?.parse() == Ok(number);
    (named && values.len() == count).then_some(values)
}

/// A value as text.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A number that a token can be made of: tokens pass 2^63 with greater ones, and the scripts' arithmetic is exact up to there.
pub(super) fn epoch(text: &str) -> Option<u64> {
    text.parse().ok().filter(|epoch| (1..1 << 53).contains(epoch))
}

/// The error that a part's answer is, if it is one, and what that means for the part.
pub(super) fn failed(server: &str, answer: &Value) -> Option<(Meaning, BackendError)> {
    let text = text(answer)?;
    let error = text.strip_prefix('e')?;
    Some(error::in_script(server, error))
}

/// What an acquire has come to.
#[derive(Clone, Debug)]
pub(super) enum AcquireAnswer {
    Granted(u64),
    Busy,
    Queued {
        /// When the holder's time may be over, if that is known.
        left: Option<Duration>,
        /// Whether nobody is ahead in the queue.
        first: bool,
        /// Whether the holder is no client of ours.
        foreign: bool,
        /// The last epoch that was granted to anybody.
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
                let mut parts = rest.splitn(3, ':');
                let left: i64 = parts.next()?.parse().ok()?;
                let fence = parts.next()?.parse().unwrap_or_default();
                let flags = parts.next()?;
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
