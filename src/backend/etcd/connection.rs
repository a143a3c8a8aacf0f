//! The connection: its options, and how a request is bounded, retried and refused.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::proto::{PbRangeResponse, PbResponseHeader, PbTxnResponse};
use etcd_client::{Client, Error, GetOptions, KvClient, LeaseClient, Txn, TxnOp, WatchClient};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::history::{History, Mark};
use super::limits::Limits;
use super::route::{self, Route};
use super::txn::{self, Freshness};
use super::watch::Hub;
use super::{Options, answer, failure, proxy};
use crate::backend::backoff::Backoff;
use crate::backend::health::Health;
use crate::backend::shared::Pool;
use crate::backend::{BackendError, ErrorKind, Result};

/// How much later than its deadline an attempt to connect may tell what came of it.
const AFTER: Duration = Duration::from_millis(50);

/// How many bytes an answer may have. The client's default.
const ANSWER: usize = 4 * 1024 * 1024;

/// Where the header of an answer is, if it says something about the store's history.
type Header<T> = fn(&T) -> Option<&PbResponseHeader>;

/// A request on the keeper. It ends with the interest in it.
struct Sent<T>(JoinHandle<T>);

impl<T> Drop for Sent<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What has to be equal for a connection to be shared.
#[derive(PartialEq, Eq)]
struct Settings {
    /// In order.
    endpoints: Vec<String>,
    username: Option<String>,
    password: Option<String>,
    timeout: Duration,
    #[cfg(feature = "etcd-tls")]
    tls: Option<super::Tls>,
}

impl Settings {
    fn of(options: &Options) -> Self {
        let mut endpoints = options.endpoints.clone();
        endpoints.sort_unstable();
        endpoints.dedup();
        Self {
            endpoints,
            username: options.username.clone(),
            password: options.password.clone(),
            timeout: options.timeout,
            #[cfg(feature = "etcd-tls")]
            tls: options.tls.clone(),
        }
    }
}

/// The way to the server, which managers share.
///
/// Requests are sent and bounded by tasks of the keeper; a caller only waits for their answers. A caller that does not go on has
/// nothing that others wait for: no request whose answer fills the connection, no time limit, no renewal of the token.
pub(super) struct Connection {
    handle: Handle,
    route: Arc<Route>,
    /// For errors.
    endpoints: String,
    /// Whether there may be another endpoint to try while one is silent.
    many: bool,
    timeout: Duration,
    tokens: Arc<Tokens>,
    history: History,
    health: Health<1>,
    limits: Limits,
    /// Started with the first watch.
    hub: OnceLock<Hub>,
    /// Whether it may be one by way of a proxy: the client was made by the user.
    unchecked: AtomicBool,
}

/// The token by which the server knows the user.
#[derive(Default)]
struct Tokens {
    /// How many times it was renewed here.
    renewals: AtomicU64,
    renewing: Mutex<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Connection {
    /// Wraps a client that the user has made.
    pub(super) fn injected(client: Client, timeout: Duration, handle: Handle) -> Self {
        let endpoints = String::from("the given client's endpoints");
        let unchecked = AtomicBool::new(true);
        Self { unchecked, ..Self::new(handle, Route::injected(client), endpoints, true, timeout) }
    }

    fn new(handle: Handle, route: Arc<Route>, endpoints: String, many: bool, timeout: Duration) -> Self {
        let (tokens, history, limits) = (Arc::default(), History::default(), Limits::default());
        // A connection that is made here is checked before it is used.
        let unchecked = AtomicBool::new(false);
        let (hub, health) = (OnceLock::new(), Health::default());
        Self { handle, route, endpoints, many, timeout, tokens, history, health, limits, hub, unchecked }
    }

    /// Connects to a server that answers, unless a manager with the same settings has done so.
    pub(super) async fn shared(options: Options, handle: &Handle) -> Result<Arc<Self>> {
        static CONNECTIONS: Pool<Settings, Connection> = Pool::new();
        let deadline = Instant::now() + options.timeout;
        let (endpoints, timeout) = (options.endpoints.join(", "), options.timeout);
        let probe = route::probe(&options.prefix);
        let opened = AtomicBool::new(false);
        let open = async {
            opened.store(true, Ordering::Relaxed);
            let connection = Self::open(options.clone(), handle, deadline).await?;
            Ok(Arc::new(connection))
        };
        let getting = CONNECTIONS.get(handle.id(), Settings::of(&options), open);
        // Its own deadline tells more than this one, which is for those who wait for others.
        let got = tokio::time::timeout_at(deadline + AFTER, getting).await;
        let connection = got.unwrap_or_else(|_| Err(failure::no_answer(&endpoints, timeout)))?;
        if !opened.into_inner() {
            // Does it still answer, and may we lock there?
            let left = deadline.saturating_duration_since(Instant::now());
            let ask = || {
                let (mut kv, probe) = (connection.kv(), probe.clone());
                async move { kv.get(probe, Some(GetOptions::new().with_keys_only())).await.map(|found| found.0) }
            };
            let header: Header<PbRangeResponse> = |found| found.header.as_ref();
            // A connection that is broken must leave time for another one.
            match connection.send(left / 3, header, ask()).await {
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    connection.retry_within(left, header, ask).await?;
                }
                answer => drop(answer?),
            }
        }
        Ok(connection)
    }

    async fn open(options: Options, handle: &Handle, deadline: Instant) -> Result<Self> {
        let (endpoints, many, timeout) = (options.endpoints.join(", "), options.endpoints.len() > 1, options.timeout);
        let route = Route::open(options, handle.clone(), deadline).await?;
        Ok(Self::new(handle.clone(), route, endpoints, many, timeout))
    }

    /// Returns why the server does not serve at the moment.
    pub(super) fn outage(&self) -> Option<BackendError> {
        self.health.failure()
    }

    /// Returns the hub of all watches on this connection.
    pub(super) fn hub(self: &Arc<Self>) -> &Hub {
        self.hub.get_or_init(|| Hub::start(self, &self.handle))
    }

    /// Refuses a client that goes by way of a proxy.
    pub(super) async fn check(self: &Arc<Self>, name: Vec<u8>) -> Result<()> {
        if self.unchecked.load(Ordering::Relaxed) {
            let (client, limit) = (self.watch(), self.patience(self.timeout));
            let renumbers =
                self.once(limit, async move { Ok(proxy::renumbers(client, name, limit / 2).await) }).await?;
            if renumbers == Some(true) {
                return Err(failure::proxied(&self.endpoints));
            }
            self.unchecked.store(renumbers.is_none(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Returns how much goes in one request.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts how often the store was found to have gone back in its history.
    pub(super) fn restores(&self) -> watch::Receiver<u64> {
        self.history.restores()
    }

    /// Tells when another endpoint is used: what goes to the old one may hang.
    pub(super) fn turns(&self) -> tokio::sync::watch::Receiver<usize> {
        self.route.turns()
    }

    /// How many times the endpoint in use has changed.
    #[cfg(test)]
    pub(super) fn turn(&self) -> usize {
        self.route.turn()
    }

    /// Returns the endpoints for an error.
    pub(super) fn endpoints(&self) -> &str {
        &self.endpoints
    }

    /// Returns how long a request may take, all its retries together.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns a client for leases.
    pub(super) fn lease(&self) -> LeaseClient {
        self.route.client(|clients| clients.lease.clone())
    }

    /// Returns a client for watches.
    pub(super) fn watch(&self) -> WatchClient {
        self.route.client(|clients| clients.watch.clone())
    }

    fn kv(&self) -> KvClient {
        self.route.client(|clients| clients.kv.clone())
    }

    /// Returns how long to wait for one answer if `left` is left: a silent endpoint must not take all of the time if there are
    /// others.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        if self.many { (left / 3).max(Duration::from_millis(500)).min(left) } else { left }
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
            Err(error) if error.is_cancelled() => Err(failure::closed()),
            // The client could not read the answer.
            Err(_) => Err(failure::nonsense(&self.endpoints)),
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
        answer
    }

    /// The limit is ours: etcd-client's own one would end streams too.
    async fn ask<T>(
        &self,
        limit: Duration,
        header: Header<T>,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        let (turn, token) = (self.route.turn(), self.tokens.renewals.load(Ordering::Acquire));
        let mark: Mark = self.history.mark();
        match tokio::time::timeout(limit, request).await {
            Ok(Ok(answer)) => match header(&answer) {
                Some(header) if answer::revision(Some(header)).is_none() => Err(failure::nonsense(&self.endpoints)),
                Some(header) if !self.history.goes_on(mark, header) => Err(failure::restored(&self.endpoints)),
                _ => Ok(answer),
            },
            Ok(Err(error)) => {
                if failure::is_stale_token(&error) {
                    // Separate, so that it is completed for others. If this fails, then so does the next request, which says why.
                    let renewing = self.handle.spawn(renew_token(self.route.clone(), self.tokens.clone(), token));
                    let _ = tokio::time::timeout(limit, renewing).await;
                    return Err(failure::of(&self.endpoints, error));
                }
                let error = failure::of(&self.endpoints, error);
                if error.kind() == ErrorKind::Unreachable {
                    self.route.failed(turn);
                }
                Err(error)
            }
            Err(_) => {
                self.route.failed(turn);
                Err(failure::no_answer(&self.endpoints, limit))
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
        let header: Header<PbTxnResponse> = match freshness {
            Freshness::Linearizable => |answer| answer.header.as_ref(),
            Freshness::Serializable => |_| None,
        };
        self.send(limit, header, async move { kv.txn(txn).await.map(|answer| answer.0) }).await
    }

    /// Sends an idempotent transaction until it is answered.
    pub(super) async fn txn(self: &Arc<Self>, txn: Txn) -> Result<PbTxnResponse> {
        self.txn_within(ANSWER, txn).await
    }

    /// Sends an idempotent transaction until it is answered, with at most this many bytes.
    pub(super) async fn txn_within(self: &Arc<Self>, bytes: usize, txn: Txn) -> Result<PbTxnResponse> {
        let ask = || {
            let (mut kv, txn) = (self.kv().max_decoding_message_size(bytes), txn.clone());
            async move { kv.txn(txn).await.map(|answer| answer.0) }
        };
        self.retry_within(self.timeout, |answer| answer.header.as_ref(), ask).await
    }

    /// Reads many ranges, in transactions that are as large as the server takes them, and whose answers can be read. Returns what
    /// was found, in their order.
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
                        return Err(failure::nonsense(&self.endpoints));
                    }
                }
                Err(error) if now.len() > 1 && failure::is_size(&error) => most = now.len() / 2,
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
        let header: Header<PbRangeResponse> = match freshness {
            Freshness::Linearizable => |found| found.header.as_ref(),
            Freshness::Serializable => |_| None,
        };
        let ask = async move { kv.get(name, Some(txn::keys_only(freshness))).await.map(|found| found.0) };
        self.send(limit, header, ask).await
    }

    /// Ends a lease. One that is gone already is no error.
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

/// Gets another token than the one that was in use after `token` renewals, once for all who find it too old: the server takes a tenth
/// of a second for each.
async fn renew_token(route: Arc<Route>, tokens: Arc<Tokens>, token: u64) {
    let _alone = tokens.renewing.lock().await;
    if tokens.renewals.load(Ordering::Acquire) == token && route.clients().whole.refresh_token().await.is_ok() {
        tokens.renewals.fetch_add(1, Ordering::AcqRel);
    }
}
