//! The commands that a server must have.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::error;
use crate::backend::Result;

/// What every manager sends, and what the scripts call.
pub(super) const NEEDED: [&str; 28] = [
    "EVAL",
    "EVALSHA",
    "INFO",
    "SCAN",
    "PING",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PUBLISH",
    "TIME",
    "GET",
    "GETRANGE",
    "MGET",
    "SET",
    "DEL",
    "EXISTS",
    "TYPE",
    "PEXPIRE",
    "PTTL",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGE",
    "ZSCORE",
];

/// Checks that the server has them: `rename-command` hides some, and a script that calls one of these fails without naming it.
pub(super) async fn check(server: &str, connection: &mut MultiplexedConnection) -> Result<()> {
    let asked = redis::cmd("COMMAND").arg("INFO").arg(&NEEDED).query_async(connection).await;
    // Not every account may ask, and a server may have renamed this one as well.
    let Ok(Value::Array(known)) = asked else { return Ok(()) };
    let missing: Vec<_> =
        NEEDED.iter().zip(known).filter(|(_, known)| *known == Value::Nil).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(error::lacks(server, &missing.join(", "))) }
}
