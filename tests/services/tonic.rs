//! A service of tonic, by gRPC: the health checks, which need no code generator.

use std::sync::Arc;

use leasehold::tower::LockLayer;
use leasehold::{FencingToken, LockError, LockManager};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::http::Request as HttpRequest;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// A service whose calls stay until they may end.
#[derive(Clone)]
struct Slow(Arc<Calls>);

struct Calls {
    tokens: std::sync::Mutex<Vec<FencingToken>>,
    entered: Semaphore,
    end: Semaphore,
}

#[tonic::async_trait]
impl Health for Slow {
    type WatchStream = futures::stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let calls = &self.0;
        let token = request.extensions().get::<FencingToken>().ok_or_else(|| Status::internal("no token"))?;
        calls.tokens.lock().unwrap().push(*token);
        calls.entered.add_permits(1);
        calls.end.acquire().await.map_err(|_| Status::cancelled("the end"))?.forget();
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("no watch"))
    }
}

/// Serves under the lock that the metadata name.
async fn start(manager: &LockManager) -> (HealthClient<Channel>, Arc<Calls>) {
    let calls =
        Arc::new(Calls { tokens: std::sync::Mutex::default(), entered: Semaphore::new(0), end: Semaphore::new(0) });
    let manager = manager.clone();
    let locks = LockLayer::new(
        move |request: &HttpRequest<Body>| {
            let account = request.headers().get("account")?.to_str().ok()?;
            Some(manager.lock(format!("account/{account}")))
        },
        |error: LockError| {
            let status = match error {
                LockError::Timeout { .. } => Status::aborted("busy"),
                error => Status::unavailable(error.code()),
            };
            Ok(status.into_http())
        },
    )
    .prepare(|request, guard| {
        request.extensions_mut().insert(guard.token());
    })
    .try_once();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().layer(locks).add_service(HealthServer::new(Slow(calls.clone())));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    (HealthClient::new(channel), calls)
}

async fn check(mut client: HealthClient<Channel>, account: &'static str) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("account", account.parse().unwrap());
    client.check(request).await.map(drop)
}

#[tokio::test]
async fn calls_run_under_the_lock_that_they_name() {
    let manager = LockManager::memory();
    let (client, calls) = start(&manager).await;
    let first = tokio::spawn(check(client.clone(), "7"));
    calls.entered.acquire().await.unwrap().forget();
    let busy = check(client.clone(), "7").await.unwrap_err();
    assert_eq!((busy.code(), busy.message()), (Code::Aborted, "busy"));
    // Another call of the same connection.
    let other = tokio::spawn(check(client.clone(), "8"));
    calls.entered.acquire().await.unwrap().forget();
    calls.end.add_permits(2);
    first.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    // Free again.
    calls.end.add_permits(1);
    check(client, "7").await.unwrap();
    let tokens = calls.tokens.lock().unwrap().clone();
    assert!(tokens.len() == 3 && tokens[0] < tokens[2], "{tokens:?}");
}

#[tokio::test]
async fn a_loss_ends_the_call() {
    let manager = LockManager::memory();
    let (client, calls) = start(&manager).await;
    let asked = tokio::spawn(check(client.clone(), "7"));
    calls.entered.acquire().await.unwrap().forget();
    manager.force_unlock("account/7").await.unwrap();
    let lost = asked.await.unwrap().unwrap_err();
    assert_eq!((lost.code(), lost.message()), (Code::Unavailable, "LOCK_EXPIRED"));
}
