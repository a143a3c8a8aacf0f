//! Connections, shared by managers with equal settings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::Client;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connection::Connection;
use super::endpoints::Endpoints;
use super::options::Options;
#[cfg(feature = "etcd-tls")]
use super::tls::Tls;
use super::{error, watch};
use crate::backend::shared::Pool;
use crate::backend::{Account, Result};

/// The extra time for an attempt to connect to report its own error, which says more than that of the time limit.
const GRACE: Duration = Duration::from_millis(50);

/// The settings that must be equal for a connection to be shared.
#[derive(PartialEq, Eq)]
struct Settings {
    /// Sorted, without duplicates.
    endpoints: Vec<String>,
    account: Account,
    timeout: Duration,
    #[cfg(feature = "etcd-tls")]
    tls: Option<Tls>,
}

impl Settings {
    fn of(options: &Options) -> Self {
        let mut endpoints = options.endpoints.clone();
        endpoints.sort_unstable();
        endpoints.dedup();
        Self {
            endpoints,
            account: options.account.clone(),
            timeout: options.timeout,
            #[cfg(feature = "etcd-tls")]
            tls: options.tls.clone(),
        }
    }
}

/// Returns a connection to a server that answers: the one of a manager with equal settings, or a new one.
pub(super) async fn connect(options: Options, handle: &Handle) -> Result<Arc<Connection>> {
    static CONNECTIONS: Pool<Settings, Connection> = Pool::new();
    let deadline = Instant::now() + options.timeout;
    let is_new = AtomicBool::new(false);
    let open = async {
        is_new.store(true, Ordering::Relaxed);
        let endpoints = Endpoints::open(options.clone(), handle.clone(), deadline).await?;
        Ok(start(endpoints, options.timeout, true, handle))
    };
    let getting = CONNECTIONS.get(handle.id(), Settings::of(&options), open);
    // This limit is for a manager that waits for the attempt of another one.
    let connection = tokio::time::timeout_at(deadline + GRACE, getting)
        .await
        .unwrap_or_else(|_| Err(error::no_answer(&options.endpoints.join(", "), options.timeout)))?;
    if !is_new.into_inner() {
        connection.verify(&options.prefix, deadline).await?;
    }
    Ok(connection)
}

/// Returns the connection of a client that was made by the user and is never closed.
pub(super) fn inject(client: Client, timeout: Duration, handle: &Handle) -> Arc<Connection> {
    start(Endpoints::injected(client), timeout, false, handle)
}

fn start(endpoints: Arc<Endpoints>, timeout: Duration, is_checked: bool, handle: &Handle) -> Arc<Connection> {
    let (connection, commands) = Connection::new(endpoints, timeout, is_checked, handle.clone());
    let connection = Arc::new(connection);
    watch::start(&connection, commands, handle);
    connection
}
