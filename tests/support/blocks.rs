//! A waker that blocks, against its contract.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

/// Makes a waker that blocks the thread that calls it, until the sender is dropped.
pub fn blocks() -> (Waker, Sender<()>) {
    let (end, blocked) = channel();
    (Waker::from(Arc::new(Blocks(Mutex::new(blocked)))), end)
}

struct Blocks(Mutex<Receiver<()>>);

impl Wake for Blocks {
    fn wake(self: Arc<Self>) {
        let _ = self.0.lock().unwrap().recv();
    }
}
