//! A shop with several instances that never sells more than it has.
//!
//! The manager is in the state that all handlers share. A request holds a lock while it needs it, and the end of the service closes
//! the manager.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures::StreamExt;
use leasehold::{Config, FenceGate, LockError, LockManager, StaleToken};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The maximum time that a customer waits for the customers before.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The configuration, from the file and the environment. An unknown field is an error: with `lock:` instead of `locks:`, the instances
/// would not exclude each other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The server of the locks. A single instance needs none.
    pub locks: Option<Config>,
}

impl Settings {
    /// Reads the file; `SHOP_LISTEN`, `SHOP_LOCKS__TTL` and so on override it.
    pub fn load(file: &str) -> Result<Self, config::ConfigError> {
        let environment = config::Environment::with_prefix("SHOP").prefix_separator("_").separator("__");
        let sources = config::Config::builder().add_source(config::File::with_name(file)).add_source(environment);
        sources.build()?.try_deserialize()
    }
}

/// Stands for the database that all instances share. Each row refuses outdated tokens.
pub type Stock = HashMap<&'static str, FenceGate<u32>>;

/// The state that all handlers share.
#[derive(Clone, Debug)]
pub struct Shop {
    locks: LockManager,
    stock: Arc<Stock>,
    /// Whether the service is ending: streams, which have no end of their own, end then.
    ending: watch::Sender<bool>,
}

impl Shop {
    /// Connects to the server of the locks.
    pub async fn open(locks: Option<Config>, stock: Arc<Stock>) -> leasehold::Result<Self> {
        let locks = match locks {
            Some(config) => LockManager::from_config(config).await?,
            // Without a server, the requests of this instance still exclude each other.
            None => LockManager::memory(),
        };
        Ok(Self { locks, stock, ending: watch::Sender::new(false) })
    }

    /// Serves until `end`, waits for the requests in flight, and closes the manager.
    pub async fn serve(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (locks, ending) = (self.locks.clone(), self.ending.clone());
        let routes = Router::new()
            .route("/health", get(health))
            .route("/stock/{item}/take", post(take))
            .route("/stock/{item}/watch", get(sellers));
        let end = async move {
            end.await;
            ending.send_replace(true);
        };
        axum::serve(listener, routes.with_state(self)).with_graceful_shutdown(end).await?;
        // Releases the locks that are still held now, and not after their TTL.
        Ok(locks.close().await?)
    }
}

/// The health check for the load balancer: an instance that cannot reach its locks receives no requests.
async fn health(State(shop): State<Shop>) -> Response {
    match shop.locks.ping().await {
        Ok(time) => Json(json!({ "locks": "up", "micros": time.as_micros() as u64 })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "locks": error.code() }))).into_response(),
    }
}

/// Sells one piece. If the client disconnects, axum drops this future and the guard in it, which releases the lock.
async fn take(State(shop): State<Shop>, Path(item): Path<String>) -> Result<Json<Value>, Refusal> {
    let shelf = shop.stock.get(&*item).ok_or(Refusal::Unknown)?;
    let selling = shop.locks.lock(format!("stock/{item}")).timeout(PATIENCE).with(async |guard| {
        let pieces = shelf.enter(guard.token(), |pieces| *pieces)?;
        let left = pieces.checked_sub(1).ok_or(Refusal::SoldOut)?;
        // Stands for the time that a database needs; without the lock, another request could sell the same piece.
        tokio::task::yield_now().await;
        shelf.enter(guard.token(), |pieces| *pieces = left)?;
        Ok(Json(json!({ "item": item, "left": left })))
    });
    selling.await?
}

/// Streams who sells an item, as server-sent events: one for the present state, and one for each change. It ends with the client's
/// connection, and with the service.
async fn sellers(State(shop): State<Shop>, Path(item): Path<String>) -> Result<impl IntoResponse, Refusal> {
    shop.stock.get(&*item).ok_or(Refusal::Unknown)?;
    let states = shop.locks.watch(format!("stock/{item}")).map(|state| match state {
        Ok(info) => Event::default().event("holders").json_data(info.map(|info| info.holders)),
        Err(error) => Event::default().event("unknown").json_data(json!({ "error": error.code() })),
    });
    let mut ending = shop.ending.subscribe();
    let ended = async move { ending.wait_for(|ending| *ending).await.is_ok() };
    Ok(Sse::new(states.take_until(Box::pin(ended))).keep_alive(KeepAlive::default()))
}

/// The reason why nothing was sold.
#[derive(Debug)]
enum Refusal {
    Unknown,
    SoldOut,
    Locked(LockError),
    TooLate,
}

impl From<LockError> for Refusal {
    fn from(error: LockError) -> Self {
        Self::Locked(error)
    }
}

impl From<StaleToken> for Refusal {
    fn from(_: StaleToken) -> Self {
        Self::TooLate
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Unknown => (StatusCode::NOT_FOUND, "UNKNOWN"),
            Self::SoldOut => (StatusCode::CONFLICT, "SOLD_OUT"),
            // Too many customers: this one can retry.
            Self::Locked(error @ LockError::Timeout { .. }) => (StatusCode::TOO_MANY_REQUESTS, error.code()),
            // Lost, closed or unreachable: another instance may succeed.
            Self::Locked(error) => (StatusCode::SERVICE_UNAVAILABLE, error.code()),
            Self::TooLate => (StatusCode::SERVICE_UNAVAILABLE, "STALE_TOKEN"),
        };
        (status, Json(json!({ "error": code }))).into_response()
    }
}
