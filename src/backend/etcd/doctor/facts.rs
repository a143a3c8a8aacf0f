//! What the members have said, before it is judged.

use std::time::Duration;

use crate::backend::BackendError;
use crate::backend::examination::RoundTrips;

/// What an endpoint of the URL has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint {
    pub(super) at: String,
    /// Why it could not be asked, or not for all.
    pub(super) failure: Option<BackendError>,
    /// Whether authentication is known to be off.
    pub(super) is_open: bool,
    /// Whether it is a gRPC proxy, if that could be found out.
    pub(super) is_proxy: Option<bool>,
    pub(super) status: Option<Status>,
    pub(super) round_trips: Option<RoundTrips>,
}

/// What a member says about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) cluster: u64,
    pub(super) member: u64,
    /// The leader's id; 0 for none.
    pub(super) leader: u64,
    pub(super) is_learner: bool,
    pub(super) errors: Vec<String>,
    /// In bytes.
    pub(super) size: u64,
    /// The size that it may have, if it says so.
    pub(super) quota: Option<u64>,
}

/// What a member says about the cluster and its store.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    /// Why it could not be asked for all.
    pub(super) failure: Option<BackendError>,
    pub(super) members: Option<Vec<Member>>,
    /// Each alarm that is on, and how often.
    pub(super) alarms: Option<Vec<String>>,
    pub(super) revision: i64,
    /// Whether its history was ever compacted.
    pub(super) is_compacted: Option<bool>,
    /// How many operations a transaction may have, up to as many as are sent.
    pub(super) operations: Option<usize>,
    /// The TTL that is granted if one second is requested.
    pub(super) shortest: Option<Duration>,
    pub(super) tried: Vec<Tried>,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    /// Empty until it was started.
    pub(super) name: String,
    pub(super) is_learner: bool,
}

/// A request that was tried.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    pub(super) what: &'static str,
    pub(super) need: Need,
    pub(super) refusal: Option<BackendError>,
}

/// Which permission a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Read,
    Write,
    /// That every user has.
    User,
}
