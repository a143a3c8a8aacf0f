//! A connection for messages. By RESP3, which Redis has since version 6, it can also report changes of the keys that were read on it.

use std::future::ready;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, poll_fn};
use redis::aio::{MultiplexedConnection, PubSubSink};
use redis::{AsyncConnectionConfig, Client, Msg, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisError, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::PATIENCE;
use super::options::Target;
use super::{client, error};
use crate::backend::Result;
use crate::credentials::Credentials;
use crate::process::report::debug;

/// The most that is read of a lock's value, in bytes: ours are shorter.
const LARGEST: usize = 8192;

/// A connection for messages, on which channels are subscribed to.
#[derive(Clone, Debug)]
pub(super) enum Listener {
    Resp2(PubSubSink),
    Resp3 {
        connection: MultiplexedConnection,
        /// Whether the server reports changes of the keys that were read on it.
        tracks: bool,
    },
}

/// What the server sends on it.
#[derive(Debug)]
pub(super) enum Notice {
    Message(Msg),
    /// These keys have changed. The change of a key is reported once, until the key is read again.
    Changed(Vec<String>),
    /// All keys may have.
    AllChanged,
}

pub(super) type Notices = BoxStream<'static, Notice>;

impl Listener {
    /// Opens a connection. `limit` is that of the wait for credentials.
    pub(super) async fn open(target: &Target, limit: Duration) -> Result<(Self, Notices)> {
        let account = target.credentials(limit).await?;
        let opening = async {
            match resp3(target, account.as_ref()).await {
                Ok(opened) => Ok(opened),
                Err(error) => {
                    debug!(target: "leasehold::redis", "changes of locks are not reported: {error}");
                    resp2(target, account.as_ref()).await
                }
            }
        };
        let no_answer = |_| Err(error::no_answer(&target.to_string(), PATIENCE));
        timeout(PATIENCE, opening).await.unwrap_or_else(no_answer)
    }

    /// Whether the server reports changes of the keys that were read.
    pub(super) fn tracks(&self) -> bool {
        matches!(self, Self::Resp3 { tracks: true, .. })
    }

    pub(super) async fn subscribe(&mut self, channel: &str) -> std::result::Result<(), RedisError> {
        match self {
            Self::Resp2(sink) => sink.subscribe(channel).await,
            Self::Resp3 { connection, .. } => connection.subscribe(channel).await,
        }
    }

    pub(super) async fn unsubscribe(&mut self, channel: &str) -> std::result::Result<(), RedisError> {
        match self {
            Self::Resp2(sink) => sink.unsubscribe(channel).await,
            Self::Resp3 { connection, .. } => connection.unsubscribe(channel).await,
        }
    }

    pub(super) async fn ping(&mut self) -> std::result::Result<(), RedisError> {
        match self {
            Self::Resp2(sink) => sink.ping::<Value>().await.map(drop),
            Self::Resp3 { connection, .. } => redis::cmd("PING").query_async(connection).await,
        }
    }

    /// Reads the values of these keys; nothing of those that do not exist or are no strings.
    pub(super) async fn read<'a>(
        &mut self,
        server: &str,
        keys: impl ExactSizeIterator<Item = &'a str>,
    ) -> Result<Vec<Vec<u8>>> {
        let Self::Resp3 { connection, .. } = self else { return Err(error::malformed(server)) };
        let (mut pipeline, count) = (Pipeline::new(), keys.len());
        keys.for_each(|key| {
            pipeline.cmd("GETRANGE").arg(key).arg(0).arg(LARGEST - 1);
        });
        let answers = timeout(PATIENCE, connection.send_packed_commands(&pipeline, 0, count)).await;
        let answers =
            answers.map_err(|_| error::no_answer(server, PATIENCE))?.map_err(|error| error::of(server, &error))?;
        let value = |answer: Value| match answer.extract_error() {
            Ok(Value::BulkString(value)) => Ok(value),
            Ok(_) => Ok(Vec::new()),
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(Vec::new()),
            Err(error) => Err(error::of(server, &error)),
        };
        answers.into_iter().map(value).collect()
    }
}

/// Opens a connection that reports changes as well, if the account may ask for that.
async fn resp3(target: &Target, account: Option<&Credentials>) -> Result<(Listener, Notices)> {
    let server = target.to_string();
    let failed = |error| error::of(&server, &error);
    let client = match target {
        Target::Client(client) => {
            let info = client.get_connection_info();
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            Client::open(info.clone().set_redis_settings(settings))
        }
        Target::Server(_) => {
            client::client(target, client::login(target, account).set_protocol(ProtocolVersion::RESP3))
        }
    };
    let (sender, mut pushes) = mpsc::unbounded_channel();
    let config =
        AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None).set_push_sender(sender);
    let mut connection =
        client.map_err(failed)?.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)?;
    let tracking = redis::cmd("CLIENT").arg("TRACKING").arg("ON").query_async::<()>(&mut connection).await;
    if let Err(error) = &tracking {
        debug!(target: "leasehold::redis", "changes of locks are not reported: {}", error::of(&server, error));
    }
    let notices = poll_fn(move |cx| pushes.poll_recv(cx))
        .take_while(|push: &PushInfo| ready(push.kind != PushKind::Disconnection))
        .filter_map(|push| ready(Notice::read(push)));
    Ok((Listener::Resp3 { connection, tracks: tracking.is_ok() }, notices.boxed()))
}

async fn resp2(target: &Target, account: Option<&Credentials>) -> Result<(Listener, Notices)> {
    let opened = client::client(target, client::login(target, account))
        .map_err(|error| client::explain_options(target, &error))?;
    let (sink, messages) = opened.get_async_pubsub().await.map_err(|error| client::explain(target, &error))?.split();
    Ok((Listener::Resp2(sink), messages.map(Notice::Message).boxed()))
}

impl Notice {
    fn read(push: PushInfo) -> Option<Self> {
        if push.kind != PushKind::Invalidate {
            return Msg::from_push_info(push).map(Self::Message);
        }
        match push.data.into_iter().next()? {
            Value::Array(keys) => {
                let key = |key| match key {
                    // What is no text is no lock of ours.
                    Value::BulkString(key) => String::from_utf8(key).ok(),
                    _ => None,
                };
                Some(Self::Changed(keys.into_iter().filter_map(key).collect()))
            }
            _ => Some(Self::AllChanged),
        }
    }
}
