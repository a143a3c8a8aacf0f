//! Ports for servers.

use std::net::TcpListener;

/// A port that is free now, below the range that the kernel uses for outgoing connections: a server that is
/// started again on it finds it free.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(15_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
