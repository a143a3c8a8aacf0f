//! Messages: handovers and evictions. Managers with the same target share a subscription, and each has a separate channel.
//!
//! `g<attempt><epoch>`: the lock was handed over to this attempt. `l<attempt>`: it was taken away from this attempt. `o<ear>`: what this
//! [ear](super::ears) listens for has happened.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, coop, yield_now};
use tokio::time::{sleep, timeout};

use super::answers;
use super::batch::Batch;
use super::claims::Claims;
use super::connection::PATIENCE;
use super::error::{self, Meaning};
use super::listening::{Listener, Notice, Notices};
use super::locator::{Located, Locator};
use super::losses::Losses;
use super::options::{Server, Target};
use super::orphans;
use super::router::Router;
use super::tracking::Tracking;
use super::value;
use crate::backend::backoff::Backoff;
use crate::backend::shared::Pool;
use crate::backend::{AttemptId, ErrorKind, Result};
use crate::process::report::debug;

/// How often a silent subscription is checked by a `PING`. If it is dead, waiters depend on their polls meanwhile.
const PING: Duration = Duration::from_secs(3);

/// How many messages are read before other tasks get their turn.
const BURST: usize = 10_000;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Granted(AttemptId, u64),
    Lost(AttemptId),
    Heard(u64),
}

impl Message {
    /// Reads a message, which anyone may have written.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (attempt, epoch) = (value::attempt(text.get(1..17)?)?, text.get(17..)?);
        match (text.as_bytes()[0], epoch) {
            (b'g', epoch) => Some(Self::Granted(attempt, answers::epoch(epoch)?)),
            (b'l', "") => Some(Self::Lost(attempt)),
            (b'o', "") => Some(Self::Heard(attempt.0)),
            _ => None,
        }
    }
}

/// The receiver of a manager's messages.
#[derive(Debug)]
pub(super) struct Receiver {
    /// The name of the channel, which no other manager has.
    pub(super) channel: String,
    pub(super) claims: Arc<Claims>,
    pub(super) router: Arc<Router>,
    pub(super) batch: Arc<Batch>,
    pub(super) losses: Arc<Losses>,
}

impl Receiver {
    fn receive(&self, message: &[u8]) {
        match Message::read(message) {
            Some(Message::Granted(attempt, epoch)) => match self.claims.get(attempt) {
                Some(attempt) if attempt.handed_over(epoch) => self.router.acquire(&attempt),
                Some(_) => {}
                // It has a place in a queue again.
                None => self.batch.polling().doubt(),
            },
            Some(Message::Lost(attempt)) => {
                if let Some(attempt) = self.claims.get(attempt) {
                    self.losses.check(attempt);
                }
            }
            Some(Message::Heard(ear)) => self.claims.ears.ring(ear),
            None => debug!(target: "leasehold::redis", "ignored a message of unknown form"),
        }
    }

    /// Messages may have been lost: all waiters ask, and all holds are tracked anew. Another master may not have a hold, or have it
    /// for a short time only: all are renewed.
    fn miss(&self, has_moved: bool) {
        self.claims.miss_messages();
        self.batch.polling().all_now();
        let held = self.claims.held();
        self.batch
            .untracked()
            .replace(held.into_iter().filter(|attempt| self.router.is_at(&attempt.name, &self.batch)).collect());
        if has_moved {
            let (router, claims, waiting) = (self.router.clone(), self.claims.clone(), self.batch.polling().waiting());
            tokio::spawn(async move { orphans::remove(&router, &claims, &waiting).await });
            self.claims.held().into_iter().for_each(|attempt| self.losses.check(attempt));
        }
    }
}

/// A connection for messages, which is replaced when it breaks.
pub(super) struct Subscription {
    server: String,
    /// The time limit of the first manager.
    timeout: Duration,
    handle: Handle,
    /// With the present connection.
    pub(super) tracking: Arc<Tracking>,
    /// The managers' receivers, by channel.
    receivers: Mutex<HashMap<String, Weak<Receiver>>>,
    /// Notified when the current connection was found not to answer.
    silent: Arc<Notify>,
    /// How often the connection was replaced.
    generation: watch::Sender<u64>,
    task: OnceLock<AbortHandle>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Subscription {
    /// Returns the subscription of all managers with this target, or a new one for a client that the user configured.
    pub(super) async fn of(
        target: &Target,
        locator: &Locator,
        timeout: Duration,
        handle: &Handle,
    ) -> Result<Arc<Self>> {
        static SUBSCRIPTIONS: Pool<Server, Subscription> = Pool::new();
        let open = Self::open(locator.clone(), timeout, handle.clone());
        match target {
            Target::Server(server) => SUBSCRIPTIONS.get(handle.id(), server.clone(), open).await,
            Target::Client(_) => open.await,
        }
    }

    async fn open(locator: Locator, timeout: Duration, handle: Handle) -> Result<Arc<Self>> {
        let located = locator.locate();
        let (listener, notices) = Listener::open(&located.target, timeout).await?;
        let silent = Arc::new(Notify::new());
        let subscription = Arc::new(Self {
            server: locator.to_string(),
            timeout,
            handle,
            tracking: Tracking::new(listener.clone()),
            receivers: Mutex::default(),
            silent: silent.clone(),
            generation: watch::Sender::new(0),
            task: OnceLock::new(),
        });
        let listening = subscription.handle.spawn(listen(
            Arc::downgrade(&subscription),
            silent,
            listener,
            notices,
            (locator, located),
        ));
        let _ = subscription.task.set(listening.abort_handle());
        Ok(subscription)
    }

    /// Adds a manager's receiver. Waits for the next connection if this one is broken.
    pub(super) async fn add(&self, receiver: &Arc<Receiver>) -> Result<()> {
        let mut generation = self.generation.subscribe();
        self.receivers.lock().insert(receiver.channel.clone(), Arc::downgrade(receiver));
        loop {
            generation.mark_unchanged();
            match self.subscribe(&receiver.channel).await {
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    if !generation.has_changed().unwrap_or(false) {
                        self.silent.notify_one();
                    }
                    // An error is impossible: `self` has the sender.
                    let _ = generation.changed().await;
                }
                answer => return answer,
            }
        }
    }

    /// Removes a manager's receiver.
    pub(super) fn remove(&self, receiver: &Receiver) {
        if self.receivers.lock().remove(&receiver.channel).is_some() {
            let (mut listener, channel) = (self.tracking.listener(), receiver.channel.clone());
            self.handle.spawn(async move {
                // If it fails, the channel stays subscribed, and nothing is published there any more.
                let _ = listener.unsubscribe(&channel).await;
            });
        }
    }

    async fn subscribe(&self, channel: &str) -> Result<()> {
        let mut listener = self.tracking.listener();
        let subscribed = timeout(PATIENCE, listener.subscribe(channel)).await;
        let subscribed = subscribed.map_err(|_| error::no_answer(&self.server, PATIENCE))?;
        subscribed.map_err(|error| error::of(&self.server, &error))
    }

    fn receive(&self, notice: &Notice) {
        match notice {
            Notice::Message(message) => {
                let receiver = self.receivers.lock().get(message.get_channel_name()).and_then(Weak::upgrade);
                if let Some(receiver) = receiver {
                    receiver.receive(message.get_payload_bytes());
                }
            }
            Notice::Changed(keys) => keys.iter().for_each(|key| self.tracking.changed(key)),
            Notice::AllChanged => self.tracking.all_changed(),
        }
    }

    /// Replaces a connection that broke.
    async fn reopen(&self, located: &Located, has_moved: bool) -> Result<(Listener, Notices)> {
        let (listener, notices) = Listener::open(&located.target, self.timeout).await?;
        self.tracking.replace(listener.clone());
        let receivers: Vec<_> = self.receivers.lock().values().filter_map(Weak::upgrade).collect();
        // All at once: no message is received meanwhile.
        for subscribed in join_all(receivers.iter().map(|receiver| self.subscribe(&receiver.channel))).await {
            match subscribed {
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => debug!(target: "leasehold::redis", "not subscribed: {error}"),
                Ok(()) => {}
            }
        }
        self.generation.send_modify(|generation| *generation += 1);
        receivers.iter().for_each(|receiver| receiver.miss(has_moved));
        Ok((listener, notices))
    }
}

/// Receives messages without end, on one connection after another.
async fn listen(
    subscription: Weak<Subscription>,
    silent: Arc<Notify>,
    mut listener: Listener,
    mut notices: Notices,
    (locator, mut located): (Locator, Located),
) {
    let mut backoff = Backoff::at_once();
    loop {
        let before = located.clone();
        let receive = async {
            let mut received: usize = 0;
            // Without tokio's budget for a task: the client reads on in a task of its own, and buffers what is not taken.
            while let Some(notice) = coop::unconstrained(notices.next()).await {
                received += 1;
                if received.is_multiple_of(BURST) {
                    yield_now().await;
                }
                match subscription.upgrade() {
                    Some(subscription) => subscription.receive(&notice),
                    None => return,
                }
            }
        };
        let ping = async {
            loop {
                sleep(PING).await;
                match timeout(PATIENCE, listener.ping()).await {
                    Ok(Ok(())) => {}
                    // The server serves no requests at present, but it answers.
                    Ok(Err(error)) if error::meaning(&error) == Some(Meaning::Later) => {}
                    _ => return,
                }
            }
        };
        tokio::select! {
            biased;
            // What the old master still says counts for nothing.
            () = located.moved() => {}
            () = receive => {}
            () = ping => {}
            () = silent.notified() => {}
        }
        (listener, notices) = loop {
            located = locator.locate();
            let opening = async {
                backoff.pause().await;
                Some(subscription.upgrade()?.reopen(&located, before.has_moved()).await)
            };
            tokio::select! {
                biased;
                () = located.moved() => backoff = Backoff::at_once(),
                opened = opening => match opened {
                    Some(Ok(opened)) => break opened,
                    Some(Err(error)) => debug!(target: "leasehold::redis", "not subscribed: {error}"),
                    None => return,
                },
            }
        };
        backoff = Backoff::at_once();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_messages_are_understood() {
        let read = |text: &str| Message::read(text.as_bytes());
        assert_eq!(
            read("g0000000000000abc1795266979683100"),
            Some(Message::Granted(AttemptId(0xabc), 1795266979683100))
        );
        assert_eq!(read("l0000000000000abc"), Some(Message::Lost(AttemptId(0xabc))));
        assert_eq!(read("o0000000000000abc"), Some(Message::Heard(0xabc)));
        for other in [
            "",
            "g",
            "g0000000000000abc",
            "l0000000000000abcx",
            "x0000000000000abc1",
            "o0000000000000abc1",
            "l000000000000äabc",
            "g+00000000000000a1",
        ] {
            assert_eq!(read(other), None, "{other:?}");
        }
        assert_eq!(Message::read(b"\xff"), None);
    }
}
