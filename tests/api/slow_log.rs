//! A wait that lasts for long is logged, also while the server is silent.

use std::future::IntoFuture;
use std::time::Duration;

use leasehold::LockManager;
use leasehold::testing::{ManualClock, MemoryStore};
use support::{eventually, in_a_separate_process, logs};

#[test]
fn a_long_wait_is_logged_with_its_holder_and_with_a_silent_server() {
    in_a_separate_process!();
    logs::collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(&clock);
    let build = |name: &str| {
        let builder = LockManager::builder().backend(store.link()).clock(clock.clone()).name(name);
        builder.ttl(Duration::from_secs(3600)).build().wait().unwrap()
    };
    let (holder, waiter) = (build("holder"), build("waiter"));
    let _held = holder.lock("k").wait().unwrap();
    let waiting = runtime.spawn(waiter.lock("k").into_future());
    runtime.block_on(async {
        while waiter.stats().waiting == 0 {
            tokio::task::yield_now().await;
        }
    });
    let line = |words: &'static str| {
        eventually("the line", || {
            clock.advance(Duration::from_secs(1));
            logs::lines().iter().find(|line| line.text.contains(words)).map(|line| line.text.clone())
        })
    };
    assert!(line("waiter: lock \"k\" has been waited for over 60s").contains("held by holder"), "{:?}", logs::lines());
    assert!(line("holder: lock \"k\" held for over 60s").contains("holder"));

    let _other = holder.lock("silent").wait().unwrap();
    let second = runtime.spawn(waiter.lock("silent").into_future());
    runtime.block_on(async {
        while waiter.stats().waiting < 2 {
            tokio::task::yield_now().await;
        }
    });
    store.pause();
    assert!(
        line("waiter: lock \"silent\" has been waited for over 60s").contains("no answer from the server"),
        "{:?}",
        logs::lines()
    );
    store.resume();
    waiting.abort();
    second.abort();
}
