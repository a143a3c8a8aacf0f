//! A server that speaks Redis's protocol, and answers what a test wants: hostile nodes and sentinels.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::listener::Listener;

/// A server on a free port.
#[derive(Debug)]
pub struct Stub {
    listener: Listener,
    requests: Arc<AtomicU64>,
}

impl Stub {
    /// Starts a server that answers each request by this function of its words, with the command in upper case. An empty answer is none.
    pub fn start(answer: impl Fn(&[&str]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let (answer, requests) = (Arc::new(answer), Arc::<AtomicU64>::default());
        let counted = requests.clone();
        let listener = Listener::start(move |client| {
            let (answer, counted) = (answer.clone(), counted.clone());
            async move {
                let _ = serve(client, &*answer, &counted).await;
            }
        });
        Self { listener, requests }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut client: TcpStream, answer: impl Fn(&[&str]) -> Vec<u8>, requests: &AtomicU64) -> Option<()> {
    let (reader, mut writer) = client.split();
    let mut reader = BufReader::new(reader);
    loop {
        let count = number(&mut reader, '*').await.filter(|count| *count > 0)?;
        let mut words = Vec::with_capacity(count);
        for _ in 0..count {
            // With its line break.
            let mut word = vec![0; number(&mut reader, '$').await? + 2];
            reader.read_exact(&mut word).await.ok()?;
            word.truncate(word.len() - 2);
            words.push(String::from_utf8_lossy(&word).into_owned());
        }
        let parts = if matches!(&*words[0].to_uppercase(), "CLUSTER" | "SENTINEL") { 2 } else { 1 };
        words.iter_mut().take(parts).for_each(|word| word.make_ascii_uppercase());
        requests.fetch_add(1, Ordering::SeqCst);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        writer.write_all(&answer(&words)).await.ok()?;
    }
}

/// Reads a line with this mark and a number.
async fn number(reader: &mut (impl AsyncBufReadExt + Unpin), mark: char) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}

/// The answer that is this text.
pub fn text(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into()
}

/// The answer that is this number.
pub fn integer(number: i64) -> Vec<u8> {
    format!(":{number}\r\n").into()
}

/// The answer that has these parts.
pub fn list(parts: &[Vec<u8>]) -> Vec<u8> {
    [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat()
}

/// The answer that has these texts.
pub fn texts(words: &[&str]) -> Vec<u8> {
    list(&words.iter().map(|word| text(word)).collect::<Vec<_>>())
}

/// The answer of a sound node with this id to what is not about locks or slots.
pub fn of_node(id: &str, words: &[&str]) -> Vec<u8> {
    match words {
        ["INFO", ..] => text("redis_version:7.0.15\r\nredis_mode:cluster\r\n"),
        ["CLUSTER", "MYID"] => text(id),
        ["PING", number, ..] => text(number),
        ["PING"] => b"+PONG\r\n".into(),
        ["SUBSCRIBE", channel, ..] => list(&[text("subscribe"), text(channel), integer(1)]),
        ["HELLO" | "COMMAND", ..] => b"-ERR unknown command\r\n".into(),
        _ => b"+OK\r\n".into(),
    }
}

/// The answer that a node of a cluster with this id has all slots.
pub fn all_slots_at(id: &str, address: SocketAddr) -> Vec<u8> {
    slots_at(0, 16383, &address.ip().to_string(), i64::from(address.port()), id)
}

/// The answer that a node has these slots.
pub fn slots_at(first: i64, last: i64, host: &str, port: i64, id: &str) -> Vec<u8> {
    list(&[list(&[integer(first), integer(last), list(&[text(host), integer(port), text(id)])])])
}
