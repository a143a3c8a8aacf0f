//! A TCP proxy that fails on demand: the network between a client and a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::listener::Listener;

/// A proxy in front of a server, on a separate port. Its connections are reset when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    listener: Listener,
    state: watch::Sender<State>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    accepted: AtomicU64,
    requests: AtomicU64,
    answers: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct State {
    server: SocketAddr,
    requests: Way,
    answers: Way,
    /// Each connection is reset after this many bytes of answers.
    reset_after: Option<u64>,
    /// Counts up: connections made before are reset.
    generation: u64,
    /// Requests of the connections with smaller numbers wait, and arrive later.
    frozen: u64,
    refuse: bool,
}

impl State {
    fn new(server: SocketAddr) -> Self {
        Self {
            server,
            requests: Way::default(),
            answers: Way::default(),
            reset_after: None,
            generation: 0,
            frozen: 0,
            refuse: false,
        }
    }
}

/// The fault of one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// Bytes wait, and arrive later.
    held: bool,
    /// Bytes are lost.
    dropped: bool,
    delay: Duration,
}

impl Proxy {
    /// Starts a proxy in front of a server.
    pub fn start(server: SocketAddr) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), server)
    }

    /// The same, at this address.
    pub fn start_at(address: SocketAddr, server: SocketAddr) -> Self {
        let (state, _) = watch::channel(State::new(server));
        let counts = Arc::<Counts>::default();
        let (watched, counted) = (state.clone(), counts.clone());
        let listener = Listener::start_at(address, move |client| {
            let mut state = watched.subscribe();
            let now = *state.borrow_and_update();
            let number = counted.accepted.fetch_add(1, Ordering::SeqCst) + 1;
            let counts = counted.clone();
            async move {
                if now.refuse {
                    return reset(client);
                }
                counts.connections.fetch_add(1, Ordering::SeqCst);
                connection(client, state, now, number, &counts).await;
                counts.connections.fetch_sub(1, Ordering::SeqCst);
            }
        });
        Self { listener, state, counts }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Takes new connections to another server.
    pub fn redirect(&self, server: SocketAddr) {
        self.change(|state| state.server = server);
    }

    /// Stops forwarding, silently, in both directions: connections stay open, but no bytes arrive.
    pub fn cut(&self) {
        self.change(|state| (state.requests.held, state.answers.held) = (true, true));
    }

    /// Forwards again, beginning with the delayed bytes. Ends all faults but [`delay`](Self::delay).
    pub fn heal(&self) {
        self.drop_answers(false);
        self.change(|state| {
            (state.requests.held, state.answers.held) = (false, false);
            (state.reset_after, state.refuse, state.frozen) = (None, false, 0);
        });
    }

    /// Delays requests until [`heal`](Self::heal): they arrive then, even if their connection has been closed meanwhile.
    pub fn hold_requests(&self) {
        self.change(|state| state.requests.held = true);
    }

    /// Delays the requests of the present connections until [`heal`](Self::heal); later connections are not affected. So
    /// a copy that is sent on a new connection overtakes them.
    pub fn freeze(&self) {
        let frozen = self.accepted();
        self.change(|state| state.frozen = frozen);
    }

    /// Delays answers until [`heal`](Self::heal).
    pub fn hold_answers(&self) {
        self.change(|state| state.answers.held = true);
    }

    /// Starts or stops losing all answers. At the stop, connections that have lost answers are reset.
    pub fn drop_answers(&self, on: bool) {
        self.change(|state| {
            if state.answers.dropped && !on {
                state.generation += 1;
            }
            state.answers.dropped = on;
        });
    }

    /// Resets all connections that are open now.
    pub fn reset_all(&self) {
        self.change(|state| state.generation += 1);
    }

    /// Resets each new connection after `bytes` of answers.
    pub fn reset_after(&self, bytes: Option<u64>) {
        self.change(|state| state.reset_after = bytes);
    }

    /// Accepts no connections: resets them at once.
    pub fn refuse(&self, on: bool) {
        self.change(|state| state.refuse = on);
    }

    /// Delays requests and answers by this much each. The throughput does not change.
    pub fn delay(&self, requests: Duration, answers: Duration) {
        self.change(|state| (state.requests.delay, state.answers.delay) = (requests, answers));
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// The number of connections so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// The number of bytes of requests forwarded to the server.
    pub fn requested(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The number of bytes of answers forwarded to clients.
    pub fn answered(&self) -> u64 {
        self.counts.answers.load(Ordering::SeqCst)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

async fn connection(
    mut client: TcpStream,
    mut watched: watch::Receiver<State>,
    born: State,
    number: u64,
    counts: &Counts,
) {
    let Ok(mut upstream) = TcpStream::connect(born.server).await else { return reset(client) };
    // Without Nagle's algorithm, so that the proxy adds no delay.
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let is_reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = upstream.split();
        let (requests, answers) = (watched.clone(), watched.clone());
        let of_requests =
            move |state: &State| Way { held: state.requests.held || number <= state.frozen, ..state.requests };
        let requests = forward(from_client, to_server, requests, of_requests, None, &counts.requests);
        let answers =
            forward(from_server, to_client, answers, |state| state.answers, born.reset_after, &counts.answers);
        // Both directions continue until they end, unless the limit is reached.
        let both = async {
            let requests = async { Ok(requests.await) };
            let answers = async { if answers.await { Err(()) } else { Ok(()) } };
            tokio::try_join!(requests, answers).is_err()
        };
        tokio::select! {
            biased;
            _ = watched.wait_for(|state| state.generation != born.generation) => true,
            limit_reached = both => limit_reached,
        }
    };
    if is_reset {
        reset(client);
        reset(upstream);
    }
}

/// Closes a connection with RST.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Forwards one direction until it ends. True if it has reached `limit` bytes.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut watched: watch::Receiver<State>,
    way: impl Fn(&State) -> Way + Copy,
    limit: Option<u64>,
    count: &AtomicU64,
) -> bool {
    let (sender, mut queue) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let lengths = watched.clone();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        // An error also counts as the end.
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let arrival = Instant::now() + way(&lengths.borrow()).delay;
            if sender.send((arrival, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    };
    let write = async move {
        let mut left = limit;
        while let Some((arrival, bytes)) = queue.recv().await {
            tokio::time::sleep_until(arrival).await;
            let Ok(now) = watched.wait_for(|state| !way(state).held).await.map(|state| way(&state)) else {
                return false;
            };
            if now.dropped {
                continue;
            }
            let length = left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if to.write_all(&bytes[..length]).await.is_err() {
                return false;
            }
            count.fetch_add(length as u64, Ordering::SeqCst);
            if let Some(left) = &mut left {
                *left -= length as u64;
                if *left == 0 {
                    return true;
                }
            }
        }
        // The end is delayed as well.
        let _ = watched.wait_for(|state| !way(state).held).await;
        let _ = to.shutdown().await;
        false
    };
    let (read, write) = (std::pin::pin!(read), std::pin::pin!(write));
    match futures::future::select(write, read).await {
        futures::future::Either::Left((limit_reached, _)) => limit_reached,
        futures::future::Either::Right(((), write)) => write.await,
    }
}
