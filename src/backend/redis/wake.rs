//! Messages: who was handed a lock, and who was evicted from one. One subscription for each manager.
//!
//! `g<attempt><epoch>`: the lock was handed over to this attempt. `l<attempt>`: it was taken away.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use log::debug;
use redis::aio::PubSub;
use tokio::time::{sleep, timeout};

use super::connection::Backoff;
use super::{Shared, failure, token};
use crate::backend::{AttemptId, Result};

/// How often a silent subscription is asked for a sign of life. If it is dead, waiters look by themselves meanwhile.
const PULSE: Duration = Duration::from_secs(3);

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Granted(AttemptId, u64),
    Lost(AttemptId),
}

impl Word {
    /// Reads a message that anybody may have written.
    fn read(message: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let (attempt, epoch) = (token::attempt(text.get(1..17)?)?, text.get(17..)?);
        match (text.as_bytes()[0], epoch) {
            (b'g', epoch) => Some(Self::Granted(attempt, epoch.parse().ok()?)),
            (b'l', "") => Some(Self::Lost(attempt)),
            _ => None,
        }
    }
}

/// Subscribes to a manager's channel, whose name nobody else has.
pub(super) async fn subscribe(shared: &Shared) -> Result<PubSub> {
    let limit = shared.connection.patience();
    let listening = shared.connection.target().listen(&shared.channel);
    timeout(limit, listening).await.unwrap_or_else(|_| Err(failure::no_answer(shared.connection.server(), limit)))
}

/// Hears messages for ever, on one subscription after another.
pub(super) async fn listen(shared: Weak<Shared>, mut subscription: PubSub) {
    let mut backoff = Backoff::default();
    loop {
        let Some(limit) = shared.upgrade().map(|shared| shared.connection.patience()) else { return };
        let (mut sink, mut messages) = subscription.split();
        let hear = async {
            while let Some(message) = messages.next().await {
                match shared.upgrade() {
                    Some(shared) => shared.hear(message.get_payload_bytes()),
                    None => return,
                }
            }
        };
        let pulse = async {
            loop {
                sleep(PULSE).await;
                if !matches!(timeout(limit, sink.ping::<redis::Value>()).await, Ok(Ok(_))) {
                    return;
                }
            }
        };
        tokio::select! {
            () = hear => {}
            () = pulse => {}
        }
        loop {
            backoff.pause().await;
            let Some(shared) = shared.upgrade() else { return };
            match subscribe(&shared).await {
                Ok(anew) => {
                    subscription = anew;
                    backoff = Backoff::default();
                    // What was said meanwhile was lost.
                    shared.looks.at_all();
                    break;
                }
                Err(error) => debug!(target: "leasehold::redis", "not subscribed: {error}"),
            }
        }
    }
}

impl Shared {
    fn hear(self: &Arc<Self>, message: &[u8]) {
        match Word::read(message) {
            Some(Word::Granted(attempt, epoch)) => {
                if let Some(attempt) = self.claims.get(attempt)
                    && attempt.handed(epoch)
                {
                    self.connection.ask(&attempt);
                }
            }
            Some(Word::Lost(attempt)) => {
                if let Some(attempt) = self.claims.get(attempt) {
                    self.lose(&attempt);
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
        let read = |text: &str| Word::read(text.as_bytes());
        assert_eq!(read("g0000000000000abc1795266979683100"), Some(Word::Granted(AttemptId(0xabc), 1795266979683100)));
        assert_eq!(read("l0000000000000abc"), Some(Word::Lost(AttemptId(0xabc))));
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
        assert_eq!(Word::read(b"\xff"), None);
    }
}
