//! The endpoint in use, and the search for another one when it fails.
//!
//! etcd-client would spread requests over all endpoints, including a stopped one, and every other request would hang. So each
//! client here has one endpoint, and all requests are sent there until one fails; then the next endpoint that answers is used, on
//! a new connection, for which the files for TLS and the password are read again.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, LeaseClient, Txn, TxnOp, WatchClient};
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::guards::Guards;
use super::names::Names;
use super::options::Options;
#[cfg(feature = "etcd-tls")]
use super::tls::{Loaded, Tls};
use super::{error, proxy};
use crate::backend::backoff::Backoff;
use crate::backend::{Account, BackendError, ErrorKind, LeaseId, Result};
use crate::process::facade;

/// The interval of HTTP/2 pings. The server closes a connection that pings more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);
/// The time limit for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// The number of operations that a server must accept in one transaction: those of a repeated shared claim.
const MIN_OPERATIONS: usize = 4;

/// The clients of one endpoint.
pub(super) struct Clients {
    pub(super) whole: Client,
    pub(super) kv: KvClient,
    pub(super) lease: LeaseClient,
    pub(super) watch: WatchClient,
}

impl Clients {
    fn new(whole: Client) -> Self {
        Self { kv: whole.kv_client(), lease: whole.lease_client(), watch: whole.watch_client(), whole }
    }
}

/// The endpoint in use, and the others.
pub(super) struct Endpoints {
    clients: RwLock<Clients>,
    /// The endpoints, for errors.
    names: String,
    /// The index of the endpoint in use.
    index: AtomicUsize,
    /// The number of times that the endpoint in use has changed.
    generations: watch::Sender<usize>,
    /// `None` for a client that was made by the user, which is never replaced.
    others: Option<(Options, Handle)>,
    searching: AtomicBool,
    guards: Guards,
}

impl Endpoints {
    /// Uses a client that was made by the user.
    pub(super) fn injected(client: Client) -> Arc<Self> {
        Self::new(Found { client, index: 0, is_open: false }, None)
    }

    /// Connects to the first endpoint that answers in time.
    pub(super) async fn open(options: Options, handle: Handle, deadline: Instant) -> Result<Arc<Self>> {
        let mut backoff = Backoff::new();
        let mut reason = None;
        let found = loop {
            match find(&options, &handle, 0, deadline).await {
                Ok(found) => break found,
                Err(error) => {
                    // An attempt that was cut off by the deadline says less than the one before.
                    let is_silence = error.source().is_none();
                    let error = if is_silence { reason.take().unwrap_or(error) } else { error };
                    let delay = backoff.delay();
                    if error.kind() != ErrorKind::Unreachable || Instant::now() + delay >= deadline {
                        return Err(error);
                    }
                    reason = Some(error);
                    tokio::time::sleep(delay).await;
                }
            }
        };
        Ok(Self::new(found, Some((options, handle))))
    }

    fn new(found: Found, others: Option<(Options, Handle)>) -> Arc<Self> {
        let Found { client, index, is_open } = found;
        let names = others.as_ref().map(|(options, _)| options.endpoints.join(", "));
        Arc::new(Self {
            clients: RwLock::new(Clients::new(client)),
            names: names.unwrap_or_else(|| "the given client's endpoints".into()),
            index: AtomicUsize::new(index),
            generations: watch::Sender::new(0),
            others,
            searching: AtomicBool::new(false),
            guards: Guards::new(is_open),
        })
    }

    /// Returns the endpoints for an error.
    pub(super) fn names(&self) -> &str {
        &self.names
    }

    /// Returns whether requests have the operations that the server checks.
    pub(super) fn guards(&self) -> &Guards {
        &self.guards
    }

    /// Returns whether there may be another endpoint to try while one is silent.
    pub(super) fn are_many(&self) -> bool {
        self.others.as_ref().is_none_or(|(options, _)| options.endpoints.len() > 1)
    }

    /// Returns a part of the clients of the endpoint in use.
    pub(super) fn client<T>(&self, part: impl FnOnce(&Clients) -> T) -> T {
        part(&self.clients.read())
    }

    /// Returns the number of the endpoint in use, which grows with each change.
    pub(super) fn generation(&self) -> usize {
        *self.generations.borrow()
    }

    /// Returns a receiver of the changes of the endpoint in use.
    pub(super) fn generations(&self) -> watch::Receiver<usize> {
        self.generations.subscribe()
    }

    /// Returns whether a new connection may have other credentials.
    pub(super) fn account_may_change(&self) -> bool {
        self.others.as_ref().is_some_and(|(options, _)| options.account.may_change())
    }

    /// Begins the search for another endpoint after a request of this generation has failed, once for all that failed.
    pub(super) fn failed(self: &Arc<Self>, generation: usize) {
        let Some((_, handle)) = &self.others else { return };
        if generation != self.generation() || self.searching.swap(true, Ordering::AcqRel) {
            return;
        }
        let searching = Searching(self.clone());
        handle.spawn(async move {
            let endpoints = &searching.0;
            if let Some((options, handle)) = &endpoints.others {
                let deadline = Instant::now() + options.timeout;
                // If none answers, the next request that fails starts the next search.
                let next = endpoints.index.load(Ordering::Acquire) + 1;
                match find(options, handle, next, deadline).await {
                    Ok(Found { client, index, is_open }) => {
                        if !is_open {
                            endpoints.guards.require();
                        }
                        *endpoints.clients.write() = Clients::new(client);
                        endpoints.index.store(index, Ordering::Release);
                        endpoints.generations.send_modify(|generations| *generations += 1);
                        facade::reconnected("etcd");
                    }
                    Err(error) => {
                        crate::process::report::debug!(target: "leasehold::etcd", "not connected again: {error}")
                    }
                }
            }
        });
    }
}

/// A search for another endpoint. However it ends, the next one may begin.
struct Searching(Arc<Endpoints>);

impl Drop for Searching {
    fn drop(&mut self) {
        self.0.searching.store(false, Ordering::Release);
    }
}

/// An endpoint that answers.
struct Found {
    client: Client,
    index: usize,
    /// Whether authentication is known to be off.
    is_open: bool,
}

/// Returns a client for an endpoint that answers. The search begins at `first`.
async fn find(options: &Options, handle: &Handle, first: usize, deadline: Instant) -> Result<Found> {
    let count = options.endpoints.len();
    let mut last = no_answer(options);
    let mut refused = None;
    for tried in 0..count {
        let index = (first + tried) % count;
        let Some(endpoint) = options.endpoints.get(index) else { continue };
        let left = deadline.saturating_duration_since(Instant::now());
        // A silent endpoint must leave time for the others.
        let limit = left / u32::try_from(count - tried).unwrap_or(1);
        match dial(options, endpoint, handle, limit).await {
            Ok((client, is_open)) => return Ok(Found { client, index, is_open }),
            Err(Failed::Everywhere(error)) => return Err(error),
            Err(Failed::Refused(error)) => refused = Some(error),
            Err(Failed::Here(error)) => last = error,
        }
    }
    // The refusal of one endpoint most likely holds for all that did not answer.
    Err(refused.unwrap_or(last))
}

/// Returns the name that is read to check whether a server answers: the record of no lease, which any user that may lock may read.
/// Only a member of a working cluster can answer.
pub(super) fn probe(prefix: &str) -> Vec<u8> {
    Names::new(prefix.to_owned()).record(LeaseId(0))
}

/// Why an endpoint gave no client.
enum Failed {
    /// Another endpoint may answer, or the same one later.
    Here(BackendError),
    /// The endpoint refuses this client, or is refused; another one may do.
    Refused(BackendError),
    /// The cluster refuses this client, or the configuration is wrong.
    Everywhere(BackendError),
}

/// How to connect to an endpoint: the credentials and the files for TLS as they are at present.
pub(super) struct Dialing {
    url: [String; 1],
    anonymous: ConnectOptions,
    connect: ConnectOptions,
    is_nobody: bool,
    #[cfg(feature = "etcd-tls")]
    tls: Option<Loaded>,
}

impl Dialing {
    pub(super) async fn new(options: &Options, endpoint: &str, limit: Duration) -> Result<Self> {
        #[cfg(feature = "etcd-tls")]
        let tls = options.tls.as_ref().map(Tls::load).transpose()?;
        #[cfg(feature = "etcd-tls")]
        let (anonymous, scheme) = match &tls {
            Some(tls) => (settings(options).with_tls(tls.options.clone()), "https://"),
            None => (settings(options), "http://"),
        };
        #[cfg(not(feature = "etcd-tls"))]
        let (anonymous, scheme) = (settings(options), "http://");
        let is_nobody = options.account == Account::Anonymous && scheme == "http://";
        let connect = match options.account.credentials(limit).await? {
            Some(account) => anonymous.clone().with_user(account.username(), account.password().expose()),
            None => anonymous.clone(),
        };
        Ok(Self {
            url: [format!("{scheme}{endpoint}")],
            anonymous,
            connect,
            is_nobody,
            #[cfg(feature = "etcd-tls")]
            tls,
        })
    }

    pub(super) fn uses_tls(&self) -> bool {
        self.url[0].starts_with("https://")
    }

    /// Creates a client, and returns whether authentication is known to be off. Without an account nothing is sent yet.
    pub(super) async fn connect(&self) -> std::result::Result<(Client, bool), etcd_client::Error> {
        match Client::connect(&self.url, Some(self.connect.clone())).await {
            // As Go's client does: without authentication every user may do anything.
            Err(error) if error::is_auth_off(&error) => {
                Ok((Client::connect(&self.url, Some(self.anonymous.clone())).await?, true))
            }
            // Where nobody is named, not even by a certificate, the answer to the first request shows the same.
            client => Ok((client?, self.is_nobody)),
        }
    }

    /// Returns why one side refuses the other's certificate, after a connection has failed.
    #[cfg(feature = "etcd-tls")]
    pub(super) async fn refusal(&self, endpoint: &str, limit: Duration) -> Option<BackendError> {
        self.tls.as_ref()?.refusal(endpoint, limit).await
    }
}

/// Creates a client whose endpoint answers, within `limit`. Returns it, and whether authentication is known to be off.
async fn dial(
    options: &Options,
    endpoint: &str,
    handle: &Handle,
    limit: Duration,
) -> std::result::Result<(Client, bool), Failed> {
    let deadline = Instant::now() + limit;
    let failed = |error: BackendError| match error.kind() {
        ErrorKind::Unreachable => Failed::Here(error),
        _ => Failed::Everywhere(error),
    };
    let dialing = Arc::new(Dialing::new(options, endpoint, limit).await.map_err(failed)?);
    let (connecting, probe) = (dialing.clone(), probe(&options.prefix));
    // On the keeper, so that the client's tasks run there and not on a runtime that may end earlier.
    let dialed = handle.spawn(async move {
        tokio::time::timeout_at(deadline, async move {
            let (client, is_open) = connecting.connect().await?;
            // A server that accepts fewer operations in a transaction cannot be used.
            let get = TxnOp::get(probe.clone(), Some(GetOptions::new().with_keys_only()));
            client.kv_client().txn(Txn::new().and_then(vec![get; MIN_OPERATIONS])).await?;
            // After that, because its error is clearer.
            let left = deadline.saturating_duration_since(Instant::now());
            let renumbers = proxy::renumbers(client.watch_client(), probe, left / 2).await;
            Ok((renumbers != Some(true)).then_some((client, is_open)))
        })
        .await
    });
    let error = match dialed.await {
        Ok(Ok(Ok(Some(found)))) => return Ok(found),
        Ok(Ok(Ok(None))) => return Err(Failed::Refused(error::proxied(endpoint))),
        Ok(Ok(Err(error))) => error::at_first(&options.endpoints.join(", "), dialing.uses_tls(), error),
        Ok(Err(_)) | Err(_) => return Err(Failed::Here(no_answer(options))),
    };
    if error.kind() != ErrorKind::Unreachable {
        return Err(Failed::Everywhere(error));
    }
    #[cfg(feature = "etcd-tls")]
    if let Some(refusal) = dialing.refusal(endpoint, deadline.saturating_duration_since(Instant::now())).await {
        return Err(Failed::Refused(refusal));
    }
    Err(Failed::Here(error))
}

fn no_answer(options: &Options) -> BackendError {
    error::no_answer(&options.endpoints.join(", "), options.timeout)
}

fn settings(options: &Options) -> ConnectOptions {
    ConnectOptions::new()
        .with_connect_timeout(options.timeout)
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(true)
        .with_tcp_keepalive(PING_INTERVAL)
        // A member without a leader fails a watch instead of keeping it silent.
        .with_require_leader(true)
        .with_auto_token_refresh(true)
}
