//! A service of axum, by HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Extension, Request};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, serve};
use leasehold::tower::LockLayer;
use leasehold::{FencingToken, LockError, LockManager};
use support::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What happens in the handlers.
#[derive(Debug)]
struct Office {
    inside: AtomicUsize,
    most: AtomicUsize,
    /// One permit lets one handler end.
    end: Semaphore,
}

struct Inside(Arc<Office>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn work(Extension(office): Extension<Arc<Office>>, token: Option<Extension<FencingToken>>) -> String {
    let inside = office.inside.fetch_add(1, Ordering::SeqCst) + 1;
    office.most.fetch_max(inside, Ordering::SeqCst);
    let _inside = Inside(office.clone());
    office.end.acquire().await.unwrap().forget();
    token.map_or_else(|| "none".to_owned(), |Extension(token)| token.to_string())
}

fn refused(error: LockError) -> Response {
    let status = match error {
        LockError::Timeout { .. } => StatusCode::CONFLICT,
        LockError::Expired { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.code()).into_response()
}

/// Serves `/accounts/{id}`, each under its lock, but for `GET`.
async fn start(manager: &LockManager) -> (SocketAddr, Arc<Office>) {
    let office = Arc::new(Office { inside: AtomicUsize::new(0), most: AtomicUsize::new(0), end: Semaphore::new(0) });
    let locked = manager.clone();
    let locks = LockLayer::new(
        move |request: &Request| {
            let is_safe = request.method() == Method::GET;
            (!is_safe).then(|| locked.lock(request.uri().path()).timeout(Duration::from_secs(1)))
        },
        |error| Ok(refused(error)),
    )
    .prepare(|request, guard| {
        request.extensions_mut().insert(guard.token());
    });
    let routes =
        Router::new().route("/accounts/{id}", get(work).post(work)).layer(locks).layer(Extension(office.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { serve(listener, routes).await });
    (address, office)
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn until(what: &str, mut probe: impl AsyncFnMut() -> bool) {
    let probing = async {
        while !probe().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, probing).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn requests_of_one_account_run_one_after_another() {
    let manager = LockManager::memory();
    let (address, office) = start(&manager).await;
    office.end.add_permits(8);
    let asked: Vec<_> = (0..8).map(|_| tokio::spawn(ask(address, "POST", "/accounts/7"))).collect();
    let mut tokens = Vec::new();
    for asked in asked {
        let (status, token) = asked.await.unwrap();
        assert_eq!(status, 200, "{token}");
        tokens.push(token.parse::<u64>().unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!((tokens.len(), office.most.load(Ordering::SeqCst)), (8, 1));
}

#[tokio::test]
async fn others_go_on_and_a_busy_account_is_refused() {
    let manager = LockManager::memory();
    let (address, office) = start(&manager).await;
    let first = tokio::spawn(ask(address, "POST", "/accounts/7"));
    until("the first is inside", async || office.inside.load(Ordering::SeqCst) == 1).await;
    assert_eq!(ask(address, "POST", "/accounts/7").await, (409, "LOCK_TIMEOUT".to_owned()));
    let (other, read) = (ask(address, "POST", "/accounts/8"), ask(address, "GET", "/accounts/7"));
    let (other, read) = (tokio::spawn(other), tokio::spawn(read));
    until("all are inside", async || office.inside.load(Ordering::SeqCst) == 3).await;
    office.end.add_permits(3);
    assert_eq!((first.await.unwrap().0, other.await.unwrap().0), (200, 200));
    assert_eq!(read.await.unwrap(), (200, "none".to_owned()), "it needs no lock");
}

#[tokio::test]
async fn a_loss_ends_the_handler() {
    let manager = LockManager::memory();
    let (address, office) = start(&manager).await;
    let asked = tokio::spawn(ask(address, "POST", "/accounts/7"));
    until("it is inside", async || office.inside.load(Ordering::SeqCst) == 1).await;
    manager.force_unlock("/accounts/7").await.unwrap();
    assert_eq!(asked.await.unwrap(), (503, "LOCK_EXPIRED".to_owned()));
    assert_eq!(office.inside.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_leaves_releases_the_lock() {
    let manager = LockManager::memory();
    let (address, office) = start(&manager).await;
    let leaving = tokio::spawn(ask(address, "POST", "/accounts/7"));
    until("it is inside", async || office.inside.load(Ordering::SeqCst) == 1).await;
    leaving.abort();
    until("it is free", async || !manager.is_locked("/accounts/7").await.unwrap()).await;
    assert_eq!(office.inside.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn other_errors_are_the_services() {
    let manager = LockManager::memory();
    let (address, _office) = start(&manager).await;
    manager.close().await.unwrap();
    assert_eq!(ask(address, "POST", "/accounts/7").await, (500, "CLOSED".to_owned()));
}
