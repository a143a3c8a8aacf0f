//! What stands in the way of a manager: logged once when it begins and once when it is over, and named in errors.

use std::time::Duration;

use parking_lot::Mutex;

use super::Core;
use crate::backend::{BackendError, ErrorKind};
use crate::report::{info, warn};

/// What has been logged.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Logged>);

#[derive(Debug, Default)]
struct Logged {
    outage: bool,
    renewals: bool,
}

impl Core {
    /// The error of a call that was not answered in time: what the server, or the connection, said last, where that is known.
    pub(crate) fn no_answer(&self, limit: Duration) -> BackendError {
        self.backend.outage().unwrap_or_else(|| {
            BackendError::new(ErrorKind::Unreachable, format!("no answer from the server within {limit:?}"))
        })
    }

    /// Logs when the server has ceased to serve, and when it serves again.
    pub(super) fn report_outage(&self) {
        let outage = self.backend.outage();
        let was_logged = std::mem::replace(&mut self.troubles.0.lock().outage, outage.is_some());
        let name = self.defaults.name.as_ref();
        match outage {
            Some(error) if !was_logged => {
                warn!(target: "leasehold", name = name; "{name}: the server does not serve: {error}")
            }
            None if was_logged => info!(target: "leasehold", name = name; "{name}: the server serves again"),
            _ => {}
        }
    }

    /// Whether the end of an outage is to be logged.
    pub(super) fn is_outage_logged(&self) -> bool {
        self.troubles.0.lock().outage
    }

    /// Logs the first of the renewals that fail in a row.
    pub(super) fn report_renewals(&self, failure: Option<&BackendError>) {
        let was_logged = std::mem::replace(&mut self.troubles.0.lock().renewals, failure.is_some());
        if let Some(error) = failure
            && !was_logged
        {
            let name = self.defaults.name.as_ref();
            warn!(target: "leasehold", name = name; "{name}: a renewal failed and is tried again: {error}");
        }
    }
}
