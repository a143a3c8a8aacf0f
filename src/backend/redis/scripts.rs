//! The calls that run the scripts.
//!
//! A call has any number of operations, one [`Op`] for each lock. The outcome of each is independent of the others.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisWrite};

use super::attempt::Attempt;
use super::names::{CommonKeys, Name, Names};
pub(super) use super::script::Kind;
use crate::info::{ClaimId, Mode};

/// How many keys all operations have in common.
const COMMON: usize = 3;

/// The scripts with the options of one manager, for one server.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    /// The prefix of the managers' channels.
    pub(super) channels: String,
    common: Common,
    /// The id of the manager.
    manager: u64,
    /// Whether to wake the waiters of python-redis-lock.
    signals: bool,
}

/// The keys that the locks of a call have in common.
#[derive(Clone, Debug)]
enum Common {
    OfAll(CommonKeys),
    /// In a cluster: a call has locks of one slot only.
    OfEachSlot(Names),
}

impl Scripts {
    /// For a server that has all locks.
    pub(super) fn new(names: &Names, manager: u64, signals: bool) -> Self {
        Self { channels: names.channels(None), common: Common::OfAll(names.common(manager)), manager, signals }
    }

    /// For the node of a cluster with this id.
    pub(super) fn of_node(node: &str, names: &Names, manager: u64, signals: bool) -> Self {
        Self { channels: names.channels(Some(node)), common: Common::OfEachSlot(names.clone()), manager, signals }
    }

    /// The name of the manager's channel.
    pub(super) fn channel(&self) -> String {
        format!("{}{:016x}", self.channels, self.manager)
    }

    /// Whether the locks of a call must be in one slot.
    pub(super) fn are_by_slot(&self) -> bool {
        matches!(self.common, Common::OfEachSlot(_))
    }

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
        let (command, text) = match by {
            By::Hash => ("EVALSHA", &script.hash),
            By::Text => ("EVAL", &script.text),
        };
        let length = |name: &Arc<Name>| name.lock.len() + name.queue.len() + name.readers.len();
        let keys = ops.clone().filter_map(Op::name).map(length);
        let mut call = Cmd::with_capacity(
            8 + ops.len() * (Name::KEYS.len() + 3),
            text.len() + 200 + keys.sum::<usize>() + ops.len() * 200,
        );
        call.arg(command).arg(text);
        let common = match &self.common {
            Common::OfAll(common) => Cow::Borrowed(common),
            Common::OfEachSlot(names) => {
                let slot = ops.clone().next().and_then(Op::slot).unwrap_or_default();
                Cow::Owned(names.common_in(slot, self.manager))
            }
        };
        match kind {
            Kind::Life => {
                call.arg(1).arg(&common.lives).arg(number).write_arg_fmt(format_args!("{:016x}", self.manager));
            }
            Kind::Renew => {
                call.arg(ops.clone().map(Op::renewed_keys).sum::<usize>());
                ops.clone().for_each(|op| op.write_renewed_keys(&mut call));
                call.arg(number);
            }
            _ => {
                call.arg(COMMON + ops.len() * Name::KEYS.len()).arg(&common.clock).arg(&common.lives).arg(&common.gone);
                for key in Name::KEYS {
                    ops.clone().filter_map(Op::name).for_each(|name| {
                        call.arg(key(name));
                    });
                }
                call.arg(number).arg(&self.channels);
                match kind {
                    Kind::Acquire => {
                        call.arg(common_ttl(ops.clone()).map_or(String::new(), |ttl| millis(ttl).to_string()))
                    }
                    Kind::Release => call.arg(if ops.clone().all(Op::is_plain_release) { "1" } else { "" }),
                    _ => &mut call,
                };
            }
        }
        ops.for_each(|op| op.write(&mut call));
        call
    }
}

/// An operation on one lock.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Says that this manager is alive: its places in queues count, in a cluster those in this slot. Of no lock.
    Life(Option<u16>),
    /// Acquires the lock, or joins its queue.
    Acquire(Arc<Attempt>),
    /// Gives up a hold or a place in the queue. If the duration is not zero, later copies of the attempt's requests are refused for
    /// as long.
    Release(Arc<Attempt>, Duration),
    /// Goes on with what another operation has left undone, because it would have taken too long.
    Admit(Arc<Name>),
    /// Extends a hold of this epoch to its full TTL.
    Renew(Arc<Attempt>, u64),
    /// Describes the lock. The ear is notified of the next change of its holders.
    Inspect(Arc<Name>, Option<Arc<str>>),
    /// Removes these claims if they hold the lock, or all that hold it.
    Evict(Arc<Name>, Option<Vec<ClaimId>>),
    /// Whether somebody waits for the lock that this attempt holds. If nobody does, the ear is notified of
    /// the next waiter.
    Listen(Arc<Attempt>, Arc<str>),
}

impl Op {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Life(_) => Kind::Life,
            Self::Acquire(_) => Kind::Acquire,
            Self::Release(..) => Kind::Release,
            Self::Admit(_) => Kind::Admit,
            Self::Renew(..) => Kind::Renew,
            Self::Inspect(..) => Kind::Inspect,
            Self::Evict(..) => Kind::Evict,
            Self::Listen(..) => Kind::Listen,
        }
    }

    /// The lock; `None` for a life.
    pub(super) fn name(&self) -> Option<&Arc<Name>> {
        match self {
            Self::Acquire(attempt) | Self::Release(attempt, _) | Self::Renew(attempt, _) | Self::Listen(attempt, _) => {
                Some(&attempt.name)
            }
            Self::Admit(name) | Self::Inspect(name, _) | Self::Evict(name, _) => Some(name),
            Self::Life(_) => None,
        }
    }

    /// The slot; `None` for the only life.
    pub(super) fn slot(&self) -> Option<u16> {
        match self {
            Self::Life(slot) => *slot,
            _ => self.name().map(|name| name.slot),
        }
    }

    /// Whether it releases an exclusive hold, and leaves no tombstone.
    fn is_plain_release(&self) -> bool {
        matches!(self, Self::Release(attempt, tombstone) if attempt.mode == Mode::Exclusive && tombstone.is_zero())
    }

    fn is_exclusive(&self) -> bool {
        matches!(self, Self::Renew(attempt, _) if attempt.mode == Mode::Exclusive)
    }

    /// How many keys a renewal has.
    fn renewed_keys(&self) -> usize {
        if self.is_exclusive() { 1 } else { 2 }
    }

    fn write_renewed_keys(&self, call: &mut Cmd) {
        let Some(name) = self.name() else { return };
        call.arg(&name.lock);
        if !self.is_exclusive() {
            call.arg(&name.readers);
        }
    }

    fn write(&self, call: &mut Cmd) {
        match self {
            Self::Acquire(attempt) => {
                let claim = attempt.claim.as_str();
                match attempt.wanted_place() {
                    None => write_parts(call, &["-", " ", claim]),
                    Some(0) => write_parts(call, &["0", " ", claim]),
                    Some(place) => write_parts(call, &[&place.to_string(), " ", claim]),
                }
            }
            Self::Release(attempt, tombstone) => {
                let claim = attempt.claim.as_str();
                match millis(*tombstone) {
                    0 => write_parts(call, &["0", " ", claim]),
                    tombstone => write_parts(call, &[&tombstone.to_string(), " ", claim]),
                }
            }
            Self::Renew(attempt, epoch) => {
                call.arg(attempt.claim.as_str()).arg(*epoch).arg(millis(attempt.ttl));
            }
            Self::Evict(_, only) => {
                let list = |only: &Vec<ClaimId>| {
                    only.iter().fold(String::from("="), |list, claim| list + claim.as_str() + ",")
                };
                call.arg(only.as_ref().map(list).unwrap_or_default());
            }
            Self::Inspect(_, ear) => {
                call.arg(ear.as_deref().unwrap_or_default());
            }
            Self::Listen(attempt, ear) => write_parts(call, &[&**ear, " ", attempt.claim.as_str()]),
            Self::Life(_) | Self::Admit(_) => {}
        }
    }
}

/// The TTL of these claims, if they are alike: exclusive, with the same TTL, and without a place to return to.
fn common_ttl<'a>(mut ops: impl Iterator<Item = &'a Op>) -> Option<Duration> {
    let plain_ttl = |op: &Op| match op {
        Op::Acquire(attempt) if attempt.mode == Mode::Exclusive && attempt.wanted_place().unwrap_or(0) == 0 => {
            Some(attempt.ttl)
        }
        _ => None,
    };
    let ttl = plain_ttl(ops.next()?)?;
    ops.all(|op| plain_ttl(op) == Some(ttl)).then_some(ttl)
}

/// Adds an argument that consists of these parts to a command.
fn write_parts(command: &mut Cmd, parts: &[&str]) {
    let mut argument = command.writer_for_next_arg();
    for part in parts {
        // It writes to memory.
        let _ = argument.write_all(part.as_bytes());
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
