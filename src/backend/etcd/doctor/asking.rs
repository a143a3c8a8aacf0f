//! A client of its own for one endpoint, each of whose answers is waited for a while only.

use etcd_client::{Client, Error, GetOptions};
use tokio::time::timeout;

use super::super::endpoints::Dialing;
use super::super::error;
use super::super::options::Options;
use crate::backend::examination::PATIENCE;
use crate::backend::{BackendError, Result};

/// The client of an endpoint.
pub(super) struct Asking<'a> {
    pub(super) options: &'a Options,
    pub(super) endpoint: &'a str,
    pub(super) client: Client,
    dialing: Dialing,
}

impl<'a> Asking<'a> {
    /// Opens a client. Also returns whether authentication is known to be off.
    pub(super) async fn open(options: &'a Options, endpoint: &'a str) -> Result<(Self, bool)> {
        let dialing = Dialing::new(options, endpoint, PATIENCE).await?;
        let error = match timeout(PATIENCE, dialing.connect()).await {
            Ok(Ok((client, is_open))) => return Ok((Self { options, endpoint, client, dialing }, is_open)),
            Ok(Err(error)) => error::at_first(endpoint, dialing.uses_tls(), error),
            Err(_) => error::no_answer(endpoint, PATIENCE),
        };
        Err(explain(endpoint, &dialing, error).await)
    }

    /// Returns the reason of an error of the connection, if it is one of certificates.
    pub(super) async fn explain(&self, error: BackendError) -> BackendError {
        explain(self.endpoint, &self.dialing, error).await
    }

    pub(super) fn uses_tls(&self) -> bool {
        self.dialing.uses_tls()
    }

    /// Waits for an answer.
    pub(super) async fn within<T>(&self, step: impl Future<Output = std::result::Result<T, Error>>) -> Result<T> {
        match timeout(PATIENCE, step).await {
            Ok(answer) => answer.map_err(|error| error::at_first(self.endpoint, self.uses_tls(), error)),
            Err(_) => Err(error::no_answer(self.endpoint, PATIENCE)),
        }
    }

    /// Reads a name as it was at a revision, 0 for now. Returns the store's revision.
    pub(super) async fn read(&self, name: &[u8], revision: i64) -> Result<i64> {
        let options = GetOptions::new().with_keys_only().with_revision(revision);
        let found = self.within(self.client.kv_client().get(name, Some(options))).await?;
        Ok(found.0.header.map_or(0, |header| header.revision))
    }
}

async fn explain(endpoint: &str, dialing: &Dialing, error: BackendError) -> BackendError {
    #[cfg(feature = "etcd-tls")]
    if error.kind() == crate::backend::ErrorKind::Unreachable
        && let Some(refusal) = dialing.refusal(endpoint, PATIENCE).await
    {
        return refusal;
    }
    let _ = (endpoint, dialing);
    error
}
