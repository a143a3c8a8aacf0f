//! A wait that lasts for long is logged, also while the server is silent.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "how a test fails")]

mod support;

use std::future::IntoFuture;
use std::sync::Mutex;
use std::time::Duration;

use leasehold::LockManager;
use leasehold::testing::{ManualClock, MemoryStore};
use log::{Log, Metadata, Record};
use support::eventually;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }
    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            LINES.lock().unwrap().push(record.args().to_string());
        }
    }
    fn flush(&self) {}
}

#[test]
fn a_long_wait_is_logged_with_its_holder_and_with_a_silent_server() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
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
            LINES.lock().unwrap().iter().find(|line| line.contains(words)).cloned()
        })
    };
    assert!(line("waiter: lock \"k\" has been waited for over 60s").contains("held by holder"), "{LINES:?}");
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
        "{LINES:?}"
    );
    store.resume();
    waiting.abort();
    second.abort();
}
