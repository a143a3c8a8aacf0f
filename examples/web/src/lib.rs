//! A shop that sells what it has, and no more, whichever of its instances is asked.
//!
//! The manager is in the state that all handlers share, a request holds a lock for as long as it needs, and the end of the service
//! is the end of the manager.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use leasehold::{Config, FenceGate, LockError, LockManager, StaleToken};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// How long a customer waits for those before.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What the file and the environment say. A word that is unknown is an error: with `lock:` for `locks:`, the instances of the
/// service would know nothing of each other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the locks are. One instance alone needs no server for them.
    pub locks: Option<Config>,
}

impl Settings {
    /// Reads the file, and over it the environment: `SHOP_LISTEN`, `SHOP_LOCKS__TTL` and so on.
    pub fn load(file: &str) -> Result<Self, config::ConfigError> {
        let environment = config::Environment::with_prefix("SHOP").prefix_separator("_").separator("__");
        let sources = config::Config::builder().add_source(config::File::with_name(file)).add_source(environment);
        sources.build()?.try_deserialize()
    }
}

/// Stands for the database that all instances share. Each row refuses who comes too late.
pub type Stock = HashMap<&'static str, FenceGate<u32>>;

/// What all handlers share.
#[derive(Clone, Debug)]
pub struct Shop {
    locks: LockManager,
    stock: Arc<Stock>,
}

impl Shop {
    /// Connects to where the locks are.
    pub async fn open(locks: Option<Config>, stock: Arc<Stock>) -> leasehold::Result<Self> {
        let locks = match locks {
            Some(config) => LockManager::from_config(config).await?,
            // Nothing to connect to. The requests of this one instance exclude each other all the same.
            None => LockManager::memory(),
        };
        Ok(Self { locks, stock })
    }

    /// Serves until `end`, lets the requests under way finish, and closes the manager.
    pub async fn serve(
        self,
        listener: TcpListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let locks = self.locks.clone();
        let routes = Router::new().route("/health", get(health)).route("/stock/{item}/take", post(take));
        axum::serve(listener, routes.with_state(self)).with_graceful_shutdown(end).await?;
        // Whatever is still held is given back now, and not after its TTL.
        Ok(locks.close().await?)
    }
}

/// For the load balancer: an instance that cannot reach its locks gets no requests.
async fn health(State(shop): State<Shop>) -> Response {
    match shop.locks.ping().await {
        Ok(time) => Json(json!({ "locks": "up", "micros": time.as_micros() as u64 })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "locks": error.code() }))).into_response(),
    }
}

/// Sells one piece. A customer who goes away in the middle takes the lock with him: axum drops this future, and so the guard.
async fn take(State(shop): State<Shop>, Path(item): Path<String>) -> Result<Json<Value>, Refusal> {
    let shelf = shop.stock.get(&*item).ok_or(Refusal::Unknown)?;
    let selling = shop.locks.lock(format!("stock/{item}")).timeout(PATIENCE).with(async |guard| {
        let pieces = shelf.enter(guard.token(), |pieces| *pieces)?;
        let left = pieces.checked_sub(1).ok_or(Refusal::SoldOut)?;
        // A database would take its time here, and without the lock another could sell the same piece.
        tokio::task::yield_now().await;
        shelf.enter(guard.token(), |pieces| *pieces = left)?;
        Ok(Json(json!({ "item": item, "left": left })))
    });
    selling.await?
}

/// Why nothing was sold.
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
            // Others are in the way: the customer may try again.
            Self::Locked(error @ LockError::Timeout { .. }) => (StatusCode::TOO_MANY_REQUESTS, error.code()),
            // Lost, closed or unreachable: another instance may do better.
            Self::Locked(error) => (StatusCode::SERVICE_UNAVAILABLE, error.code()),
            Self::TooLate => (StatusCode::SERVICE_UNAVAILABLE, "STALE_TOKEN"),
        };
        (status, Json(json!({ "error": code }))).into_response()
    }
}
