//! The five scripts, and the calls that run them.
//!
//! A call has any number of operations, one [`Op`] for each lock. The outcome of each is independent of the others.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::{Cmd, Pipeline, Script};

use super::attempt::Attempt;
use super::names::Name;
use crate::backend::Wait;
use crate::info::{ClaimId, Mode};

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Release,
    Acquire,
    Renew,
    Inspect,
    Evict,
}

impl Kind {
    /// In the order in which they are sent: releases before acquires.
    pub(super) const ALL: [Self; 5] = [Self::Release, Self::Acquire, Self::Renew, Self::Inspect, Self::Evict];

    /// The most operations of one call, which must not block the server for longer than a few milliseconds.
    pub(super) fn max_ops(self) -> usize {
        match self {
            Self::Release | Self::Acquire | Self::Inspect | Self::Evict => 128,
            Self::Renew => 200,
        }
    }

    /// The script, with or without the part that wakes the waiters of python-redis-lock.
    fn compiled(self, signals: bool) -> &'static Compiled {
        static SCRIPTS: LazyLock<[[Compiled; 5]; 2]> = LazyLock::new(|| {
            [false, true].map(|signals| {
                Kind::ALL.map(|kind| {
                    let body = match kind {
                        Kind::Release => include_str!("scripts/release.lua"),
                        Kind::Acquire => include_str!("scripts/acquire.lua"),
                        Kind::Renew => include_str!("scripts/renew.lua"),
                        Kind::Inspect => include_str!("scripts/inspect.lua"),
                        Kind::Evict => include_str!("scripts/evict.lua"),
                    };
                    let frees = matches!(kind, Kind::Release | Kind::Evict);
                    let signal = if signals && frees { include_str!("scripts/signal.lua") } else { "" };
                    let text = [include_str!("scripts/common.lua"), signal, body].concat();
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

/// The scripts with the options of one manager.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    /// The prefix of the managers' channels.
    pub(super) channels: String,
    /// Whether to wake the waiters of python-redis-lock.
    pub(super) signals: bool,
}

impl Scripts {
    /// Loads all scripts into the server's cache.
    ///
    /// A call of an unknown script has to be repeated, and calls that were sent after it would then overtake it: a `try_lock` might
    /// find a lock of its own manager that is about to be released.
    pub(super) fn load(&self) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for kind in Kind::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(&kind.compiled(self.signals).text).ignore();
        }
        pipeline
    }

    /// Creates a call with these operations, all of one kind. The answer begins with `number`.
    pub(super) fn call<'a>(
        &self,
        kind: Kind,
        by: By,
        number: u64,
        ops: impl ExactSizeIterator<Item = &'a Op> + Clone,
    ) -> Cmd {
        let script = kind.compiled(self.signals);
        let mut call = match by {
            By::Hash => redis::cmd("EVALSHA"),
            By::Text => redis::cmd("EVAL"),
        };
        call.arg(if by == By::Hash { &script.hash } else { &script.text }).arg(ops.len());
        for op in ops.clone() {
            call.arg(&op.name().lock);
        }
        call.arg(number).arg(&self.channels);
        for op in ops {
            op.write(&mut call);
        }
        call
    }
}

/// An operation on one lock.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Acquires the lock, or joins its queue.
    Acquire(Arc<Attempt>),
    /// Gives up a hold or a place in the queue. If the duration is not zero, later copies of the attempt's requests are refused for
    /// as long.
    Release(Arc<Attempt>, Duration),
    /// Extends a hold of this epoch to its full TTL.
    Renew(Arc<Attempt>, u64),
    Inspect(Arc<Name>),
    /// Removes these claims if they hold the lock, or all that hold it.
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
                call.arg(&attempt.value).arg(millis(attempt.ttl)).arg(u8::from(attempt.wait == Wait::UntilGranted));
            }
            Self::Release(attempt, tombstone) => {
                call.arg(&attempt.value).arg(millis(*tombstone));
            }
            Self::Renew(attempt, epoch) => {
                call.arg(&attempt.value).arg(millis(attempt.ttl));
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

/// How a call identifies its script: by hash, or by text if the server does not have it in its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Hash,
    Text,
}
