//! Shared holds exclude exclusive ones only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::support::{A_WHILE, SOON, done, has_waiters, is_busy, is_free, key, queue_up, soon, stranger, within};
use crate::{LockManager, LockRequest, Mode};

async fn is_granted(request: LockRequest) -> bool {
    stranger(request).try_once().await.expect("the server answers").is_some()
}

/// Shared tries do not refuse each other while the first one is in flight.
pub async fn tries_to_share_get_in_together(a: LockManager, b: LockManager) {
    let key = key("tries");
    let tries = |manager: &LockManager| -> Vec<_> {
        (0..5).map(|_| tokio::spawn(manager.lock(&key).shared().try_once())).collect()
    };
    let mut guards = Vec::new();
    for tried in tries(&a) {
        guards.push(done(tried).await.expect("the server answers").expect("no writer"));
    }
    drop(guards);
    let writer = soon(b.lock(&key)).await;
    for tried in tries(&a) {
        assert!(done(tried).await.expect("the server answers").is_none());
    }
    drop(writer);
}

/// Any number of holders of both managers share a key, but not with an exclusive holder.
pub async fn readers_hold_together_and_writers_alone(a: LockManager, b: LockManager) {
    let key = key("readers");
    let mut readers = Vec::new();
    for manager in [&a, &b, &a, &b] {
        let reader = soon(stranger(manager.lock(&key).shared())).await;
        assert_eq!((reader.mode(), reader.depth()), (Mode::Shared, 1));
        readers.push(reader);
        assert!(is_busy(&a, &key).await && is_busy(&b, &key).await, "no writer now");
    }
    readers.truncate(1);
    assert!(is_busy(&b, &key).await, "one reader is enough");
    readers.clear();
    let writer = soon(b.lock(&key)).await;
    assert_eq!(writer.mode(), Mode::Exclusive);
    assert!(!is_granted(a.lock(&key).shared()).await && !is_granted(b.lock(&key).shared()).await);
    drop(writer);
    is_free(&a, &key).await;
}

/// Otherwise the writer might wait for ever; within a process.
pub async fn a_reader_waits_behind_a_waiting_writer(a: LockManager, _: LockManager) {
    let key = key("behind-a-writer");
    let reader = soon(a.lock(&key).shared()).await;
    let writer = queue_up(stranger(a.lock(&key)));
    assert!(!is_granted(a.lock(&key).shared()).await);
    let next = queue_up(stranger(a.lock(&key).shared()));
    drop(reader);
    let writer = within(SOON, "the writer", writer).await.expect("granted");
    assert!(!is_granted(a.lock(&key).shared()).await);
    drop(writer);
    drop(within(SOON, "the reader", next).await.expect("granted"));
}

/// The same between managers: reader, waiting writer and new readers are of both.
pub async fn a_reader_elsewhere_waits_behind_a_waiting_writer(a: LockManager, b: LockManager) {
    let key = key("behind-a-writer-elsewhere");
    let reader = soon(a.lock(&key).shared()).await;
    let writer = tokio::spawn(b.lock(&key).into_future());
    has_waiters(&a, &key, 1).await;
    assert!(!is_granted(b.lock(&key).shared()).await, "the writer of the same manager waits");
    // This process may still let its own readers share its grant for a moment.
    sleep(A_WHILE).await;
    assert!(!is_granted(a.lock(&key).shared()).await, "the writer of another manager waits");
    let next = tokio::spawn(stranger(a.lock(&key).shared()).into_future());
    sleep(A_WHILE).await;
    assert!(!writer.is_finished() && !next.is_finished());
    drop(reader);
    let writer = done(writer).await.expect("granted");
    sleep(A_WHILE).await;
    assert!(!next.is_finished(), "the writer is alone");
    drop(writer);
    drop(done(next).await.expect("granted"));
}

/// All readers behind a writer are admitted together.
pub async fn readers_wake_together(a: LockManager, b: LockManager) {
    let key = key("wake-together");
    let writer = soon(a.lock(&key)).await;
    let all_in = Arc::new(tokio::sync::Barrier::new(6));
    let readers: Vec<_> = (0..6)
        .map(|n| {
            let (manager, key, all_in) = (if n % 2 == 0 { a.clone() } else { b.clone() }, key.clone(), all_in.clone());
            tokio::spawn(async move {
                let _guard = manager.lock(&key).shared().await.expect("granted");
                within(SOON, "all readers hold it at the same time", all_in.wait()).await;
            })
        })
        .collect();
    sleep(A_WHILE).await;
    drop(writer);
    for reader in readers {
        done(reader).await;
    }
    is_free(&a, &key).await;
}

/// Readers of both managers overlap without a gap, and a writer of each is admitted.
pub async fn a_writer_is_not_starved(a: LockManager, b: LockManager) {
    let key = key("starving");
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..6)
        .map(|n| {
            let (manager, key, stop) = (if n % 2 == 0 { a.clone() } else { b.clone() }, key.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let _guard = manager.lock(&key).shared().await.expect("granted");
                    sleep(Duration::from_millis(5 + n)).await;
                }
            })
        })
        .collect();
    sleep(A_WHILE).await;
    for manager in [&a, &b, &a] {
        let writer = soon(manager.lock(&key)).await;
        assert_eq!(writer.mode(), Mode::Exclusive);
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        done(reader).await;
    }
    is_free(&a, &key).await;
}
