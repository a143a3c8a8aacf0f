//! The connection: its options, and how a request is bounded, retried and refused.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{Client, Error, GetOptions, GetResponse, KvClient, LeaseClient, Txn, TxnResponse, WatchClient};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::route::{self, Route};
use super::{Options, failure};
use crate::backend::pool::Pool;
use crate::backend::{ErrorKind, Result};

/// How much later than its deadline an attempt to connect may tell what came of it.
const AFTER: Duration = Duration::from_millis(50);

/// Delays that double, with jitter, so that many who failed together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Creates delays from 0.1 s to 1 s: nobody shall be much later than the end of an outage.
    pub(super) fn new() -> Self {
        Self { next: Duration::from_millis(100), most: Duration::from_secs(1) }
    }

    /// Returns the next delay.
    pub(super) fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        jittered(delay)
    }
}

/// Returns `about` give or take a quarter.
pub(super) fn jittered(about: Duration) -> Duration {
    about.mul_f64(rand::random_range(0.75..1.25))
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
pub(super) struct Connection {
    route: Arc<Route>,
    /// For errors.
    endpoints: String,
    /// Whether there may be another endpoint to try while one is silent.
    many: bool,
    timeout: Duration,
    tokens: Arc<Tokens>,
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
    pub(super) fn injected(client: Client, timeout: Duration) -> Self {
        let endpoints = String::from("the given client's endpoints");
        Self { route: Route::injected(client), endpoints, many: true, timeout, tokens: Arc::default() }
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
                async move { kv.get(probe, Some(GetOptions::new().with_keys_only())).await }
            };
            // A connection that is broken must leave time for another one.
            match connection.once(left / 3, ask()).await {
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    connection.retry_within(left, ask).await?;
                }
                answer => drop(answer?),
            }
        }
        Ok(connection)
    }

    async fn open(options: Options, handle: &Handle, deadline: Instant) -> Result<Self> {
        let (endpoints, many, timeout) = (options.endpoints.join(", "), options.endpoints.len() > 1, options.timeout);
        let route = Route::open(options, handle.clone(), deadline).await?;
        Ok(Self { route, endpoints, many, timeout, tokens: Arc::default() })
    }

    /// Tells when another endpoint is used: what goes to the old one may hang.
    pub(super) fn turns(&self) -> tokio::sync::watch::Receiver<usize> {
        self.route.turns()
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
    ///
    /// The limit is ours: etcd-client's own one would end streams too.
    pub(super) async fn once<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        let (turn, token) = (self.route.turn(), self.tokens.renewals.load(Ordering::Acquire));
        match tokio::time::timeout(limit, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if failure::is_stale_token(&error) {
                    // On the keeper, where no caller keeps others waiting. If this fails, then so does the next request, which says
                    // why.
                    let renewing = tokio::spawn(renew_token(self.route.clone(), self.tokens.clone(), token));
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
    pub(super) async fn retry_within<T, F>(&self, limit: Duration, mut request: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Error>>,
    {
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.once(self.patience(left), request()).await {
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
    pub(super) async fn retry<T, F>(&self, request: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Error>>,
    {
        self.retry_within(self.timeout, request).await
    }

    /// Sends a transaction once.
    pub(super) async fn txn_once(&self, limit: Duration, txn: Txn) -> Result<TxnResponse> {
        let mut kv = self.kv();
        self.once(limit, async move { kv.txn(txn).await }).await
    }

    /// Sends an idempotent transaction until it is answered.
    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        self.retry(|| {
            let (mut kv, txn) = (self.kv(), txn.clone());
            async move { kv.txn(txn).await }
        })
        .await
    }

    /// Reads a range.
    pub(super) async fn get(&self, name: &[u8], options: Option<GetOptions>) -> Result<GetResponse> {
        self.retry(|| {
            let (mut kv, options) = (self.kv(), options.clone());
            async move { kv.get(name, options).await }
        })
        .await
    }

    /// Reads a range, once.
    pub(super) async fn get_once(
        &self,
        limit: Duration,
        name: &[u8],
        options: Option<GetOptions>,
    ) -> Result<GetResponse> {
        let mut kv = self.kv();
        self.once(limit, async move { kv.get(name, options).await }).await
    }

    /// Ends a lease. One that is gone already is no error.
    pub(super) async fn revoke(&self, lease: i64) -> Result<()> {
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
