//! What one node's requests report to the task that keeps the map of a cluster.

use tokio::sync::mpsc::UnboundedSender;

use super::options::Node;
use super::redirect::Redirect;
use super::requests::Request;
use super::unconfirmed::Unconfirmed;
use crate::backend::Result;

/// What concerns other nodes.
#[derive(Debug)]
pub(super) enum Report {
    /// The slot is at another node, and none of its requests is in flight here any more.
    Moved(u16, Node),
    /// These are to be served by a node to which their slot is being moved.
    Ask(Node, Vec<Request>),
    /// The node at this address has told its id.
    Identified(Node, Result<String>),
    /// These were not served by such a node: to be repeated at that of the slot.
    Later(Vec<Request>),
    /// The replicas of another node have to confirm this hold.
    Confirm(Redirect, Unconfirmed),
    /// The node has failed: its slots may be at others.
    Doubt,
}

/// One node's place in its cluster.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// Its number among those of this manager.
    pub(super) number: u64,
    /// Its id in the cluster.
    pub(super) id: String,
    pub(super) address: Node,
    pub(super) reports: UnboundedSender<(u64, Report)>,
}

impl Membership {
    pub(super) fn report(&self, report: Report) {
        // It ends with the manager.
        let _ = self.reports.send((self.number, report));
    }
}
