//! The quota of a member's database, of which etcd tells clients before version 3.6 only in its metrics.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The metric, in bytes.
const QUOTA: &str = "etcd_server_quota_backend_bytes ";

/// The most that is read of an answer.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Asks an endpoint without TLS. `None` if it does not say.
pub(super) async fn quota(endpoint: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(endpoint).await.ok()?;
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await.ok()?;
    read(&String::from_utf8_lossy(&answer))
}

fn read(metrics: &str) -> Option<u64> {
    let text = metrics.lines().find_map(|line| line.strip_prefix(QUOTA))?;
    let bytes = text.trim().parse::<f64>().ok().filter(|bytes| (1.0..1e18).contains(bytes))?;
    Some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_is_read_and_nothing_else() {
        let of = |value: &str| read(&format!("HTTP/1.0 200 OK\r\n\r\n# TYPE {QUOTA}gauge\n{QUOTA}{value}\nother 1\n"));
        assert_eq!(of("2.147483648e+09"), Some(2 << 30));
        assert_eq!(of("500000"), Some(500_000));
        for odd in ["-1", "0", "NaN", "+Inf", "1e30", "", "x"] {
            assert_eq!(of(odd), None, "{odd}");
        }
        assert_eq!(read("HTTP/1.0 404 Not Found\r\n\r\n"), None);
    }
}
