//! Watches: one stream for all watches on a connection, of all managers.
//!
//! The server serves a watch that starts in the past only every 100 ms, and one that starts now at once. So waiters watch from now, and
//! re-check when the server has confirmed the watch, unless it has begun before their last read; and again after every new stream.
//!
//! A watch that the server refuses, because the user may no longer read its key, is requested again later and does not disturb the
//! others on the stream. But the server also refuses watches if the token with which the stream was opened is too old: then a new
//! stream is needed. A read of the key, with the present token, shows which it is.

pub(super) mod hub;
mod table;

use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{WatchRequestSender, WatchStream};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::watch;
use tokio::time::Instant;

use self::hub::Commands;
use self::table::{Ready, WatchTable};
use super::connection::Connection;
use super::error;
#[cfg(feature = "testing")]
use super::names::Name;
use super::position::Freshness;
use crate::backend::backoff::Backoff;
use crate::backend::{ErrorKind, Result};

/// The silence after which the stream is tested by a request for progress.
const SILENCE: Duration = Duration::from_secs(5);

/// The maximum wait for the answer to that.
const PROOF: Duration = Duration::from_secs(4);

/// Reads a stream whose only watch is on `name`. Returns the revisions of its deletions.
#[cfg(feature = "testing")]
pub(super) fn read(name: Name, answers: impl Iterator<Item = etcd_client::WatchResponse>) -> Vec<i64> {
    use self::hub::{Command, Notice, WatchId};

    let (sink, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let mut table = WatchTable::default();
    table.apply(Command::Watch { id: WatchId(1), target: name.into(), start: 0, sink }, Instant::now());
    while table.next_request().is_some() {}
    for answer in answers {
        if let Some((id, _)) = table.read(&answer) {
            table.retry_later(id, Instant::now());
        }
        while table.next_request().is_some() {}
    }
    std::iter::from_fn(|| notices.try_recv().ok())
        .filter_map(|(_, notice)| match notice {
            Notice::Deleted(at) => Some(at),
            _ => None,
        })
        .collect()
}

/// Starts the task that serves the watches of a connection. It ends with the connection.
pub(super) fn start(connection: &Arc<Connection>, commands: Commands, handle: &Handle) {
    handle.spawn(run(Arc::downgrade(connection), connection.generations(), commands));
}

async fn run(connection: Weak<Connection>, mut generations: watch::Receiver<usize>, mut commands: Commands) {
    let mut table = WatchTable::default();
    let mut backoff = Backoff::new();
    loop {
        generations.mark_unchanged();
        loop {
            match commands.try_recv() {
                Ok(command) => table.apply(command, Instant::now()),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        while table.is_empty() {
            match commands.recv().await {
                Some(command) => table.apply(command, Instant::now()),
                None => return,
            }
        }
        table.reset_stream();
        if let Some(stream) = open(&connection, &mut table).await {
            let since = Instant::now();
            if serve(&connection, &mut table, &mut commands, &mut generations, stream).await.is_none() {
                return;
            }
            crate::process::report::debug!(target: "leasehold::etcd", "the watch stream has ended, making another");
            if since.elapsed() > SILENCE {
                backoff = Backoff::new();
            }
        }
        table.reset_stream();
        backoff.pause().await;
    }
}

/// Opens a stream, with the first watch on it.
async fn open(connection: &Weak<Connection>, table: &mut WatchTable) -> Option<WatchStream> {
    let (name, options) = loop {
        if let Ready::Create(name, options) = table.next_request()? {
            break (name, options);
        }
    };
    // The server checks all watches of a stream against the token with which it was opened, and refuses them without a reason. So a
    // request that can renew the token is sent first.
    may_read(connection, &name).await.ok()?;
    let connection = connection.upgrade()?;
    let mut client = connection.watch();
    let limit = connection.patience(connection.timeout());
    connection.once(limit, async move { client.watch(&*name, Some(options)).await }).await.ok()
}

/// Reads a key, to check whether the user may.
async fn may_read(connection: &Weak<Connection>, name: &[u8]) -> Result<bool> {
    let connection = connection.upgrade().ok_or_else(error::closed)?;
    let limit = connection.patience(connection.timeout());
    match connection.key_once(limit, Freshness::Linearizable, name).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
        Err(error) => Err(error),
    }
}

/// Serves a stream until it fails; `None` at the end of the hub.
async fn serve(
    connection: &Weak<Connection>,
    table: &mut WatchTable,
    commands: &mut Commands,
    generations: &mut watch::Receiver<usize>,
    stream: WatchStream,
) -> Option<()> {
    let (mut sender, mut answers) = stream.split();
    let mut probe_at = Instant::now() + SILENCE;
    let mut probing = false;
    let mut request = None;
    let mut refused = FuturesUnordered::new();
    loop {
        request = request.or_else(|| table.next_request());
        let due = table.next_due();
        // Reading continues while a request cannot be sent, or both sides might wait for each other.
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    if let Some((id, name)) = table.read(&answer) {
                        refused.push(async move { (id, may_read(connection, &name).await) });
                    }
                    (probing, probe_at) = (false, Instant::now() + SILENCE);
                }
                Ok(None) | Err(_) => return Some(()),
            },
            Some((id, permission)) = refused.next() => match permission {
                // The token of the stream was too old; the read has renewed it, if it was stale for that too.
                Ok(true) | Err(_) if table.needs_new_stream(id) => return Some(()),
                _ => table.retry_later(id, Instant::now()),
            },
            command = commands.recv() => table.apply(command?, Instant::now()),
            // A request on this endpoint has failed, so the stream may be dead as well.
            Ok(()) = generations.changed() => return Some(()),
            sent = send(&mut sender, request.as_ref()) => match sent {
                Ok(()) => request = None,
                Err(_) => return Some(()),
            },
            () = tokio::time::sleep_until(due.unwrap_or(probe_at)), if due.is_some() => {
                table.on_time(Instant::now());
            }
            () = tokio::time::sleep_until(probe_at) => {
                if probing {
                    return Some(());
                }
                table.request_progress();
                (probing, probe_at) = (true, Instant::now() + PROOF);
            }
        }
    }
}

/// Sends a request. If this is dropped unfinished, nothing was sent.
async fn send(sender: &mut WatchRequestSender, request: Option<&Ready>) -> std::result::Result<(), etcd_client::Error> {
    match request {
        None => std::future::pending().await,
        Some(Ready::Progress) => sender.request_progress().await,
        Some(Ready::Cancel(wire)) => sender.cancel(*wire).await,
        Some(Ready::Create(name, options)) => sender.watch(&**name, Some(options.clone())).await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Client, Server, run};
    use super::hub::{Notice, Target};
    use super::*;

    /// The deletion of a key.
    fn key(name: &[u8]) -> Target {
        Target::from(super::super::names::Name::from(name))
    }

    #[test]
    fn a_watch_that_rests_misses_nothing() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let parts = client.etcd.parts().unwrap();
            let hub = parts.connection.hub();
            server.ctl(&["put", "a", ""]);
            let mut first = hub.subscribe(key(b"a"));
            let Notice::Created(since) = first.next().await else { panic!("no watch") };
            drop(first);
            server.ctl(&["del", "a"]);
            server.ctl(&["put", "b", ""]);
            server.ctl(&["del", "b"]);
            // Both on one stream: what comes later on it has been read later.
            let mut other = hub.subscribe(key(b"b"));
            assert!(matches!(other.next().await, Notice::Created(_)));
            let mut second = hub.subscribe(key(b"a"));
            assert_eq!(second.next().await, Notice::Created(since), "it was made anew");
            assert_eq!(second.next().await, Notice::Deleted(since + 1));
        });
    }

    #[test]
    fn a_watch_does_not_rest_for_ever() {
        run(async {
            let server = Server::start().await;
            let client = Client::new(&server, "p/").await;
            let parts = client.etcd.parts().unwrap();
            let hub = parts.connection.hub();
            server.ctl(&["put", "a", ""]);
            let mut first = hub.subscribe(key(b"a"));
            let Notice::Created(since) = first.next().await else { panic!("no watch") };
            drop(first);
            server.ctl(&["del", "a"]);
            // Longer than a watch rests.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let mut second = hub.subscribe(key(b"a"));
            let Notice::Created(now) = second.next().await else { panic!("no watch") };
            assert!(now > since, "it was kept");
        });
    }
}
