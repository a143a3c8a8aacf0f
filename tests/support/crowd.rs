//! Clients that contend for one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use leasehold::{LockManager, Owner};

use super::history::History;
use super::{PATIENCE, child, eventually};

/// Managers that lock the same key repeatedly, each on its own thread.
pub struct Crowd {
    turns: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts the clients. Their holds are recorded in the history.
    pub fn start(history: &History, managers: impl IntoIterator<Item = LockManager>) -> Self {
        let (turns, enough) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let clients = managers.into_iter().map(|manager| {
            let (history, turns, enough) = (history.clone(), turns.clone(), enough.clone());
            std::thread::spawn(move || {
                while !enough.load(Ordering::SeqCst) {
                    let guard = manager.lock("k").wait().unwrap();
                    let hold = history.acquired(&guard);
                    turns.fetch_add(1, Ordering::SeqCst);
                    // Checks the hold for a moment.
                    for _ in 0..5 {
                        std::thread::sleep(Duration::from_millis(1));
                        if hold.is_lost(&guard) {
                            break;
                        }
                    }
                    hold.released();
                    drop(guard);
                }
                manager.close().wait().unwrap();
            })
        });
        let clients = clients.collect();
        Self { turns, enough, clients }
    }

    /// Measures the time until the next acquire of any client.
    pub fn progress(&self) -> Duration {
        let (start, turns) = (Instant::now(), self.turns.load(Ordering::SeqCst));
        eventually("progress", || (self.turns.load(Ordering::SeqCst) > turns).then_some(()));
        start.elapsed()
    }

    /// Ends the clients, each after its hold. Returns the number of holds.
    pub fn finish(self) -> usize {
        self.enough.store(true, Ordering::SeqCst);
        for client in self.clients {
            eventually("each client has had its turn", || client.is_finished().then_some(()));
            client.join().unwrap();
        }
        self.turns.load(Ordering::SeqCst)
    }
}

/// In a child: says "ready", and locks `crowd` on several threads between the next two lines of its parent. Each hold is recorded in
/// the history; a random pause of up to `pause` follows it.
pub fn lock_repeatedly(manager: &LockManager, history: &History, threads: usize, hold: Duration, pause: Duration) {
    child::say("ready");
    child::hear();
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stopped.load(Ordering::SeqCst) {
                    let guard = manager.lock("crowd").owner(&Owner::new()).timeout(PATIENCE).wait().unwrap();
                    let held = history.acquired(&guard);
                    std::thread::sleep(hold);
                    assert!(!held.is_lost(&guard));
                    held.released();
                    drop(guard);
                    std::thread::sleep(pause.mul_f64(rand::random()));
                }
            });
        }
        child::hear();
        stopped.store(true, Ordering::SeqCst);
    });
    manager.close().wait().unwrap();
}
