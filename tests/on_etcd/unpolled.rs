//! Futures that are polled once and then neither polled nor dropped: they block no other call.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::future::join_all;
use leasehold::{LockGuard, LockManager};
use support::PATIENCE;
use support::etcd::Etcd;
use tokio::sync::{mpsc, oneshot};

/// The limit for an operation on another key. The best of a few tries counts, because the machine is busy.
const SOON: Duration = Duration::from_millis(100);

type Left = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn manager(url: &str, prefix: &str) -> LockManager {
    LockManager::builder().url(url).prefix(prefix).ttl(PATIENCE).build().await.unwrap()
}

/// Polls a call once.
fn left(call: impl Future<Output = impl Send> + Send + 'static) -> Left {
    let mut call: Left = Box::pin(async move { drop(call.await) });
    let _ = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    call
}

/// Each kind of call, on separate keys, polled once.
async fn kinds(manager: &LockManager, number: usize) -> Vec<Left> {
    let key = |kind: &str| format!("{kind}{number}");
    let held: LockGuard = manager.lock(key("unlock")).await.unwrap();
    let renewed = manager.lock(key("renew")).await.unwrap();
    let handle = manager.handle(key("renew")).unwrap();
    let all = vec![
        left({
            let manager = manager.clone();
            let key = key("lock");
            async move { manager.lock(key).await }
        }),
        left(manager.try_lock(key("try_lock"))),
        left(held.unlock()),
        left(manager.info(key("renew"))),
        left(manager.list("")),
        left({
            let manager = manager.clone();
            async move { manager.ping().await }
        }),
        left(handle.renew()),
        left({
            let manager = manager.clone();
            let key = key("force");
            async move { manager.force_unlock(key).await }
        }),
    ];
    std::mem::forget(renewed);
    all
}

/// Asserts that a release and a lock of other keys complete soon.
async fn other_keys_work(manager: &LockManager, what: &str) {
    let mut best = Duration::MAX;
    for number in 0..40 {
        let began = Instant::now();
        let pair = async {
            let guard = manager.lock(format!("other{number}")).await.unwrap();
            guard.unlock().await.unwrap();
            let guard = manager.try_lock(format!("other{number}")).await.unwrap().unwrap();
            drop(guard);
        };
        tokio::time::timeout(PATIENCE / 4, pair).await.unwrap_or_else(|_| panic!("{what} stop the others"));
        best = best.min(began.elapsed());
        if best < SOON {
            break;
        }
    }
    println!("beside {what}: {best:?}");
    assert!(best < SOON, "beside {what}: {best:?}");
}

#[tokio::test]
async fn six_unpolled_calls_block_no_other() {
    let etcd = Etcd::shared();
    let manager = manager(&etcd.url(), "six/").await;
    drop(manager.lock("first").await.unwrap());
    for kind in 0..kinds(&manager, 0).await.len() {
        let mut alone = Vec::new();
        for number in 1..=6 {
            alone.push(kinds(&manager, number + 10 * (kind + 1)).await.remove(kind));
        }
        other_keys_work(&manager, &format!("six of kind {kind}")).await;
    }
}

#[tokio::test]
async fn two_hundred_unpolled_calls_block_no_other() {
    let etcd = Etcd::shared();
    let manager = manager(&etcd.url(), "many/").await;
    // Large answers to `list`, which are not read.
    let keys = (0..1000).map(|number| manager.lock(format!("held{number:04}{}", "x".repeat(200))).into_future());
    let held: Vec<_> = join_all(keys).await.into_iter().map(Result::unwrap).collect();
    let mut alone = Vec::new();
    for number in 0..25 {
        alone.extend(kinds(&manager, number).await);
    }
    assert_eq!(alone.len(), 200);
    other_keys_work(&manager, "two hundred calls").await;
    drop((alone, held));
}

#[tokio::test]
async fn three_tasks_that_lock_for_each_other_make_progress() {
    let etcd = Etcd::shared();
    let manager = manager(&etcd.url(), "three/").await;
    drop(manager.lock("first").await.unwrap());
    let channels: Vec<_> = (0..3).map(|_| mpsc::channel::<oneshot::Sender<()>>(1)).collect();
    let senders: Vec<_> = channels.iter().map(|(sender, _)| sender.clone()).collect();
    let tasks = channels.into_iter().enumerate().map(|(number, (_, mut messages))| {
        let (manager, next) = (manager.clone(), senders[(number + 1) % 3].clone());
        tokio::spawn(async move {
            let asking = tokio::spawn(async move {
                for _ in 0..50 {
                    let (done, answer) = oneshot::channel();
                    next.send(done).await.unwrap();
                    answer.await.unwrap();
                }
            });
            for round in 0..50 {
                let mut request = manager.lock(format!("own{number}-{round}")).into_future();
                tokio::select! {
                    biased;
                    guard = &mut request => drop(guard.unwrap()),
                    Some(done) = messages.recv() => {
                        // The other request is neither polled nor dropped meanwhile.
                        let guard = manager.lock(format!("message{number}-{round}")).await.unwrap();
                        guard.unlock().await.unwrap();
                        done.send(()).unwrap();
                        drop(request.await.unwrap());
                    }
                }
            }
            while let Some(done) = if asking.is_finished() { messages.try_recv().ok() } else { messages.recv().await } {
                done.send(()).unwrap();
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    drop(senders);
    tokio::time::timeout(PATIENCE, join_all(tasks))
        .await
        .expect("they block each other")
        .into_iter()
        .for_each(|task| task.unwrap());
}

#[tokio::test]
async fn an_unpolled_lock_delays_no_release_of_its_key() {
    let etcd = Etcd::shared();
    let manager = manager(&etcd.url(), "carried/").await;
    // Each is sent with the release of the guard before, and is not polled again.
    for round in 0..20 {
        let key = format!("k{round}");
        let guard = manager.lock(&key).await.unwrap();
        let mut unlocking = Box::pin(guard.unlock().into_future());
        let polled = unlocking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let alone = left({
            let manager = manager.clone();
            async move { manager.lock(key).await }
        });
        match polled {
            Poll::Ready(unlocked) => unlocked.unwrap(),
            Poll::Pending => {
                tokio::time::timeout(PATIENCE / 4, unlocking).await.expect("the release waits for the lock").unwrap();
            }
        }
        drop(alone);
    }
}

#[tokio::test]
async fn an_unpolled_connect_blocks_no_other() {
    let etcd = Etcd::start();
    let url = etcd.url();
    let _alone = left(LockManager::builder().url(&url).prefix("connect/").build());
    let other = tokio::time::timeout(PATIENCE / 4, manager(&url, "connect/")).await.expect("it waits for the first");
    other_keys_work(&other, "a connect").await;
}
