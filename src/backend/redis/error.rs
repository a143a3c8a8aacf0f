//! The meaning of Redis's errors: the one place where they are mapped.

use std::time::Duration;

use redis::{ErrorKind as RedisKind, RedisError};

use super::options::ServerKind;
use crate::backend::{BackendError, ErrorKind};

/// The meaning of an error that the server answers, for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The account has no permission.
    Denied,
    /// The key has a value of another type than a lock's.
    Incompatible,
    /// The server does not have a command that a script calls.
    Lacking,
    /// Permanent: a repeated request would fail as well.
    Refused,
    /// Temporary: to be repeated, on this connection or another one. The request had no effect.
    Later,
    /// The same, but the request may have had a part of its effect: a key of a slot that is being moved is gone.
    Halfway,
    /// Temporary, but the server at this connection does not serve requests: to be repeated on another one.
    Elsewhere,
}

use Meaning::{Denied, Elsewhere, Halfway, Incompatible, Lacking, Later, Refused};

/// Errors by their first word. All others are refusals.
const CODES: &[(&str, Meaning)] = &[
    ("NOAUTH", Denied),
    ("WRONGPASS", Denied),
    ("NOPERM", Denied),
    ("DENIED", Denied),
    ("WRONGTYPE", Incompatible),
    // The server is starting.
    ("LOADING", Later),
    // Another client's script is running.
    ("BUSY", Later),
    // Slots are being moved, or no server has them.
    ("TRYAGAIN", Later),
    ("CLUSTERDOWN", Later),
    // Too few replicas, by the server's configuration.
    ("NOREPLICAS", Later),
    // The server cannot write to its disk.
    ("MISCONF", Later),
    ("NOSCRIPT", Later),
    // A replica: another server is the master, or this one will be.
    ("READONLY", Elsewhere),
    ("MASTERDOWN", Elsewhere),
    // No memory: new locks are refused, renewals and releases work.
    ("OOM", Refused),
    // A server of a cluster that has other keys.
    ("MOVED", Refused),
    ("ASK", Refused),
    ("CROSSSLOT", Refused),
    ("EXECABORT", Refused),
];

/// Errors with an unspecific first word, by their text.
const TEXTS: &[(&str, Meaning)] = &[
    // The server answers this to any request, and closes the connection.
    ("max number of clients", Elsewhere),
    ("Script killed by user", Later),
    // A slot is being moved.
    ("non local key", Halfway),
    ("undeclared key", Halfway),
    ("Unknown Redis command called from", Lacking),
    // Valkey's.
    ("Unknown command called from", Lacking),
    // The error of a command that an ACL denies to a script, before Redis 7 without a code.
    ("can't run this command", Denied),
    ("No permissions to access", Denied),
    ("invalid password", Denied),
    ("without any password configured", Denied),
    ("no password is set", Denied),
];

/// The meaning of an error of the client, if the server has answered it.
pub(super) fn meaning(error: &RedisError) -> Option<Meaning> {
    let detail = error.detail().unwrap_or_default();
    match error.code() {
        Some(code) => Some(means(code, detail)),
        // The client's text for it, followed by the server's.
        None => TEXTS.iter().find(|(text, _)| detail.contains(text)).map(|(_, meaning)| *meaning),
    }
}

fn means(code: &str, detail: &str) -> Meaning {
    let by_text = || TEXTS.iter().find(|(text, _)| detail.contains(text));
    CODES.iter().find(|(known, _)| *known == code).or_else(by_text).map_or(Refused, |(_, meaning)| *meaning)
}

/// Whether the server does not know a command that was sent.
pub(super) fn is_unknown_command(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| text.starts_with("unknown command"))
}

/// Maps an error of the client.
pub(super) fn of(server: &str, error: &RedisError) -> BackendError {
    // A server that does not know a command repeats its arguments, the password for example.
    let detail = error.detail().and_then(|text| text.split(", with args beginning with").next()).unwrap_or_default();
    if let Some(meaning) = meaning(error) {
        return answered(server, meaning, error.code().unwrap_or("ERR"), detail);
    }
    match error.kind() {
        RedisKind::AuthenticationFailed => {
            let detail = if detail.is_empty() { "wrong user or password" } else { detail };
            BackendError::new(ErrorKind::Denied, format!("redis at {server} denied access: {detail}"))
        }
        // A database that does not exist, for example: the client has no code for it, only the server's text.
        RedisKind::UnexpectedReturnType | RedisKind::InvalidClientConfig | RedisKind::Client => {
            BackendError::new(ErrorKind::Refused, format!("redis at {server} cannot be used: {error} {detail}"))
        }
        RedisKind::RESP3NotSupported => {
            let reason = format!("redis at {server} is too old for the client's `protocol=resp3`: 6.0 has it");
            BackendError::new(ErrorKind::Unsupported, reason)
        }
        _ => BackendError::new(ErrorKind::Unreachable, format!("redis at {server} is unreachable"))
            .because(error.clone()),
    }
}

/// Maps an error in the answer of a script: `READONLY You can't write…`, `ERR … -READONLY …` from older servers.
pub(super) fn in_script(server: &str, text: &str) -> (Meaning, BackendError) {
    let mut words = text.split(|c: char| !c.is_ascii_uppercase());
    let code = words.find(|word| CODES.iter().any(|(code, _)| code == word)).unwrap_or("ERR");
    let meaning = means(code, text);
    (meaning, answered(server, meaning, code, text))
}

fn answered(server: &str, meaning: Meaning, code: &str, detail: &str) -> BackendError {
    let (kind, what) = match meaning {
        Denied => (ErrorKind::Denied, "denied access"),
        Incompatible => (ErrorKind::Incompatible, "has a value of another type at the key"),
        // Its text does not name the command.
        Lacking => (ErrorKind::Unsupported, "lacks a command that locks need, or has renamed it"),
        Refused => (ErrorKind::Refused, "refused"),
        Later | Halfway | Elsewhere => (ErrorKind::Unreachable, "serves no requests at present"),
    };
    BackendError::new(kind, format!("redis at {server} {what}: {code} {detail}"))
}

/// Returns the error of a request that was not answered in time.
pub(super) fn no_answer(server: &str, limit: Duration) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("redis at {server} did not answer within {limit:?}"))
}

/// Returns the error of a request whose connection broke.
pub(super) fn broken(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("the connection to redis at {server} broke"))
}

/// Returns the error of an answer of unknown form.
pub(super) fn malformed(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("redis at {server} gave a malformed answer"))
}

/// Returns the error of a key that another kind of client uses.
pub(super) fn incompatible(server: &str) -> BackendError {
    let reason = format!("held by an incompatible client: the value of the key in redis at {server} is not a string");
    BackendError::new(ErrorKind::Incompatible, reason)
}

/// Returns the error of a key that belongs to leasehold, but has not its shape.
pub(super) fn not_ours(server: &str, key: &str) -> BackendError {
    let reason = format!("the key {key:?} in redis at {server} was not written by leasehold: remove it");
    BackendError::new(ErrorKind::Incompatible, reason)
}

/// Returns the error of a lease or a claim that no longer exists.
pub(super) fn lost(server: &str) -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, format!("the claim no longer exists in redis at {server}"))
}

/// Returns the error of a server that cannot run the scripts.
pub(super) fn too_old(server: &str, version: &str) -> BackendError {
    let reason = format!("redis at {server} is too old: {version}; at least 5.0 is required");
    BackendError::new(ErrorKind::Unsupported, reason)
}

/// Returns the error of a server without some commands.
pub(super) fn lacks(server: &str, commands: &str) -> BackendError {
    let reason = format!("redis at {server} lacks commands that locks need, or has renamed them: {commands}");
    BackendError::new(ErrorKind::Unsupported, reason)
}

/// Returns the error of a server of another kind than the address says.
pub(super) fn wrong_kind(server: &str, found: ServerKind) -> BackendError {
    let (what, form) = match found {
        ServerKind::Standalone => ("neither a sentinel nor a node of a cluster", "redis://"),
        ServerKind::Node => ("a node of a cluster", "redis+cluster://"),
        ServerKind::Sentinel => ("a sentinel", "redis+sentinel://host/master"),
    };
    let reason = format!("redis at {server} is {what}: its URL begins with {form}");
    BackendError::new(ErrorKind::Misconfigured, reason)
}

/// Returns the error of a server that is no master, though the sentinels name it.
pub(super) fn no_master(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("redis at {server} is a replica, and should be the master"))
}

/// Returns the error of requests to a master that was replaced by another one.
pub(super) fn deposed(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("redis at {server} is no longer the master"))
}

/// Returns the error of a node at the address of another one.
pub(super) fn another_node(server: &str) -> BackendError {
    let reason = format!("redis at {server} is another node than the cluster has named");
    BackendError::new(ErrorKind::Unreachable, reason)
}

/// Returns the error of sentinels that do not know the master.
pub(super) fn unknown_master(sentinel: &str, master: &str) -> BackendError {
    let reason = format!("the sentinel at {sentinel} watches no master named {master:?}");
    BackendError::new(ErrorKind::Misconfigured, reason)
}

/// Explains the error of a sentinel.
pub(super) fn of_sentinel(error: BackendError) -> BackendError {
    match error.kind() {
        ErrorKind::Denied => BackendError::new(
            ErrorKind::Denied,
            format!("{error} (the sentinels' account is sentinel_username and sentinel_password)"),
        ),
        _ => error,
    }
}

/// Returns the error of a cluster without slots, which was not set up.
pub(super) fn no_slots(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("the cluster of redis at {server} has no slots yet"))
}

/// Returns the error of a lock that too few replicas have, for now.
pub(super) fn too_few(server: &str, found: i64, wanted: u32) -> BackendError {
    let reason = format!("{found} of {wanted} replicas of redis at {server} confirmed the lock in time");
    BackendError::new(ErrorKind::Unreachable, reason)
}

/// Returns the error of a call after `close`.
pub(super) fn closed() -> BackendError {
    BackendError::new(ErrorKind::Closed, "the connection to redis was closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of servers, verbatim, and their meaning.
    const ANSWERS: &[(&str, Meaning)] = &[
        ("NOREPLICAS Not enough good replicas to write.", Later),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", Later),
        ("LOADING Redis is loading the dataset in memory", Later),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Later),
        ("CLUSTERDOWN The cluster is down", Later),
        ("CLUSTERDOWN Hash slot not served", Later),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", Later),
        ("NOSCRIPT No matching script. Please use EVAL.", Later),
        ("ERR Error running script (call to f_1): Script killed by user with SCRIPT KILL...", Later),
        ("ERR Script attempted to access a non local key in a cluster node", Halfway),
        ("ERR Script tried accessing undeclared key", Halfway),
        ("READONLY You can't write against a read only replica.", Elsewhere),
        ("MASTERDOWN Connection with MASTER is down and replica-serve-stale-data is set to 'no'.", Elsewhere),
        ("ERR max number of clients reached", Elsewhere),
        ("ERR max number of clients + cluster connections reached", Elsewhere),
        ("NOAUTH Authentication required.", Denied),
        ("WRONGPASS invalid username-password pair or user is disabled.", Denied),
        ("NOPERM this user has no permissions to run the 'evalsha' command", Denied),
        ("ERR invalid password", Denied),
        ("ERR AUTH <password> called without any password configured for the default user.", Denied),
        ("ERR Client sent AUTH, but no password is set", Denied),
        ("DENIED Redis is running in protected mode because protected mode is enabled", Denied),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", Incompatible),
        ("OOM command not allowed when used memory > 'maxmemory'.", Refused),
        ("CROSSSLOT Keys in request don't hash to the same slot", Refused),
        ("EXECABORT Transaction discarded because of previous errors.", Refused),
        ("MOVED 3999 127.0.0.1:6381", Refused),
        ("ASK 3999 127.0.0.1:6381", Refused),
        ("ERR unknown command 'evalsha', with args beginning with: ", Refused),
        ("ERR Unknown Redis command called from script script: 0d1c, on @user_script:42.", Lacking),
        ("ERR DB index is out of range", Refused),
        ("ERR Write commands not allowed after non deterministic commands. Call redis.replicate_commands()", Refused),
        ("WHATEVER a later version may say", Refused),
    ];

    fn kind_of(meaning: Meaning) -> ErrorKind {
        match meaning {
            Later | Halfway | Elsewhere => ErrorKind::Unreachable,
            Denied => ErrorKind::Denied,
            Incompatible => ErrorKind::Incompatible,
            Lacking => ErrorKind::Unsupported,
            Refused => ErrorKind::Refused,
        }
    }

    #[test]
    fn an_error_means_the_same_as_an_answer_and_within_the_answer_of_a_script() {
        for (answer, wanted) in ANSWERS {
            // As the client reads it from the wire.
            let value = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes());
            let error = value.and_then(redis::Value::extract_error).unwrap_err();
            assert_eq!(meaning(&error), Some(*wanted), "{answer}");
            let mapped = of("host:1", &error);
            assert_eq!(mapped.kind(), kind_of(*wanted), "{answer}");
            let (text, arguments) = answer.split_once(", with args beginning with").unwrap_or((answer, ""));
            assert!(mapped.to_string().contains(text.split_once(' ').unwrap().1.trim()), "{mapped}");
            assert!(arguments.is_empty() || !mapped.to_string().contains("with args"), "{mapped}");
            // Redis 7 gives scripts the answer as it is, older ones wrap it.
            for text in [(*answer).to_owned(), format!("ERR Error running script: @user_script:7: -{answer}")] {
                let (meaning, mapped) = in_script("host:1", &text);
                assert_eq!((meaning, mapped.kind()), (*wanted, kind_of(*wanted)), "{text}");
            }
        }
    }

    #[test]
    fn an_error_without_an_answer_is_temporary() {
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(meaning(&broken), None);
        assert_eq!(of("host:1", &broken).kind(), ErrorKind::Unreachable);
    }
}
