//! The log of outages: one record when the server stops serving, and one when it serves again.

use parking_lot::Mutex;

use super::base::Base;
use crate::error::BackendError;
use crate::process::report::{info, warn};

/// What has been logged.
#[derive(Debug, Default)]
pub(super) struct OutageLog(Mutex<Logged>);

#[derive(Debug, Default)]
struct Logged {
    outage: bool,
    renewals: bool,
}

impl OutageLog {
    /// Logs when the server has stopped serving, and when it serves again.
    pub(super) fn report_outage(&self, base: &Base) {
        let outage = base.backend.outage();
        let was_logged = std::mem::replace(&mut self.0.lock().outage, outage.is_some());
        let name = base.name();
        match outage {
            Some(error) if !was_logged => {
                warn!(target: "leasehold", name = name; "{name}: the server does not serve: {error}")
            }
            None if was_logged => info!(target: "leasehold", name = name; "{name}: the server serves again"),
            _ => {}
        }
    }

    /// Whether the end of an outage is to be logged.
    pub(super) fn has_outage(&self) -> bool {
        self.0.lock().outage
    }

    /// Logs the first of consecutive failed renewals.
    pub(super) fn report_renewals(&self, base: &Base, failure: Option<&BackendError>) {
        let was_logged = std::mem::replace(&mut self.0.lock().renewals, failure.is_some());
        if let Some(error) = failure
            && !was_logged
        {
            let name = base.name();
            warn!(target: "leasehold", name = name; "{name}: a renewal failed and is tried again: {error}");
        }
    }
}
