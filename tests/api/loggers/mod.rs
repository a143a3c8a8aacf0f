//! The output of two loggers for a lock, with their default settings.

mod env_logger;
mod tracing;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::LockManager;

/// The output of a logger.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Printed {
    /// Waits for a line of this level that contains all of these words.
    fn expect(&self, level: &str, words: &str) {
        let start = Instant::now();
        loop {
            let printed = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
            if printed.lines().any(|line| line.contains(level) && line.contains(words)) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no {level} line with {words:?} in:\n{printed}");
            std::thread::yield_now();
        }
    }
}

/// Locks, unlocks and loses a lock; the text must contain key, manager and token.
fn a_life(printed: &Printed) {
    let connect = |name: &str| LockManager::builder().url("memory://loggers").name(name).build().wait().unwrap();
    let (manager, admin) = (connect("user-service.dlock"), connect("admin"));
    let guard = manager.lock("orders/42").wait().unwrap();
    printed.expect("INFO", "user-service.dlock: session ");
    printed.expect("DEBUG", &format!("user-service.dlock: lock \"orders/42\" acquired (token {})", guard.token()));
    let token = guard.token();
    guard.unlock().wait().unwrap();
    printed.expect("DEBUG", &format!("user-service.dlock: lock \"orders/42\" released (token {token})"));
    let guard = manager.lock("orders/42").wait().unwrap();
    admin.force_unlock("orders/42").wait().unwrap();
    futures::executor::block_on(guard.lost());
    printed.expect("WARN", "admin: lock \"orders/42\" force-unlocked: ");
    printed.expect("WARN", &format!("user-service.dlock: lock \"orders/42\" lost (token {}): revoked", guard.token()));
}
