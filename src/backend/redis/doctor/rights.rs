//! The rights of the account: each command that the library sends, or that its scripts call, is tried on keys of its own.
//!
//! An ACL is checked before anything else: a server that does not serve the key, or a replica, refuses with another error what is
//! permitted.

use redis::{Cmd, RedisError, Value};

use super::super::error::{self, Meaning};
use super::super::listening::Listener;
use super::super::names::{Name, Names};
use super::asking::{Asking, command, within};
use super::facts::{Need, Refusal, Tried};
use crate::backend::Result;
use crate::backend::examination::PATIENCE;

/// How long what it writes is kept at most, in milliseconds: it is removed at the end.
const KEPT: &str = "10000";

/// What is only tried if the options ask for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) replicas: bool,
    pub(super) signal_lists: bool,
    pub(super) is_elected: bool,
    pub(super) is_node: bool,
}

/// The words of an ACL for the keys of locks with a prefix.
struct Words {
    lock: String,
    side: String,
    channel: String,
}

/// Tries one command after another.
pub(super) struct Rights<'a> {
    asking: &'a mut Asking,
    pub(super) tried: Vec<Tried>,
}

impl<'a> Rights<'a> {
    pub(super) fn new(asking: &'a mut Asking) -> Self {
        Self { asking, tried: Vec::new() }
    }

    /// Tries all, on the keys of a lock that nobody else uses. Fails if the connection does.
    pub(super) async fn try_all(&mut self, names: &Names, name: &Name, wanted: Wanted) -> Result<()> {
        let words = Words {
            lock: format!("~{}*", names.prefix()),
            side: format!("~{{*}}%*:{}*", names.prefix()),
            channel: format!("&{}%wake:*", names.prefix()),
        };
        self.try_plain(names).await?;
        self.try_strings(&words, &name.lock).await?;
        let common = names.common_in(name.slot, rand::random());
        let common = if wanted.is_node { common } else { names.common(rand::random()) };
        for key in [&name.queue, &name.readers, &common.gone] {
            self.try_sets(&words.side, key).await?;
        }
        // Those of all managers: they are read only.
        self.attempt("get", Some(&words.side), &["GET", &common.clock]).await?;
        self.attempt("zscore", Some(&words.side), &["ZSCORE", &common.lives, "leasehold-doctor"]).await?;
        let channel = format!("{}{:016x}", names.channels(None), rand::random::<u64>());
        self.attempt("publish", Some(&words.channel), &["PUBLISH", &channel, ""]).await?;
        self.try_messages(&words, &channel).await?;
        self.try_options(name, wanted).await
    }

    async fn try_plain(&mut self, names: &Names) -> Result<()> {
        self.attempt("ping", None, &["PING"]).await?;
        self.attempt("info", None, &["INFO", "server"]).await?;
        self.attempt("time", None, &["TIME"]).await?;
        self.attempt("scan", None, &["SCAN", "0", "MATCH", &names.pattern("leasehold-doctor-"), "COUNT", "1"]).await?;
        self.attempt("eval", None, &["EVAL", "return 1", "0"]).await?;
        // Of no script: only whether it may be asked for.
        self.attempt("evalsha", None, &["EVALSHA", "0000000000000000000000000000000000000000", "0"]).await
    }

    async fn try_strings(&mut self, words: &Words, key: &str) -> Result<()> {
        let scope = Some(&*words.lock);
        self.attempt("set", scope, &["SET", key, "leasehold-doctor", "PX", KEPT, "NX"]).await?;
        self.attempt("get", scope, &["GET", key]).await?;
        self.attempt("getrange", scope, &["GETRANGE", key, "0", "9"]).await?;
        self.attempt("mget", scope, &["MGET", key]).await?;
        self.attempt("exists", scope, &["EXISTS", key]).await?;
        self.attempt("type", scope, &["TYPE", key]).await?;
        self.attempt("pexpire", scope, &["PEXPIRE", key, KEPT]).await?;
        self.attempt("pttl", scope, &["PTTL", key]).await?;
        self.attempt("del", scope, &["DEL", key]).await
    }

    async fn try_sets(&mut self, scope: &str, key: &str) -> Result<()> {
        let scope = Some(scope);
        self.attempt("zadd", scope, &["ZADD", key, "1", "leasehold-doctor"]).await?;
        // Of another type, so nothing is written.
        self.attempt("getset", scope, &["GETSET", key, "leasehold-doctor"]).await?;
        self.attempt("pexpire", scope, &["PEXPIRE", key, KEPT]).await?;
        self.attempt("zcount", scope, &["ZCOUNT", key, "0", "1"]).await?;
        self.attempt("zrange", scope, &["ZRANGE", key, "0", "0"]).await?;
        self.attempt("zrangebyscore", scope, &["ZRANGEBYSCORE", key, "0", "1"]).await?;
        self.attempt("zrevrange", scope, &["ZREVRANGE", key, "0", "0"]).await?;
        self.attempt("zscore", scope, &["ZSCORE", key, "leasehold-doctor"]).await?;
        self.attempt("zremrangebyrank", scope, &["ZREMRANGEBYRANK", key, "9", "9"]).await?;
        self.attempt("zremrangebyscore", scope, &["ZREMRANGEBYSCORE", key, "9", "9"]).await?;
        self.attempt("zrem", scope, &["ZREM", key, "leasehold-doctor"]).await?;
        self.attempt("del", scope, &["DEL", key]).await
    }

    /// On a connection of its own, which serves nothing else from then on.
    async fn try_messages(&mut self, words: &Words, channel: &str) -> Result<()> {
        let target = self.asking.target.clone();
        let (mut listener, _notices) = within(&target, Listener::open(&target, PATIENCE)).await?;
        let subscribed = within(&target, async { Ok(listener.subscribe(channel).await) }).await?;
        let denied = subscribed.as_ref().err().and_then(refusal);
        self.note("subscribe", Some(words.channel.clone()), Need::Locks, denied);
        if subscribed.is_ok() {
            let unsubscribed = within(&target, async { Ok(listener.unsubscribe(channel).await) }).await?;
            self.note("unsubscribe", None, Need::Locks, unsubscribed.as_ref().err().and_then(refusal));
        }
        Ok(())
    }

    async fn try_options(&mut self, name: &Name, wanted: Wanted) -> Result<()> {
        const TRACKING: Need = Need::Less("locks that are removed or released by others are noticed later");
        const NAMING: Need = Need::Less("connect cannot name commands that the server lacks");
        const ROLE: Need = Need::Less("a replica is noticed when it refuses");
        const LISTS: Need = Need::Less("waiters of python-redis-lock are not notified");
        self.attempt_for(TRACKING, "client|tracking", None, &["CLIENT", "TRACKING", "OFF"]).await?;
        self.attempt_for(NAMING, "command", None, &["COMMAND", "INFO", "GET"]).await?;
        if wanted.is_elected {
            self.attempt_for(ROLE, "role", None, &["ROLE"]).await?;
        }
        if wanted.replicas {
            self.attempt("wait", None, &["WAIT", "0", "1"]).await?;
        }
        if wanted.is_node {
            self.attempt("cluster|slots", None, &["CLUSTER", "SLOTS"]).await?;
            self.attempt("cluster|myid", None, &["CLUSTER", "MYID"]).await?;
            self.attempt("asking", None, &["ASKING"]).await?;
        }
        if wanted.signal_lists {
            let list = format!("lock-signal:{}", name.lock.strip_prefix("lock:").unwrap_or(&name.lock));
            let scope = Some("~lock-signal:*");
            self.attempt_for(LISTS, "lpush", scope, &["LPUSH", &list, "1"]).await?;
            self.attempt_for(LISTS, "del", scope, &["DEL", &list]).await?;
        }
        Ok(())
    }

    async fn attempt(&mut self, command: &'static str, scope: Option<&str>, words: &[&str]) -> Result<()> {
        self.attempt_for(Need::Locks, command, scope, words).await
    }

    async fn attempt_for(&mut self, need: Need, name: &'static str, scope: Option<&str>, words: &[&str]) -> Result<()> {
        let sent: Cmd = command(words);
        let answer = self.asking.answer::<Value>(&sent).await?;
        self.note(name, scope.map(str::to_owned), need, answer.err().as_ref().and_then(refusal));
        Ok(())
    }

    fn note(&mut self, command: &'static str, scope: Option<String>, need: Need, refusal: Option<Refusal>) {
        self.tried.push(Tried { command, scope, need, refusal });
    }
}

/// What is missing, by the error of a command. Other errors come after the account's rights were checked.
fn refusal(error: &RedisError) -> Option<Refusal> {
    if error::is_unknown_command(error) {
        return Some(Refusal::Unknown);
    }
    if error::meaning(error) != Some(Meaning::Denied) {
        return None;
    }
    let text = error.detail().unwrap_or_default();
    let is_about_scope = text.contains("one of the keys") || text.contains("a key") || text.contains("channel");
    Some(if is_about_scope { Refusal::Scope } else { Refusal::Command })
}
