//! Messages: who was handed a lock, and who was evicted from one. Managers with the same target share a subscription, and each has
//! a channel of its own there.
//!
//! `g<attempt><epoch>`: the lock was handed over to this attempt. `l<attempt>`: it was taken away.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use parking_lot::Mutex;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, coop, yield_now};
use tokio::time::{sleep, timeout};

use super::batch::PATIENCE;
use super::error::{self, Meaning};
use super::options::{Server, Target};
use super::{Shared, scripts, value};
use crate::backend::backoff::Backoff;
use crate::backend::shared::Pool;
use crate::backend::{AttemptId, ErrorKind, Result};
use crate::process::report::debug;

/// How often a silent subscription is asked for a sign of life. If it is dead, waiters look by themselves meanwhile.
const PULSE: Duration = Duration::from_secs(3);

/// How many messages are heard before others get their turn.
const BURST: usize = 10_000;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Granted(AttemptId, u64),
    Lost(AttemptId),
}

impl Message {
    /// Reads a message that anybody may have written.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (attempt, epoch) = (value::attempt(text.get(1..17)?)?, text.get(17..)?);
        match (text.as_bytes()[0], epoch) {
            (b'g', epoch) => Some(Self::Granted(attempt, scripts::epoch(epoch)?)),
            (b'l', "") => Some(Self::Lost(attempt)),
            _ => None,
        }
    }
}

/// A connection for messages, made anew when it breaks, and who listens.
pub(super) struct Subscription {
    target: Target,
    handle: Handle,
    sink: Mutex<PubSubSink>,
    /// By their channels, whose names nobody else has.
    managers: Mutex<HashMap<String, Weak<Shared>>>,
    /// It does not answer, as somebody has found.
    silent: Arc<Notify>,
    /// How often it was made anew.
    turns: watch::Sender<u64>,
    task: OnceLock<AbortHandle>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Subscription {
    /// Returns the subscription of all managers with this target, or a new one if the user has put the target together.
    pub(super) async fn to(target: &Target, handle: &Handle) -> Result<Arc<Self>> {
        static SUBSCRIPTIONS: Pool<Server, Subscription> = Pool::new();
        let open = Self::open(target.clone(), handle.clone());
        match target {
            Target::Server(server) => SUBSCRIPTIONS.get(handle.id(), server.clone(), open).await,
            Target::Client(_) => open.await,
        }
    }

    async fn open(target: Target, handle: Handle) -> Result<Arc<Self>> {
        let (sink, messages) = connect(&target).await?.split();
        let silent = Arc::new(Notify::new());
        let subscription = Arc::new(Self {
            target,
            handle,
            sink: Mutex::new(sink.clone()),
            managers: Mutex::default(),
            silent: silent.clone(),
            turns: watch::Sender::new(0),
            task: OnceLock::new(),
        });
        let listening = subscription.handle.spawn(listen(Arc::downgrade(&subscription), silent, sink, messages));
        let _ = subscription.task.set(listening.abort_handle());
        Ok(subscription)
    }

    /// Lets a manager hear. Waits for a new connection if this one is broken.
    pub(super) async fn add(&self, shared: &Arc<Shared>) -> Result<()> {
        let mut turns = self.turns.subscribe();
        self.managers.lock().insert(shared.channel.clone(), Arc::downgrade(shared));
        loop {
            turns.mark_unchanged();
            match self.subscribe(&shared.channel).await {
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    if !turns.has_changed().unwrap_or(false) {
                        self.silent.notify_one();
                    }
                    // It ends only with the subscription.
                    let _ = turns.changed().await;
                }
                answer => return answer,
            }
        }
    }

    /// A manager does not listen any more.
    pub(super) fn remove(&self, shared: &Shared) {
        if self.managers.lock().remove(&shared.channel).is_some() {
            let (mut sink, channel) = (self.sink.lock().clone(), shared.channel.clone());
            self.handle.spawn(async move {
                // A channel that is left over is silent.
                let _ = sink.unsubscribe(channel).await;
            });
        }
    }

    async fn subscribe(&self, channel: &str) -> Result<()> {
        let mut sink = self.sink.lock().clone();
        let subscribed = timeout(PATIENCE, sink.subscribe(channel)).await;
        let subscribed = subscribed.map_err(|_| error::no_answer(&self.target.to_string(), PATIENCE))?;
        subscribed.map_err(|error| error::of(&self.target.to_string(), &error))
    }

    fn all(&self) -> Vec<Arc<Shared>> {
        self.managers.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn hear(&self, channel: &str, message: &[u8]) {
        let manager = self.managers.lock().get(channel).and_then(Weak::upgrade);
        if let Some(manager) = manager {
            manager.hear(message);
        }
    }

    /// Puts another connection in the place of one that broke.
    async fn renew(&self) -> Result<(PubSubSink, PubSubStream)> {
        let (sink, messages) = connect(&self.target).await?.split();
        *self.sink.lock() = sink.clone();
        let managers = self.all();
        // All at once: nothing is heard meanwhile.
        for subscribed in join_all(managers.iter().map(|manager| self.subscribe(&manager.channel))).await {
            match subscribed {
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) => debug!(target: "leasehold::redis", "not subscribed: {error}"),
                Ok(()) => {}
            }
        }
        self.turns.send_modify(|turns| *turns += 1);
        // What was said meanwhile was lost.
        managers.iter().for_each(|manager| manager.looks.at_all());
        Ok((sink, messages))
    }
}

async fn connect(target: &Target) -> Result<PubSub> {
    let silent = |_| Err(error::no_answer(&target.to_string(), PATIENCE));
    timeout(PATIENCE, target.listen()).await.unwrap_or_else(silent)
}

/// Hears messages for ever, on one connection after another.
async fn listen(
    subscription: Weak<Subscription>,
    silent: Arc<Notify>,
    mut sink: PubSubSink,
    mut messages: PubSubStream,
) {
    let mut backoff = Backoff::at_once();
    loop {
        let hear = async {
            let mut heard: usize = 0;
            // Without tokio's budget for a task: the client reads on in one of its own and keeps what is not taken.
            while let Some(message) = coop::unconstrained(messages.next()).await {
                heard += 1;
                if heard.is_multiple_of(BURST) {
                    yield_now().await;
                }
                match subscription.upgrade() {
                    Some(subscription) => subscription.hear(message.get_channel_name(), message.get_payload_bytes()),
                    None => return,
                }
            }
        };
        let pulse = async {
            loop {
                sleep(PULSE).await;
                match timeout(PATIENCE, sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    // It answers, and that is all that is asked.
                    Ok(Err(error)) if error::meaning(&error) == Some(Meaning::Later) => {}
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = hear => {}
            () = pulse => {}
            () = silent.notified() => {}
        }
        (sink, messages) = loop {
            backoff.pause().await;
            let Some(subscription) = subscription.upgrade() else { return };
            match subscription.renew().await {
                Ok(anew) => break anew,
                Err(error) => debug!(target: "leasehold::redis", "not subscribed: {error}"),
            }
        };
        backoff = Backoff::at_once();
    }
}

impl Shared {
    fn hear(self: &Arc<Self>, message: &[u8]) {
        match Message::read(message) {
            Some(Message::Granted(attempt, epoch)) => {
                if let Some(attempt) = self.claims.get(attempt)
                    && attempt.handed(epoch)
                {
                    self.connection.ask(&attempt);
                }
            }
            Some(Message::Lost(attempt)) => {
                if let Some(attempt) = self.claims.get(attempt) {
                    self.check(attempt);
                }
            }
            None => debug!(target: "leasehold::redis", "a message that is none of ours"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_words_are_understood() {
        let read = |text: &str| Message::read(text.as_bytes());
        assert_eq!(
            read("g0000000000000abc1795266979683100"),
            Some(Message::Granted(AttemptId(0xabc), 1795266979683100))
        );
        assert_eq!(read("l0000000000000abc"), Some(Message::Lost(AttemptId(0xabc))));
        for other in [
            "",
            "g",
            "g0000000000000abc",
            "l0000000000000abcx",
            "x0000000000000abc1",
            "l000000000000äabc",
            "g+00000000000000a1",
        ] {
            assert_eq!(read(other), None, "{other:?}");
        }
        assert_eq!(Message::read(b"\xff"), None);
    }
}
