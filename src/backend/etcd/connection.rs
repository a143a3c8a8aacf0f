//! The connection: how requests are sent, bounded in time and retried.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::proto::{PbRangeResponse, PbResponseHeader, PbTxnResponse};
use etcd_client::{Error, GetOptions, KvClient, LeaseClient, Txn, TxnOp, WatchClient};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::auth_token::Token;
use super::endpoints::{self, Endpoints};
use super::guards::Guards;
use super::history::{History, Mark};
use super::limits::Limits;
use super::position::{Freshness, keys_only};
use super::txn::{self};
use super::watch::hub::{Commands, Hub};
use super::{answer, error, proxy};
use crate::backend::backoff::Backoff;
use crate::backend::health::Health;
use crate::backend::{BackendError, ErrorKind, Result};

/// The maximum number of bytes of an answer: the client's default.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Returns the header of an answer that shows the present state of the store; other answers may be from an earlier one.
type Header<T> = fn(&T) -> Option<&PbResponseHeader>;

/// Returns `header` for a read that shows the present state of the store.
fn present_header<T>(freshness: Freshness, header: Header<T>) -> Header<T> {
    match freshness {
        Freshness::Linearizable => header,
        Freshness::Serializable => |_| None,
    }
}

/// A request on the keeper. It is aborted if its caller is dropped.
struct Sent<T>(JoinHandle<T>);

impl<T> Drop for Sent<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection to the server, shared by managers with equal settings.
///
/// Requests are sent and bounded by tasks of the keeper; a caller only waits for the answers. A caller that is not polled again holds
/// nothing that others need: no request whose answer fills the connection, no time limit, no renewal of the token.
pub(super) struct Connection {
    handle: Handle,
    endpoints: Arc<Endpoints>,
    token: Arc<Token>,
    timeout: Duration,
    history: History,
    health: Health<1>,
    limits: Limits,
    hub: Hub,
    /// Whether the client, which was made by the user, may be connected to a proxy.
    is_unchecked: AtomicBool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Creates a connection, and returns the commands for the task that serves its watches. With `is_checked` it is known that no
    /// endpoint is a proxy.
    pub(super) fn new(
        endpoints: Arc<Endpoints>,
        timeout: Duration,
        is_checked: bool,
        handle: Handle,
    ) -> (Self, Commands) {
        let (hub, commands) = Hub::new();
        let connection = Self {
            handle,
            endpoints,
            token: Arc::default(),
            timeout,
            history: History::default(),
            health: Health::default(),
            limits: Limits::default(),
            hub,
            is_unchecked: AtomicBool::new(!is_checked),
        };
        (connection, commands)
    }

    /// Checks that a connection that is in use still answers, and that the user may lock below the prefix.
    pub(super) async fn verify(self: &Arc<Self>, prefix: &str, deadline: Instant) -> Result<()> {
        let probe = endpoints::probe(prefix);
        let ask = || {
            let (mut kv, probe) = (self.kv(), probe.clone());
            async move { kv.get(probe, Some(GetOptions::new().with_keys_only())).await.map(|found| found.0) }
        };
        let header: Header<PbRangeResponse> = |found| found.header.as_ref();
        let left = || deadline.saturating_duration_since(Instant::now());
        // A broken connection must leave time for another endpoint.
        match self.send(left() / 3, header, ask()).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => {
                self.retry_within(left(), header, ask).await.map(drop)
            }
            answer => answer.map(drop),
        }
    }

    /// Returns why the server does not serve at the moment.
    pub(super) fn outage(&self) -> Option<BackendError> {
        self.health.failure()
    }

    /// Returns the hub of all watches on this connection.
    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns the keeper's runtime.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Refuses a client that is connected to a proxy.
    pub(super) async fn check(self: &Arc<Self>, name: Vec<u8>) -> Result<()> {
        if self.is_unchecked.load(Ordering::Relaxed) {
            let (client, limit) = (self.watch(), self.patience(self.timeout));
            let renumbers =
                self.once(limit, async move { Ok(proxy::renumbers(client, name, limit / 2).await) }).await?;
            if renumbers == Some(true) {
                return Err(error::proxied(self.endpoints()));
            }
            self.is_unchecked.store(renumbers.is_none(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Returns the limits for requests.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns whether requests have the operations that the server checks.
    pub(super) fn guards(&self) -> &Guards {
        self.endpoints.guards()
    }

    /// Returns a receiver of the number of times that the store was found to be restored from a backup.
    pub(super) fn restores(&self) -> watch::Receiver<u64> {
        self.history.restores()
    }

    /// Returns a receiver of the changes of the endpoint in use: a stream to the old one may hang.
    pub(super) fn generations(&self) -> watch::Receiver<usize> {
        self.endpoints.generations()
    }

    /// Returns the number of times that the endpoint in use has changed.
    #[cfg(test)]
    pub(super) fn generation(&self) -> usize {
        self.endpoints.generation()
    }

    /// Returns the endpoints for an error.
    pub(super) fn endpoints(&self) -> &str {
        self.endpoints.names()
    }

    /// Returns the time limit of a request, including its retries.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns a client for leases.
    pub(super) fn lease(&self) -> LeaseClient {
        self.endpoints.client(|clients| clients.lease.clone())
    }

    /// Returns a client for watches.
    pub(super) fn watch(&self) -> WatchClient {
        self.endpoints.client(|clients| clients.watch.clone())
    }

    fn kv(&self) -> KvClient {
        self.endpoints.client(|clients| clients.kv.clone())
    }

    /// Returns how long to wait for one answer if `left` is left: a silent endpoint must leave time for others, if there are any.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        if self.endpoints.are_many() { (left / 3).max(Duration::from_millis(500)).min(left) } else { left }
    }

    /// Sends one request and waits for its answer up to `limit`.
    pub(super) async fn once<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        request: impl Future<Output = std::result::Result<T, Error>> + Send + 'static,
    ) -> Result<T> {
        self.send(limit, |_| None, request).await
    }

    async fn send<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        header: Header<T>,
        request: impl Future<Output = std::result::Result<T, Error>> + Send + 'static,
    ) -> Result<T> {
        let connection = self.clone();
        let mut sent = Sent(self.handle.spawn(async move { connection.exchange(limit, header, request).await }));
        match (&mut sent.0).await {
            Ok(answer) => answer,
            Err(error) if error.is_cancelled() => Err(error::closed()),
            // The client could not read the answer.
            Err(_) => Err(error::nonsense(self.endpoints())),
        }
    }

    /// Sends one request from a task of the keeper and waits for its answer up to `limit`.
    async fn exchange<T>(
        &self,
        limit: Duration,
        header: Header<T>,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        let answer = self.ask(limit, header, request).await;
        match &answer {
            Err(error) if error.kind() == ErrorKind::Unreachable => self.health.failed(0, error),
            _ => self.health.served(0),
        }
        if let Err(error) = &answer {
            self.guards().refused(error);
        }
        answer
    }

    /// The limit is enforced here because etcd-client's would also end streams.
    async fn ask<T>(
        &self,
        limit: Duration,
        header: Header<T>,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        let (generation, token) = (self.endpoints.generation(), self.token.generation());
        let mark: Mark = self.history.mark();
        match tokio::time::timeout(limit, request).await {
            Ok(Ok(answer)) => match header(&answer) {
                Some(header) if answer::revision(Some(header)).is_none() => Err(error::nonsense(self.endpoints())),
                Some(header) if !self.history.goes_on(mark, header) => Err(error::restored(self.endpoints())),
                _ => Ok(answer),
            },
            Ok(Err(error)) => {
                if error::is_stale_token(&error) {
                    self.guards().require();
                    // In a separate task, so that it is completed for others even if this request is dropped.
                    let (shared, client) = (self.token.clone(), self.endpoints.client(|clients| clients.whole.clone()));
                    let endpoints = self.endpoints.clone();
                    let renewing = self.handle.spawn(async move {
                        if !shared.renew(client, token).await && endpoints.account_may_change() {
                            endpoints.failed(generation);
                        }
                    });
                    let _ = tokio::time::timeout(limit, renewing).await;
                    return Err(error::of(self.endpoints(), error));
                }
                if error::is_wrong_password(&error) && self.endpoints.account_may_change() {
                    self.endpoints.failed(generation);
                    return Err(error::outdated(self.endpoints(), error));
                }
                let error = error::of(self.endpoints(), error);
                if error.kind() == ErrorKind::Unreachable {
                    self.endpoints.failed(generation);
                }
                Err(error)
            }
            Err(_) => {
                self.endpoints.failed(generation);
                Err(error::no_answer(self.endpoints(), limit))
            }
        }
    }

    /// Sends an idempotent request until it is answered, within `limit`.
    async fn retry_within<T: Send + 'static, F>(
        self: &Arc<Self>,
        limit: Duration,
        header: Header<T>,
        mut request: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Error>> + Send + 'static,
    {
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.send(self.patience(left), header, request()).await {
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    let delay = backoff.delay();
                    if Instant::now() + delay >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(delay).await;
                }
                answer => return answer,
            }
        }
    }

    /// Sends an idempotent request until it is answered, within the timeout.
    pub(super) async fn retry<T: Send + 'static, F>(self: &Arc<Self>, request: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Error>> + Send + 'static,
    {
        self.retry_within(self.timeout, |_| None, request).await
    }

    /// Sends a transaction once, from a task of the keeper.
    pub(super) async fn txn_here(&self, limit: Duration, txn: Txn) -> Result<PbTxnResponse> {
        let mut kv = self.kv();
        self.exchange(limit, |answer| answer.header.as_ref(), async move { kv.txn(txn).await.map(|answer| answer.0) })
            .await
    }

    /// Sends a transaction once.
    pub(super) async fn txn_once(
        self: &Arc<Self>,
        limit: Duration,
        freshness: Freshness,
        txn: Txn,
    ) -> Result<PbTxnResponse> {
        let mut kv = self.kv();
        let header = present_header(freshness, |answer: &PbTxnResponse| answer.header.as_ref());
        self.send(limit, header, async move { kv.txn(txn).await.map(|answer| answer.0) }).await
    }

    /// Sends an idempotent transaction until it is answered.
    pub(super) async fn txn(self: &Arc<Self>, txn: Txn) -> Result<PbTxnResponse> {
        self.txn_within(MAX_ANSWER, txn).await
    }

    /// Sends an idempotent transaction until it is answered, with at most this many bytes.
    pub(super) async fn txn_within(self: &Arc<Self>, bytes: usize, txn: Txn) -> Result<PbTxnResponse> {
        let ask = || {
            let (mut kv, txn) = (self.kv().max_decoding_message_size(bytes), txn.clone());
            async move { kv.txn(txn).await.map(|answer| answer.0) }
        };
        self.retry_within(self.timeout, |answer| answer.header.as_ref(), ask).await
    }

    /// Reads many ranges, in transactions that are as large as the server accepts, and whose answers can be read. Returns what was
    /// found, in their order.
    pub(super) async fn ranges(self: &Arc<Self>, gets: &[TxnOp]) -> Result<Vec<PbRangeResponse>> {
        let (mut found, mut left) = (Vec::with_capacity(gets.len()), gets);
        let mut most = gets.len();
        while !left.is_empty() {
            let (now, later) = left.split_at(most.min(self.limits.operations()).min(left.len()));
            match self.txn(Txn::new().and_then(now)).await {
                Ok(answer) => {
                    found.extend(txn::ranges(answer));
                    left = later;
                    if found.len() + left.len() != gets.len() {
                        return Err(error::nonsense(self.endpoints()));
                    }
                }
                Err(error) if now.len() > 1 && error::is_size(&error) => most = now.len() / 2,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Reads a range.
    pub(super) async fn get(self: &Arc<Self>, name: &[u8], options: Option<GetOptions>) -> Result<PbRangeResponse> {
        let ask = || {
            let (mut kv, name, options) = (self.kv(), name.to_vec(), options.clone());
            async move { kv.get(name, options).await.map(|found| found.0) }
        };
        self.retry_within(self.timeout, |found| found.header.as_ref(), ask).await
    }

    /// Reads a name, once. Returns only the key of what is found.
    pub(super) async fn key_once(
        self: &Arc<Self>,
        limit: Duration,
        freshness: Freshness,
        name: &[u8],
    ) -> Result<PbRangeResponse> {
        let (mut kv, name) = (self.kv(), name.to_vec());
        let header = present_header(freshness, |found: &PbRangeResponse| found.header.as_ref());
        let ask = async move { kv.get(name, Some(keys_only(freshness))).await.map(|found| found.0) };
        self.send(limit, header, ask).await
    }

    /// Revokes a lease. It is no error if the lease no longer exists.
    pub(super) async fn revoke(self: &Arc<Self>, lease: i64) -> Result<()> {
        let answer = self
            .retry(|| {
                let mut client = self.lease();
                async move { client.revoke(lease).await }
            })
            .await;
        match answer {
            Err(error) if error.kind() != ErrorKind::LeaseLost => Err(error),
            _ => Ok(()),
        }
    }
}
