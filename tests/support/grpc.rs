//! A gRPC proxy, which can drop the server's messages in calls of one method while all others continue.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::shared::listener::Listener;

/// A proxy in front of a server, on a separate port.
#[derive(Debug)]
pub struct Grpc {
    listener: Listener,
    silenced: watch::Sender<Option<&'static str>>,
}

type Silenced = watch::Receiver<Option<&'static str>>;

impl Grpc {
    /// Starts a proxy in front of a server.
    pub fn start(server: SocketAddr) -> Self {
        let (silenced, is_silenced) = watch::channel(None);
        let listener = Listener::start(move |client| {
            let silenced = is_silenced.clone();
            async move {
                let _ = connection(client, server, silenced).await;
            }
        });
        Self { listener, silenced }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Loses all messages that the server sends in calls of this method from now on, on streams that are open and on new ones.
    pub fn silence(&self, path: &'static str) {
        self.silenced.send_replace(Some(path));
    }
}

/// Forwards the calls of a connection. The end of the connection or of a call is not an error.
async fn connection(client: TcpStream, server: SocketAddr, silenced: Silenced) -> Option<()> {
    let upstream = TcpStream::connect(server).await.ok()?;
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let mut calls = h2::server::handshake(client).await.ok()?;
    let (sender, wire) = h2::client::handshake(upstream).await.ok()?;
    tokio::spawn(wire);
    while let Some(Ok((request, mut answer))) = calls.accept().await {
        let (sender, silenced) = (sender.clone(), silenced.clone());
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let mut body = None;
            let request = request.map(|sent| body = Some(sent));
            let (answered, to_server) = sender.ready().await.ok()?.send_request(request, false).ok()?;
            tokio::spawn(forward(body?, to_server, || false));
            let mut body = None;
            let head = answered.await.ok()?.map(|sent| body = Some(sent));
            let body = body?;
            let to_client = answer.send_response(head, body.is_end_stream()).ok()?;
            if !body.is_end_stream() {
                forward(body, to_client, || *silenced.borrow() == Some(&*path)).await;
            }
            Some(())
        });
    }
    Some(())
}

/// Forwards one direction of a call to its end, without dropped messages. An error on one side is passed to the other.
async fn forward(mut from: RecvStream, mut to: SendStream<Bytes>, is_lost: impl Fn() -> bool) {
    let whole = async {
        while let Some(data) = from.data().await {
            let data = data?;
            from.flow_control().release_capacity(data.len())?;
            if !is_lost() {
                to.send_data(data, false)?;
            }
        }
        match from.trailers().await? {
            Some(trailers) => to.send_trailers(trailers),
            None => to.send_data(Bytes::new(), true),
        }
    };
    if whole.await.is_err() {
        to.send_reset(h2::Reason::CANCEL);
    }
}
