//! Ports for servers.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex};

/// A port that is free now, below the range that the kernel uses for outgoing connections: a server that is
/// started again on it finds it free. No port is returned twice: two servers that start together would find it free both, and one of
/// them would be taken for the other.
pub fn free_port() -> u16 {
    static RETURNED: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    loop {
        let port = rand::random_range(15_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && RETURNED.lock().unwrap().insert(port) {
            return port;
        }
    }
}
