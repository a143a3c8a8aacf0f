//! The server of a walk: a real Redis, whose time is that of the walk.

use redis::{Connection, Value, cmd};

use super::super::super::answers::{Answer, Reply};
use super::super::super::script::Kind;

const SHIM: &str = include_str!("shim.lua");
const PREFIX: &str = "lock:";

/// A fault that is planted into the scripts, to see that the model finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defect {
    pub(super) kind: Kind,
    pub(super) text: &'static str,
    pub(super) instead: &'static str,
}

pub(super) struct Server {
    connection: Connection,
    hashes: [String; Kind::ALL.len()],
    plain: String,
}

impl Server {
    pub(super) fn new(mut connection: Connection, defect: Option<Defect>) -> Self {
        let load = |connection: &mut Connection, text: &str| -> String {
            cmd("SCRIPT").arg("LOAD").arg(format!("{SHIM}\n{text}")).query(connection).unwrap()
        };
        let hashes = Kind::ALL.map(|kind| {
            let mut text = kind.compiled(false).text.clone();
            if let Some(defect) = defect.filter(|defect| defect.kind == kind) {
                assert!(text.contains(defect.text), "there is no {:?}", defect.text);
                text = text.replace(defect.text, defect.instead);
            }
            load(&mut connection, &text)
        });
        let plain = load(&mut connection, "return redis.call(unpack(ARGV))");
        Self { connection, hashes, plain }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, now: u64) {
        cmd("FLUSHDB").exec(&mut self.connection).unwrap();
        self.set_time(now);
    }

    /// Sets the time, in us.
    pub(super) fn set_time(&mut self, now: u64) {
        cmd("SET").arg("%now").arg(now).exec(&mut self.connection).unwrap();
    }

    /// Runs a script, and returns the answer for each operation.
    pub(super) fn run(&mut self, kind: Kind, keys: &[String], args: &[String]) -> Vec<Value> {
        let mut call = cmd("EVALSHA");
        call.arg(&self.hashes[kind as usize]).arg(keys.len()).arg(keys).arg("7").arg(args);
        let answer: Value = call.query(&mut self.connection).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let count = match kind {
            Kind::Life => 1,
            Kind::Renew => args.len() / 3,
            _ => (keys.len() - 3) / 3,
        };
        let mut reply = Reply::read(answer, 7, count).unwrap();
        reply.take_answers().into_iter().map(Answer::into_value).collect()
    }

    /// Runs a plain command.
    pub(super) fn command(&mut self, words: &[&str]) -> Value {
        cmd("EVALSHA").arg(&self.plain).arg(0).arg(words).query(&mut self.connection).unwrap()
    }

    /// Takes what was published: the manager and the message.
    pub(super) fn messages(&mut self) -> Vec<(u64, String)> {
        let messages: Vec<String> = cmd("LRANGE").arg("%messages").arg(0).arg(-1).query(&mut self.connection).unwrap();
        cmd("DEL").arg("%messages").exec(&mut self.connection).unwrap();
        let read = |message: String| {
            let (channel, text) = message.split_once(' ').unwrap();
            (u64::from_str_radix(channel.strip_prefix("lock:%wake:").unwrap(), 16).unwrap(), text.to_owned())
        };
        messages.into_iter().map(read).collect()
    }

    pub(super) fn get(&mut self, key: &str) -> Option<String> {
        match self.command(&["GET", key]) {
            Value::Nil => None,
            value => Some(text(&value)),
        }
    }

    pub(super) fn score(&mut self, key: &str, member: &str) -> Option<u64> {
        match self.command(&["ZSCORE", key, member]) {
            Value::Nil => None,
            value => Some(text(&value).parse::<f64>().unwrap() as u64),
        }
    }

    /// The members of a sorted set, with their scores.
    pub(super) fn members(&mut self, key: &str) -> Vec<(String, u64)> {
        let Value::Array(found) = self.command(&["ZRANGE", key, "0", "-1", "WITHSCORES"]) else { panic!("no list") };
        found.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]).parse::<f64>().unwrap() as u64)).collect()
    }
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        other => panic!("no text: {other:?}"),
    }
}

/// The names of the keys.
pub(super) fn clock() -> String {
    format!("%clock:{PREFIX}")
}

pub(super) fn lives() -> String {
    format!("%lives:{PREFIX}")
}

pub(super) fn lock(key: usize) -> String {
    format!("{PREFIX}k{key}")
}

pub(super) fn side(kind: &str, key: usize) -> String {
    format!("{{t}}%{kind}:{}", lock(key))
}

pub(super) fn gone(manager: u64) -> String {
    format!("%gone:{PREFIX}{manager:016x}")
}

/// The keys of a manager's call.
pub(super) fn keys_of(manager: u64, keys: impl Iterator<Item = usize>) -> Vec<String> {
    let keys: Vec<usize> = keys.collect();
    let of = |kind: fn(usize) -> String| keys.iter().map(move |key| kind(*key));
    let kinds = of(|key| side("q2", key)).chain(of(lock)).chain(of(|key| side("r2", key)));
    [clock(), lives(), gone(manager)].into_iter().chain(kinds).collect()
}

/// The argument of an acquire or a release for all of its claims, each with the word before it.
pub(super) fn common<'a>(kind: Kind, parts: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let ttl = |claim: &str| claim.split(':').nth(4).unwrap().to_owned();
    let words: &[&str] = if kind == Kind::Acquire { &["0", "-"] } else { &["0"] };
    let first = parts.clone().next().unwrap().0;
    let is_like = |(claim, word): (&str, &str)| {
        claim.as_bytes()[34] == b'x' && words.contains(&word) && (kind == Kind::Release || ttl(claim) == ttl(first))
    };
    match (kind, parts.clone().all(is_like)) {
        (Kind::Acquire, true) => ttl(first),
        (_, true) => "1".into(),
        (_, false) => String::new(),
    }
}
