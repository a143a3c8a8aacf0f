//! The connection: its options, and how a request is bounded, retried and refused.

use std::future::Future;
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, Error, GetOptions, GetResponse, KvClient, LeaseClient, Txn, TxnResponse, WatchClient,
};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Options, failure};
use crate::backend::{ErrorKind, Result};

/// The server closes a connection that pings more often than each 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Delays that double, with jitter, so that many who failed together do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Creates delays from 0.1 s to 2 s.
    pub(super) fn new() -> Self {
        Self { next: Duration::from_millis(100), most: Duration::from_secs(2) }
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

#[derive(Clone)]
struct Clients {
    whole: Client,
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
}

impl Clients {
    fn new(whole: Client) -> Self {
        Self { kv: whole.kv_client(), lease: whole.lease_client(), watch: whole.watch_client(), whole }
    }
}

/// The way to the server.
pub(super) struct Connection {
    clients: RwLock<Clients>,
    /// For errors.
    endpoints: String,
    /// Whether there may be another endpoint to try while one is silent.
    many: bool,
    timeout: Duration,
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
        Self { clients: RwLock::new(Clients::new(client)), endpoints, many: true, timeout }
    }

    /// Connects, and sees whether the server answers.
    pub(super) async fn open(options: &Options, handle: &Handle) -> Result<Self> {
        let endpoints = options.endpoints.join(", ");
        let (timeout, deadline) = (options.timeout, Instant::now() + options.timeout);
        let mut backoff = Backoff::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let client = match dial(options, handle, left).await {
                Ok(client) => client,
                Err(Some(error)) => {
                    let error = failure::of(&endpoints, error);
                    let delay = backoff.delay();
                    if error.kind() != ErrorKind::Unreachable || Instant::now() + delay >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(delay).await;
                    continue;
                }
                Err(None) => return Err(failure::no_answer(&endpoints, timeout)),
            };
            let clients = RwLock::new(Clients::new(client));
            return Ok(Self { clients, endpoints, many: options.endpoints.len() > 1, timeout });
        }
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
        self.clients.read().lease.clone()
    }

    /// Returns a client for watches.
    pub(super) fn watch(&self) -> WatchClient {
        self.clients.read().watch.clone()
    }

    fn kv(&self) -> KvClient {
        self.clients.read().kv.clone()
    }

    /// Returns how long to wait for one answer if `left` is left: a silent endpoint must not take all of the time if there are
    /// others.
    pub(super) fn patience(&self, left: Duration) -> Duration {
        if self.many { (left / 2).max(Duration::from_millis(500)).min(left) } else { left }
    }

    /// Sends one request and waits for its answer up to `limit`.
    ///
    /// The limit is ours: etcd-client's own one would end streams too.
    pub(super) async fn once<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = std::result::Result<T, Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if failure::is_stale_token(&error) {
                    let client = self.clients.read().whole.clone();
                    // If this fails, then so does the next request, which says why.
                    let _ = tokio::time::timeout(limit, client.refresh_token()).await;
                }
                Err(failure::of(&self.endpoints, error))
            }
            Err(_) => Err(failure::no_answer(&self.endpoints, limit)),
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

/// Makes a client, within `limit`. No error means no answer.
async fn dial(options: &Options, handle: &Handle, limit: Duration) -> std::result::Result<Client, Option<Error>> {
    let (mut connect, scheme) = settings(options)?;
    if let Some(user) = &options.username {
        connect = connect.with_user(user, options.password.as_deref().unwrap_or_default());
    }
    let endpoints: Vec<String> = options.endpoints.iter().map(|endpoint| format!("{scheme}{endpoint}")).collect();
    let anonymous = settings(options)?.0;
    // On the keeper, so that the client's own tasks live there and not on a runtime that may end earlier.
    let dialing = handle.spawn(async move {
        tokio::time::timeout(limit, async move {
            match Client::connect(&endpoints, Some(connect)).await {
                // As Go's client does: then anybody may do anything, and so may this user.
                Err(error) if failure::is_auth_off(&error) => Client::connect(&endpoints, Some(anonymous)).await,
                client => client,
            }
        })
        .await
    });
    match dialing.await {
        Ok(Ok(client)) => client.map_err(Some),
        Ok(Err(_)) | Err(_) => Err(None),
    }
}

fn settings(options: &Options) -> std::result::Result<(ConnectOptions, &'static str), Error> {
    let connect = ConnectOptions::new()
        .with_connect_timeout(options.timeout)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_tcp_keepalive(PING_INTERVAL)
        // A member without a leader says so instead of keeping a watch silent.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    #[cfg(feature = "etcd-tls")]
    if let Some(tls) = &options.tls {
        return Ok((connect.with_tls(tls.load()?), "https://"));
    }
    #[cfg(not(feature = "etcd-tls"))]
    if options.tls.is_some() {
        return Err(Error::InvalidArgs("TLS needs the feature \"etcd-tls\"".into()));
    }
    Ok((connect, "http://"))
}
