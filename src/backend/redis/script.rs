//! The texts of the scripts.

use std::sync::LazyLock;

use redis::Script;

/// Redis 5 and 6 with `lua-replicate-commands no` send a script to their replicas instead of what it has written, and then let it
/// write nothing after it has read the time, unless it begins with this. Later versions have nothing else.
const EFFECTS: &str = "if redis.replicate_commands then redis.replicate_commands() end\n";

/// A script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Life,
    Release,
    Acquire,
    Admit,
    Renew,
    Inspect,
    Evict,
    Listen,
}

impl Kind {
    /// In the order in which they are sent: lives before the places that they keep, releases before acquires.
    pub(super) const ALL: [Self; 8] =
        [Self::Life, Self::Release, Self::Acquire, Self::Admit, Self::Renew, Self::Inspect, Self::Evict, Self::Listen];

    /// The most operations of one call, which must not block the server for longer than a few milliseconds.
    pub(super) fn max_ops(self) -> usize {
        match self {
            Self::Life => 1,
            Self::Release | Self::Acquire | Self::Admit | Self::Inspect | Self::Evict | Self::Listen => 128,
            Self::Renew => 200,
        }
    }

    /// The script, with or without the part that wakes the waiters of python-redis-lock.
    pub(super) fn compiled(self, signals: bool) -> &'static Compiled {
        static SCRIPTS: LazyLock<[[Compiled; Kind::ALL.len()]; 2]> = LazyLock::new(|| {
            [false, true].map(|signals| {
                Kind::ALL.map(|kind| {
                    let text = EFFECTS.to_owned() + &kind.text(signals);
                    Compiled { hash: Script::new(&text).get_hash().to_owned(), text }
                })
            })
        });
        &SCRIPTS[usize::from(signals)][self as usize]
    }

    /// The text: the short way, before which the long way is a function that returns one for a lock.
    fn text(self, signals: bool) -> String {
        let (long, short) = match self {
            Self::Release => (include_str!("scripts/release.long.lua"), include_str!("scripts/release.lua")),
            Self::Acquire => (include_str!("scripts/acquire.long.lua"), include_str!("scripts/acquire.lua")),
            Self::Admit => (include_str!("scripts/admit.long.lua"), include_str!("scripts/admit.lua")),
            Self::Inspect => (include_str!("scripts/inspect.long.lua"), include_str!("scripts/inspect.lua")),
            Self::Evict => (include_str!("scripts/evict.long.lua"), include_str!("scripts/evict.lua")),
            Self::Listen => (include_str!("scripts/listen.long.lua"), include_str!("scripts/listen.lua")),
            Self::Renew => return include_str!("scripts/renew.lua").to_owned(),
            Self::Life => return include_str!("scripts/life.lua").to_owned(),
        };
        let signals = signals && matches!(self, Self::Release | Self::Evict);
        let signal = if signals { include_str!("scripts/signal.lua") } else { "local signal\n" };
        let ears = match self {
            Self::Inspect | Self::Listen => include_str!("scripts/ears.lua"),
            _ => "",
        };
        let lone = match self {
            Self::Release => include_str!("scripts/release.lone.lua"),
            Self::Acquire => include_str!("scripts/acquire.lone.lua"),
            _ => "",
        };
        let (head, queue) = (include_str!("scripts/head.lua"), include_str!("scripts/queue.lua"));
        format!(
            "local SIGNALS = {signals}\n{lone}\n{head}\nlocal function long_way()\n{queue}\n{signal}\n{ears}\n\
             local work = (function()\n{long}\nend)()\n\
             return function(part, ...) return perform(work, part, ...) end\nend\n\n{short}"
        )
    }
}

/// A script's text, and the hash by which the server finds it in its cache.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) text: String,
    pub(super) hash: String,
}
