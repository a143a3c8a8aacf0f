//! The layer, around a service of our own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join};
use leasehold::tower::LockLayer;
use leasehold::{FencingToken, LockError, LockManager, Owner};
use support::PATIENCE;
use tokio::sync::Notify;
use tower_layer::Layer;
use tower_service::Service;

/// A request for a key, or for none, with the token that the layer has put there.
#[derive(Debug)]
struct Visit {
    key: Option<&'static str>,
    token: Option<FencingToken>,
}

/// What happens inside.
#[derive(Default)]
struct Log {
    entered: AtomicUsize,
    inside: AtomicUsize,
    most: AtomicUsize,
    /// Lets one leave.
    leave: Notify,
}

/// A service that has to be ready before each call. Its requests stay until they may leave. The answer is their token.
struct House {
    log: Arc<Log>,
    is_ready: bool,
}

struct Inside(Arc<Log>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clone for House {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), is_ready: false }
    }
}

type Answer = Result<Option<FencingToken>, &'static str>;

impl Service<Visit> for House {
    type Response = Option<FencingToken>;
    type Error = &'static str;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, visit: Visit) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without being ready");
        let log = self.log.clone();
        Box::pin(async move {
            log.entered.fetch_add(1, Ordering::SeqCst);
            let inside = log.inside.fetch_add(1, Ordering::SeqCst) + 1;
            log.most.fetch_max(inside, Ordering::SeqCst);
            let _inside = Inside(log.clone());
            log.leave.notified().await;
            if visit.key == Some("a house that is on fire") { Err("on fire") } else { Ok(visit.token) }
        })
    }
}

impl Log {
    fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }
}

fn house() -> (House, Arc<Log>) {
    let log = Arc::<Log>::default();
    (House { log: log.clone(), is_ready: false }, log)
}

/// A layer with a manager's locks. Refusals are the codes of their errors.
fn locks(manager: &LockManager, limit: Duration) -> impl Layer<House, Service: Visited> + use<> {
    let manager = manager.clone();
    LockLayer::new(
        move |visit: &Visit| visit.key.map(|key| manager.lock(key).timeout(limit)),
        |error: LockError| Err(error.code()),
    )
    .prepare(|visit, guard| visit.token = Some(guard.token()))
}

trait Visited: Service<Visit, Response = Option<FencingToken>, Error = &'static str, Future: Unpin> + Clone {
    /// Calls the service once it is ready.
    fn visit(&mut self, key: impl Into<Option<&'static str>>) -> Self::Future {
        assert_eq!(self.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        self.call(Visit { key: key.into(), token: None })
    }
}

impl<S: Service<Visit, Response = Option<FencingToken>, Error = &'static str, Future: Unpin> + Clone> Visited for S {}

/// Polls once.
fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    future.now_or_never()
}

#[tokio::test]
async fn requests_of_one_task_exclude_each_other() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let mut service = locks(&manager, PATIENCE).layer(house);
    let leaving = async {
        while log.entered.load(Ordering::SeqCst) < 2 || log.inside() > 0 {
            log.leave.notify_one();
            tokio::task::yield_now().await;
        }
    };
    // The task would be one owner.
    let both = join(service.visit("k"), service.visit("k"));
    let ((one, other), ()) = join(both, leaving).await;
    assert!(one.unwrap() < other.unwrap(), "the tokens are put there, and grow");
    assert_eq!(log.most.load(Ordering::SeqCst), 1);
    assert!(!manager.is_locked("k").await.unwrap());
}

#[tokio::test]
async fn requests_of_other_keys_and_of_none_are_not_delayed() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let mut service = locks(&manager, PATIENCE).layer(house);
    let (mut one, mut other, mut free) = (service.visit("a"), service.visit("b"), service.visit(None));
    assert!(poll(&mut one).is_none() && poll(&mut other).is_none() && poll(&mut free).is_none());
    assert_eq!(log.inside(), 3);
    log.leave.notify_waiters();
    assert_eq!(poll(&mut free), Some(Ok(None)), "without a token");
    assert!(poll(&mut one).unwrap().unwrap().is_some() && poll(&mut other).unwrap().unwrap().is_some());
}

#[tokio::test]
async fn what_the_service_locks_itself_is_inside() {
    let manager = LockManager::memory();
    let layer = {
        let manager = manager.clone();
        LockLayer::new(move |key: &&'static str| Some(manager.lock(*key)), |error| Err(error.code()))
    };
    #[derive(Clone)]
    struct Nests(LockManager);
    impl Service<&'static str> for Nests {
        type Response = u32;
        type Error = &'static str;
        type Future = BoxFuture<'static, Result<u32, &'static str>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, key: &'static str) -> Self::Future {
            let manager = self.0.clone();
            async move { Ok(manager.lock(key).await.unwrap().depth()) }.boxed()
        }
    }
    assert_eq!(layer.layer(Nests(manager)).call("k").await, Ok(2));
}

#[tokio::test]
async fn a_lock_that_is_not_free_is_a_timeout() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let held = manager.lock("k").owner(&Owner::new()).await.unwrap();
    let mut service = locks(&manager, Duration::from_millis(20)).layer(house.clone());
    assert_eq!(service.visit("k").await, Err("LOCK_TIMEOUT"));

    let trying = {
        let manager = manager.clone();
        LockLayer::new(
            move |visit: &Visit| visit.key.map(|key| manager.lock(key)),
            |error| match error {
                LockError::Timeout { key, after, .. } if key == "k" && after.is_zero() => Err("busy"),
                error => Err(error.code()),
            },
        )
    };
    let mut service = trying.try_once().layer(house);
    assert_eq!(service.visit("k").await, Err("busy"));
    drop(held);
    let mut visit = service.visit("k");
    assert!(poll(&mut visit).is_none());
    assert_eq!(log.inside(), 1);
}

#[tokio::test]
async fn a_loss_drops_the_work_and_is_answered() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let mut visit = locks(&manager, PATIENCE).layer(house).visit("k");
    assert!(poll(&mut visit).is_none());
    assert_eq!(log.inside(), 1);
    manager.force_unlock("k").await.unwrap();
    assert_eq!(visit.await, Err("LOCK_EXPIRED"));
    assert_eq!(log.inside(), 0, "dropped");
}

#[tokio::test]
async fn other_errors_are_answered_too() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let mut service = locks(&manager, PATIENCE).layer(house);
    assert_eq!(service.visit("").await, Err("INVALID_KEY"));
    let mut visit = service.visit("a house that is on fire");
    assert!(poll(&mut visit).is_none());
    log.leave.notify_one();
    assert_eq!(visit.await, Err("on fire"), "the service's own");
    assert!(!manager.is_locked("a house that is on fire").await.unwrap());
    manager.close().await.unwrap();
    assert_eq!(service.visit("k").await, Err("CLOSED"));
}

#[tokio::test]
async fn a_response_that_is_dropped_leaves_nothing_behind() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let mut service = locks(&manager, PATIENCE).layer(house);
    let (mut running, mut waiting, unpolled) = (service.visit("k"), service.visit("k"), service.visit("k"));
    assert!(poll(&mut running).is_none() && poll(&mut waiting).is_none());
    drop((waiting, unpolled));
    assert_eq!(manager.info("k").await.unwrap().unwrap().waiters, 0);
    drop(running);
    assert_eq!(log.inside(), 0);
    let mut next = service.visit("k");
    assert!(poll(&mut next).is_none());
    assert_eq!(log.inside(), 1, "it was released");
}

#[tokio::test]
async fn a_request_has_several_keys() {
    let (manager, (house, log)) = (LockManager::memory(), house());
    let layer = {
        let manager = manager.clone();
        LockLayer::new(move |_: &Visit| Some(manager.lock_all(["from", "to"])), |error| Err(error.code()))
            .prepare(|visit: &mut Visit, guards| visit.token = guards.first().map(|guard| guard.token()))
    };
    let mut visit = layer.layer(house).visit(None);
    assert!(poll(&mut visit).is_none());
    assert!(manager.is_locked("from").await.unwrap() && manager.is_locked("to").await.unwrap());
    log.leave.notify_one();
    assert!(visit.await.unwrap().is_some());
    assert!(!manager.is_locked("to").await.unwrap());
}
