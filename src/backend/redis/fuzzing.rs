//! Reads bytes that a server, or anyone who can write there, may send: for the fuzz target, without a server.

use redis::Value;

use super::answers::{self, AcquireAnswer, Answer, Reply};
use super::inspect::{Snapshot, read_page};
use super::names::Names;
use super::pubsub::Message;
use super::value::{self, LockValue};
use crate::info::LockInfo;

/// Reads what a server sends, as the backend does.
#[derive(Debug)]
pub struct RedisAnswers(Names);

impl RedisAnswers {
    /// Creates a reader for locks with this prefix.
    pub fn new(prefix: &str) -> Self {
        Self(Names::new(prefix.into()))
    }

    /// Reads the value of a lock's key. Returns the holder's name if the value describes one.
    pub fn read_value(&self, value: &[u8]) -> Option<String> {
        match value::read(value) {
            LockValue::Ours { described, .. } => described.map(|described| described.holder.name),
            LockValue::Shared(_) | LockValue::Foreign => None,
        }
    }

    /// Reads a message. Returns the attempt, and the epoch if it was granted one; or the ear that was notified.
    pub fn read_message(&self, message: &[u8]) -> Option<(u64, Option<u64>)> {
        match Message::read(message)? {
            Message::Granted(attempt, epoch) => Some((attempt.0, Some(epoch))),
            Message::Lost(attempt) => Some((attempt.0, None)),
            Message::Heard(ear) => Some((ear, None)),
        }
    }

    /// Reads a reply from the wire as the answers to `count` acquires. Returns the epochs that were granted.
    pub fn read_acquires(&self, reply: &[u8], number: u64, count: usize) -> Vec<u64> {
        let Some(mut reply) = parse(reply).and_then(|reply| Reply::read(reply, number, count)) else {
            return Vec::new();
        };
        let epoch = |answer: Answer<'_>| match AcquireAnswer::read("server", &answer) {
            AcquireAnswer::Granted(epoch) => Some(epoch),
            _ => None,
        };
        let answers = reply.take_answers().into_iter();
        answers.filter(|answer| answers::failed("server", answer).is_none()).filter_map(epoch).collect()
    }

    /// Reads a reply from the wire as the snapshot of a lock.
    pub fn read_info(&self, reply: &[u8], key: &str) -> Option<LockInfo> {
        Snapshot::read(parse(reply)?)?.info(key)
    }

    /// Reads a reply from the wire as a page of a list. Returns the keys of our locks on it.
    pub fn read_page(&self, reply: &[u8]) -> Option<Vec<String>> {
        let (_, names) = read_page(parse(reply)?)?;
        Some(names.iter().filter_map(|name| self.0.key(name)).map(str::to_owned).collect())
    }
}

fn parse(reply: &[u8]) -> Option<Value> {
    redis::parse_redis_value(reply).ok()?.extract_error().ok()
}
