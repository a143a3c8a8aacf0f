//! The service, by HTTP, on ports that are free.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leasehold::{Config, FenceGate, LockManager};
use leasehold_web::{PATIENCE, Settings, Shop, Stock};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// An instance of the service.
struct Instance {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Instance {
    async fn start(locks: Option<Config>, stock: &Arc<Stock>) -> Self {
        let shop = Shop::open(locks, stock.clone()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let ended = async {
                let _ = ended.await;
            };
            shop.serve(listener, ended).await.unwrap();
        });
        Self { address, end, serving }
    }

    async fn stop(self) {
        self.end.send(()).unwrap();
        self.serving.await.unwrap();
    }
}

fn stock(apples: u32) -> Arc<Stock> {
    Arc::new(Stock::from([("apples", FenceGate::new(apples))]))
}

fn store(name: &str) -> Option<Config> {
    Some(Config { store: Some(name.into()), ..Config::default() })
}

/// The status and the body of an answer.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn take(address: SocketAddr) -> (u16, String) {
    ask(address, "POST", "/stock/apples/take").await
}

/// Waits until `count` requests wait for the apples.
async fn waiters(manager: &LockManager, count: usize) {
    let looking = async {
        while manager.info("stock/apples").await.unwrap().map_or(0, |info| info.waiters) != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.unwrap();
}

#[tokio::test]
async fn two_instances_sell_each_piece_once() {
    let stock = stock(30);
    let instances = [Instance::start(store("sell"), &stock).await, Instance::start(store("sell"), &stock).await];
    let customers: Vec<_> = (0..40).map(|number| tokio::spawn(take(instances[number % 2].address))).collect();
    let mut sold = 0;
    for customer in customers {
        match customer.await.unwrap() {
            (200, _) => sold += 1,
            (409, body) => assert_eq!(body, r#"{"error":"SOLD_OUT"}"#),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sold, 30);
    for instance in instances {
        instance.stop().await;
    }
}

#[tokio::test]
async fn without_a_section_the_locks_are_in_memory() {
    let settings: Settings = serde_json::from_str(r#"{ "listen": "127.0.0.1:0" }"#).unwrap();
    assert_eq!(settings.locks, None);
    let instance = Instance::start(settings.locks, &stock(1)).await;
    let (status, body) = ask(instance.address, "GET", "/health").await;
    assert_eq!((status, body.contains("up")), (200, true), "{body}");
    assert_eq!(take(instance.address).await, (200, r#"{"item":"apples","left":0}"#.into()));
    assert_eq!(ask(instance.address, "POST", "/stock/plums/take").await.0, 404);
    instance.stop().await;
}

#[tokio::test]
async fn who_waits_for_too_long_is_told_so() {
    let instance = Instance::start(store("wait"), &stock(1)).await;
    let other = LockManager::connect("memory://wait").await.unwrap();
    let guard = other.lock("stock/apples").await.unwrap();
    assert_eq!(take(instance.address).await, (429, r#"{"error":"LOCK_TIMEOUT"}"#.into()));
    guard.unlock().await.unwrap();
    assert_eq!(take(instance.address).await.0, 200);
    instance.stop().await;
}

#[tokio::test]
async fn a_customer_who_goes_away_leaves_no_lock_behind() {
    let instance = Instance::start(store("away"), &stock(1)).await;
    let other = LockManager::connect("memory://away").await.unwrap();
    let guard = other.lock("stock/apples").await.unwrap();
    let waiting = tokio::spawn(take(instance.address));
    waiters(&other, 1).await;
    let start = Instant::now();
    waiting.abort();
    waiters(&other, 0).await;
    assert!(start.elapsed() < PATIENCE, "before a customer's patience has ended");
    drop(guard);
    instance.stop().await;
}

#[tokio::test]
async fn sellers_are_streamed_until_the_service_ends() {
    let instance = Instance::start(store("stream"), &stock(1)).await;
    let other = LockManager::connect("memory://stream").await.unwrap();
    let stream = TcpStream::connect(instance.address).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    writer.write_all(b"GET /stock/apples/watch HTTP/1.1\r\nHost: shop\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(reader).lines();
    let mut next = async || loop {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap();
        match line {
            Some(line) if line.starts_with("data:") => return Some(line),
            Some(_) => {}
            None => return None,
        }
    };
    assert_eq!(next().await.unwrap(), "data: null");
    let guard = other.lock("stock/apples").await.unwrap();
    let held = next().await.unwrap();
    assert!(held.contains(&format!("\"pid\":{}", std::process::id())), "{held}");
    guard.unlock().await.unwrap();
    assert_eq!(next().await.unwrap(), "data: null");
    instance.stop().await;
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn the_end_of_the_service_is_the_end_of_its_manager() {
    let shop = Shop::open(store("end"), stock(1)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // A second copy continues to serve: its manager is the same, and is closed with the first.
    let (copy, beside) = (shop.clone(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let copy_address = beside.local_addr().unwrap();
    tokio::spawn(async move { copy.serve(beside, std::future::pending()).await });
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let ended = async {
            let _ = ended.await;
        };
        shop.serve(listener, ended).await.is_ok()
    });
    assert_eq!(ask(address, "GET", "/health").await.0, 200);
    end.send(()).unwrap();
    assert!(serving.await.unwrap());
    assert_eq!(ask(copy_address, "GET", "/health").await, (503, r#"{"locks":"CLOSED"}"#.into()));
    assert_eq!(take(copy_address).await, (503, r#"{"error":"CLOSED"}"#.into()));
}

#[test]
fn the_file_is_read() {
    let settings = Settings::load(concat!(env!("CARGO_MANIFEST_DIR"), "/config.yaml")).unwrap();
    let locks = settings.locks.unwrap();
    assert_eq!((&*locks.backend, locks.ttl), ("memory", Duration::from_secs(10)));
}
