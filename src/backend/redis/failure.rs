//! What Redis's errors mean: the one place where they are mapped.

use std::time::Duration;

use redis::{ErrorKind as RedisKind, RedisError};

use crate::backend::{BackendError, ErrorKind};

/// Maps an error of the client, which may be one that the server has answered.
pub(super) fn of(server: &str, error: &RedisError) -> BackendError {
    match (error.kind(), error.code()) {
        // The text comes from the server, which does not tell the password.
        (RedisKind::AuthenticationFailed, _) => {
            let detail = error.detail().unwrap_or("wrong user or password");
            BackendError::new(ErrorKind::Denied, format!("redis at {server} denied access: {detail}"))
        }
        (_, Some(code)) => answered(server, code, error.detail().unwrap_or_default()),
        // Such as a database that is not there: the client has no code for it, but the server's text.
        (RedisKind::UnexpectedReturnType | RedisKind::InvalidClientConfig | RedisKind::Client, _) => {
            let detail = error.detail().unwrap_or_default();
            BackendError::new(ErrorKind::Refused, format!("redis at {server} cannot be used: {error} {detail}"))
        }
        (RedisKind::RESP3NotSupported, _) => too_old(server, "one without RESP3"),
        _ => BackendError::new(ErrorKind::Unreachable, format!("redis at {server} is unreachable"))
            .because(error.clone()),
    }
}

/// Maps an error that a script has put into its answer: `READONLY You can't write…`, `ERR … -READONLY …` from older servers.
pub(super) fn in_script(server: &str, text: &str) -> BackendError {
    let code = text.split(|c: char| !c.is_ascii_uppercase()).find(|word| word.len() > 3 && KNOWN.contains(word));
    answered(server, code.unwrap_or("ERR"), text)
}

const KNOWN: &[&str] = &[
    "NOAUTH",
    "NOPERM",
    "WRONGPASS",
    "WRONGTYPE",
    "READONLY",
    "LOADING",
    "BUSY",
    "TRYAGAIN",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
];

fn answered(server: &str, code: &str, detail: &str) -> BackendError {
    // How scripts are told of what an ACL denies, before Redis 7 without a code.
    let denied = detail.contains("can't run this command") || detail.contains("No permissions to access");
    let (kind, what) = match code {
        "NOAUTH" | "NOPERM" | "WRONGPASS" => (ErrorKind::Denied, "denied access"),
        _ if denied || detail.contains("invalid password") => (ErrorKind::Denied, "denied access"),
        "WRONGTYPE" => (ErrorKind::Incompatible, "has something else there"),
        // It may pass: a restart, a script that is too slow, a failover.
        "READONLY" | "LOADING" | "BUSY" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" => {
            (ErrorKind::Unreachable, "does not serve at the moment")
        }
        _ => (ErrorKind::Refused, "refused"),
    };
    BackendError::new(kind, format!("redis at {server} {what}: {code} {detail}"))
}

/// Returns the error of a request that was not answered in time.
pub(super) fn no_answer(server: &str, limit: Duration) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("redis at {server} did not answer within {limit:?}"))
}

/// Returns the error of a connection that broke, with what was under way on it.
pub(super) fn broken(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("the connection to redis at {server} broke"))
}

/// Returns the error of an answer that no script gives.
pub(super) fn nonsense(server: &str) -> BackendError {
    BackendError::new(ErrorKind::Unreachable, format!("redis at {server} gave an answer that makes no sense"))
}

/// Returns the error of a key that another sort of client uses.
pub(super) fn incompatible(server: &str) -> BackendError {
    let reason = format!("held by an incompatible client: what stands at the key in redis at {server} is no string");
    BackendError::new(ErrorKind::Incompatible, reason)
}

/// Returns the error of a lease or a claim that is gone.
pub(super) fn lost(server: &str) -> BackendError {
    BackendError::new(ErrorKind::LeaseLost, format!("the claim is gone from redis at {server}"))
}

/// Returns the error of a server that cannot do what the scripts do.
pub(super) fn too_old(server: &str, version: &str) -> BackendError {
    let reason = format!("redis at {server} is too old: {version}, and 5.0 is the oldest that will do");
    BackendError::new(ErrorKind::Unsupported, reason)
}

/// Returns the error of a lock that too few replicas have.
pub(super) fn too_few(server: &str, found: i64, wanted: u32) -> BackendError {
    let reason = format!("{found} of {wanted} replicas of redis at {server} have confirmed the lock in time");
    BackendError::new(ErrorKind::Refused, reason)
}

/// Returns the error of a call after the end.
pub(super) fn closed() -> BackendError {
    BackendError::new(ErrorKind::Closed, "the connection to redis was closed")
}
