//! A layer for [tower] services, such as those of axum and tonic, that runs each request under a lock.
//!
//! [`LockLayer`] is made of functions: which lock a request needs, what the answer is where it has none or loses it, and where its
//! fencing token goes.
//!
//! ```
//! # leasehold::doctest(async {
//! use std::time::Duration;
//!
//! use leasehold::tower::LockLayer;
//! use leasehold::{FencingToken, LockError, LockManager};
//! use tower_layer::Layer;
//! use tower_service::Service;
//!
//! struct Order {
//!     account: String,
//!     token: Option<FencingToken>,
//! }
//! # struct Pay(Option<FencingToken>);
//! # #[derive(Clone)]
//! # struct Payments;
//! # impl Service<Order> for Payments {
//! #     type Response = &'static str;
//! #     type Error = LockError;
//! #     type Future = std::future::Ready<Result<&'static str, LockError>>;
//! #     fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), LockError>> {
//! #         std::task::Poll::Ready(Ok(()))
//! #     }
//! #     fn call(&mut self, order: Order) -> Self::Future {
//! #         assert!(order.token.is_some());
//! #         std::future::ready(Ok("paid"))
//! #     }
//! # }
//! let manager = LockManager::memory();
//! let locks = LockLayer::new(
//!     move |order: &Order| Some(manager.lock(format!("account/{}", order.account)).timeout(Duration::from_secs(5))),
//!     |error| match error {
//!         LockError::Timeout { .. } => Ok("busy: try again later"),
//!         LockError::Expired { .. } => Ok("interrupted: see whether it was paid"),
//!         error => Err(error), // the backend's, as the error of the service
//!     },
//! )
//! .prepare(|order, guard| order.token = Some(guard.token()));
//! let mut payments = locks.layer(Payments);
//! assert_eq!(payments.call(Order { account: "7".into(), token: None }).await?, "paid");
//! # Ok(()) });
//! ```
//!
//! [tower]: https://docs.rs/tower

mod future;
mod layer;
mod service;

pub use self::future::LockFuture;
pub use self::layer::LockLayer;
pub use self::service::LockService;
