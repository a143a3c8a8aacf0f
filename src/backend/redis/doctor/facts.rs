//! What the servers have said, before it is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::options::{Node, field};
use crate::backend::BackendError;
use crate::backend::examination::RoundTrips;

/// What a server is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Master,
    /// It may be the master later.
    Replica,
}

/// What a server with locks has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Server {
    pub(super) at: String,
    pub(super) role: Role,
    /// Why it could not be asked, or not for all.
    pub(super) failure: Option<BackendError>,
    /// The answer to `INFO`; empty if the account may not ask.
    pub(super) info: String,
    /// The answers to `CONFIG GET`; those that the account may not ask for are missing.
    pub(super) config: BTreeMap<String, String>,
    pub(super) round_trips: Option<RoundTrips>,
    /// How far its clock is ahead of that of this machine, in microseconds, and how exactly that is known.
    pub(super) ahead: Option<(i64, Duration)>,
    pub(super) tried: Vec<Tried>,
}

/// A command that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tried {
    /// As in an ACL.
    pub(super) command: &'static str,
    /// The word of an ACL that permits its key or channel.
    pub(super) scope: Option<String>,
    pub(super) need: Need,
    pub(super) refusal: Option<Refusal>,
}

/// What is missing without a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Locks.
    Locks,
    /// Something less, which is said.
    Less(&'static str),
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The account may not send it.
    Command,
    /// Not for this key, or to this channel.
    Scope,
    /// The server does not have it.
    Unknown,
}

/// What a sentinel has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Sentinel {
    pub(super) at: String,
    pub(super) failure: Option<BackendError>,
    pub(super) id: Option<String>,
    /// The answer to `SENTINEL MASTER`.
    pub(super) fields: BTreeMap<String, String>,
    /// Where the master is.
    pub(super) master: Option<Node>,
    /// The others that it names.
    pub(super) others: Vec<Node>,
}

/// The distribution of a cluster's slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    pub(super) masters: usize,
    pub(super) served: usize,
}

impl Server {
    /// A number in its `INFO`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        field(&self.info, name)?.parse().ok()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        field(&self.info, name)
    }

    /// An option, of those that it was asked for.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.config.get(name).map(String::as_str)
    }

    pub(super) fn number_option(&self, name: &str) -> Option<u64> {
        self.option(name)?.parse().ok()
    }

    /// Its version, as two numbers.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.text("redis_version:")?.split('.').map_while(|number| number.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    }

    /// The addresses of its replicas, and whether each is up to date.
    pub(super) fn replicas(&self) -> Vec<(Option<Node>, bool)> {
        let lines = self.info.lines().filter_map(|line| line.strip_prefix("slave")?.split_once(':'));
        let numbered = lines.filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
        let read = |(_, fields): (&str, &str)| {
            let get = |name: &str| fields.trim().split(',').find_map(|field| field.strip_prefix(name));
            let node = get("ip=").zip(get("port=").and_then(|port| port.parse().ok()));
            (node.and_then(|(host, port)| Node::named(host, port)), get("state=") == Some("online"))
        };
        numbered.map(read).collect()
    }

    pub(super) fn online_replicas(&self) -> usize {
        self.replicas().iter().filter(|(_, is_online)| *is_online).count()
    }
}

impl Sentinel {
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.parse().ok()
    }
}
