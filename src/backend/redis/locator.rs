//! Where a target's server is at present: at a fixed address, or where the sentinels say.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::election::Master;
use super::options::{Address, Server, Target, Watched};
use super::sentinels::Sentinels;
use crate::backend::Result;
use crate::backend::shared::Pool;

/// Finds the server of a target.
#[derive(Clone, Debug)]
pub(super) struct Locator {
    target: Target,
    /// `None` for a fixed address.
    sentinels: Option<Arc<Sentinels>>,
}

/// The server of a target, as of when it was located.
#[derive(Clone, Debug)]
pub(super) struct Located {
    /// With the address of one server.
    pub(super) target: Target,
    /// The sentinels, and what they have said up to then.
    named: Option<(Arc<Sentinels>, watch::Receiver<Master>)>,
}

impl Locator {
    /// Returns the locator of a target. Waits until its sentinels have named a server. Managers share the watch of the sentinels.
    pub(super) async fn of(target: &Target, limit: Duration, handle: &Handle) -> Result<Self> {
        static WATCHED: Pool<Watched, Sentinels> = Pool::new();
        let sentinels = match target {
            Target::Server(Server { address: Address::Watched(watched), .. }) => {
                let open = Sentinels::open((**watched).clone(), limit, handle.clone());
                Some(WATCHED.get(handle.id(), (**watched).clone(), open).await?)
            }
            _ => None,
        };
        Ok(Self { target: target.clone(), sentinels })
    }

    /// Returns the present address. To be called for each connection: a server that was the master may not be one now.
    pub(super) fn locate(&self) -> Located {
        let (Some(sentinels), Target::Server(server)) = (&self.sentinels, &self.target) else {
            return Located { target: self.target.clone(), named: None };
        };
        let mut master = sentinels.master();
        let address = master.borrow_and_update().node.address(server.address.tls());
        let target = Target::Server(Server { address, ..server.clone() });
        Located { target, named: Some((sentinels.clone(), master)) }
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl Located {
    /// Whether sentinels have named it.
    pub(super) fn is_elected(&self) -> bool {
        self.named.is_some()
    }

    /// Asks the sentinels whether it is still the one, if they can be reached.
    pub(super) async fn is_confirmed(&self) -> bool {
        if let Some((sentinels, _)) = &self.named {
            sentinels.ask().await;
        }
        !self.has_moved()
    }

    /// Whether there is another one now.
    pub(super) fn has_moved(&self) -> bool {
        self.named.as_ref().is_some_and(|(_, master)| master.has_changed().unwrap_or(false))
    }

    /// Waits until there is another one.
    pub(super) async fn moved(&self) {
        if let Some((_, master)) = &self.named
            && master.clone().changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}
