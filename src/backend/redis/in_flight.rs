//! The calls in flight on one connection.

use std::collections::BTreeMap;

use redis::{Cmd, Pipeline, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::requests::{Request, Way};
use super::scripts::{By, Kind};
use crate::backend::{BackendError, Result, Timestamp};

/// The most calls of releases in flight, and of acquires. With two of each, a release never delays an acquire.
const WINDOW: usize = 2;

/// The most other calls of one kind in flight.
const OTHERS: usize = 4;

/// A call in flight.
pub(super) struct Call {
    pub(super) content: Content,
    /// When it was sent, by the manager's clock.
    pub(super) sent: Timestamp,
    /// The same by tokio's.
    pub(super) since: Instant,
}

/// The content of a call.
pub(super) enum Content {
    Script(Kind, By, Vec<Request>),
    /// Several calls of a script that are sent together.
    Scripts(Kind, Vec<Part>),
    /// A plain command, which is not repeated.
    Command(oneshot::Sender<Result<Value>>),
    /// A `PING` on an idle connection.
    Ping,
}

/// One of several calls that are sent together.
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) by: By,
    pub(super) requests: Vec<Request>,
}

impl Part {
    /// Whether it is for a node to which its slot is being moved.
    pub(super) fn asks(&self) -> bool {
        self.requests.iter().any(|request| request.way == Way::Asking)
    }
}

impl Content {
    fn kind(&self) -> Option<Kind> {
        match self {
            Self::Script(kind, ..) | Self::Scripts(kind, _) => Some(*kind),
            Self::Command(_) | Self::Ping => None,
        }
    }
}

/// What is sent.
pub(super) enum Sent {
    Call(Cmd),
    Calls(Pipeline),
}

/// What follows from an answer.
#[derive(Default)]
pub(super) struct Outcome {
    /// Calls of scripts that the server does not have in its cache: they have the text.
    pub(super) again: Vec<(u64, Call, Sent)>,
    /// Why the connection has to be replaced, if it has to.
    pub(super) broken: Option<BackendError>,
    /// What is to be repeated then.
    pub(super) repeated: Vec<Request>,
}

impl Outcome {
    pub(super) fn break_with(&mut self, error: BackendError, repeated: Vec<Request>) {
        self.broken = Some(error);
        self.repeated.extend(repeated);
    }
}

/// The calls by number, in the order in which they were sent.
#[derive(Default)]
pub(super) struct InFlight {
    calls: BTreeMap<u64, Call>,
    /// How many there are of each kind.
    count: [usize; Kind::ALL.len()],
}

impl InFlight {
    pub(super) fn add(&mut self, number: u64, call: Call) {
        if let Some(kind) = call.content.kind() {
            self.count[kind as usize] += 1;
        }
        self.calls.insert(number, call);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        if let Some(kind) = call.content.kind() {
            self.count[kind as usize] -= 1;
        }
        Some(call)
    }

    pub(super) fn oldest(&self) -> Option<&Call> {
        self.calls.first_key_value().map(|(_, call)| call)
    }

    /// Whether another call of this kind may be sent.
    pub(super) fn has_room(&self, kind: Kind) -> bool {
        let count = |kind: Kind| self.count[kind as usize];
        match kind {
            Kind::Release | Kind::Acquire => count(Kind::Release) < WINDOW && count(Kind::Acquire) < WINDOW,
            Kind::Life | Kind::Admit | Kind::Renew | Kind::Inspect | Kind::Evict | Kind::Listen => count(kind) < OTHERS,
        }
    }

    /// Returns the requests to repeat on the next connection, oldest first. The callers of commands get an error: their replies are
    /// dropped.
    pub(super) fn into_requests(self) -> Vec<Request> {
        let repeated = self.calls.into_values().filter_map(|call| match call.content {
            Content::Script(.., requests) => Some(requests),
            Content::Scripts(_, parts) => Some(parts.into_iter().flat_map(|part| part.requests).collect()),
            Content::Command(_) | Content::Ping => None,
        });
        repeated.flatten().collect()
    }
}
