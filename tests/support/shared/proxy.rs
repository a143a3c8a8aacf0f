//! A TCP proxy that fails on demand: the network between a client and a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::listener::Listener;

/// Stands in front of a server, on a port of its own. Its connections are reset when it is dropped.
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
    /// Requests of the first so many connections wait, and arrive later.
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

/// What happens to bytes of one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// They wait, and arrive later.
    held: bool,
    /// They vanish.
    dropped: bool,
    delay: Duration,
}

impl Proxy {
    /// Starts a proxy in front of a server.
    pub fn start(server: SocketAddr) -> Self {
        let (state, _) = watch::channel(State::new(server));
        let counts = Arc::<Counts>::default();
        let (watched, counted) = (state.clone(), counts.clone());
        let listener = Listener::start(move |client| {
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

    /// Stops forwarding, silently, in both directions: connections stay open and nothing comes.
    pub fn cut(&self) {
        self.change(|state| (state.requests.held, state.answers.held) = (true, true));
    }

    /// Forwards again, what has been held back first. Ends what all other methods but [`delay`](Self::delay) have begun.
    pub fn heal(&self) {
        self.drop_answers(false);
        self.change(|state| {
            (state.requests.held, state.answers.held) = (false, false);
            (state.reset_after, state.refuse, state.frozen) = (None, false, 0);
        });
    }

    /// Holds requests back, until [`heal`](Self::heal): they arrive then, even if their connection has been closed meanwhile.
    pub fn hold_requests(&self) {
        self.change(|state| state.requests.held = true);
    }

    /// Holds back the requests of the connections that there are now, until [`heal`](Self::heal); later ones are not touched. So
    /// what is sent again on a new connection overtakes them.
    pub fn freeze(&self) {
        let frozen = self.accepted();
        self.change(|state| state.frozen = frozen);
    }

    /// Holds answers back, until [`heal`](Self::heal).
    pub fn hold_answers(&self) {
        self.change(|state| state.answers.held = true);
    }

    /// Loses all answers, or no longer. Connections that have lost some are of no use any more, and are reset at the end.
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

    /// Makes requests, and answers, late by this much each. Throughput stays as it is.
    pub fn delay(&self, requests: Duration, answers: Duration) {
        self.change(|state| (state.requests.delay, state.answers.delay) = (requests, answers));
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many bytes of requests have gone on to the server.
    pub fn requested(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many bytes of answers have gone on to clients.
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
    // The proxy adds nothing of its own to the time that a byte takes.
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
        // Both ways go on until they end, unless the limit is reached.
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

/// Forwards one direction until it ends. True if it has come to `limit` bytes.
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
        // An error is the other side's end as well.
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
        // The end is held back as well.
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
