//! What a server must be and have: its version, its kind, its role, and the commands.

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::error::Meaning;
use super::options::{ServerKind, Target, field};
use super::{client, error};
use crate::backend::{BackendError, ErrorKind, Result};

/// The oldest version whose scripts can read the time.
const OLDEST: (u32, u32) = (5, 0);

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
    "GETSET",
    "MGET",
    "SET",
    "DEL",
    "EXISTS",
    "TYPE",
    "PEXPIRE",
    "PTTL",
    "ZADD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGE",
    "ZSCORE",
];

/// Checks that the server has a supported version, is of this kind, and has the commands.
pub(super) async fn check(target: &Target, kind: ServerKind, connection: &mut MultiplexedConnection) -> Result<()> {
    let server = target.to_string();
    match redis::cmd("INFO").arg("server").query_async::<String>(connection).await {
        Ok(info) => check_version(&server, &info).and_then(|()| check_kind(&server, &info, kind))?,
        // Not every account may read it, and what is missing is named later. A server that is too old refuses the scripts.
        Err(error) if error::is_unknown_command(&error) => {}
        Err(error) if error::of("", &error).kind() == ErrorKind::Denied && error.code() != Some("NOAUTH") => {}
        Err(error) => return Err(client::explain(target, &error)),
    }
    check_commands(&server, connection).await
}

/// Checks that the server takes itself for a master. One that was deposed may do so as well, until it is told.
pub(super) async fn check_role(target: &Target, connection: &mut MultiplexedConnection) -> Result<()> {
    match redis::cmd("ROLE").query_async::<Vec<Value>>(connection).await {
        Ok(role) => match role.first() {
            Some(Value::BulkString(role)) if role != b"master" => Err(error::no_master(&target.to_string())),
            _ => Ok(()),
        },
        // Not every account may ask, and a replica refuses to write.
        Err(error) if error::is_unknown_command(&error) || error::meaning(&error) == Some(Meaning::Denied) => Ok(()),
        Err(error) => Err(client::explain(target, &error)),
    }
}

/// Checks that the server is the node with this id: after the death of a node another one may be at its address, of another cluster
/// even. Also checks that the account may send what is needed while slots are being moved.
pub(super) async fn check_node(target: &Target, id: &str, connection: &MultiplexedConnection) -> Result<()> {
    let (mut identifying, mut asking) = (connection.clone(), connection.clone());
    let (mut my_id, ask) = (redis::cmd("CLUSTER"), redis::cmd("ASKING"));
    my_id.arg("MYID");
    let answers = tokio::try_join!(my_id.query_async::<String>(&mut identifying), ask.query_async::<()>(&mut asking));
    let (found, ()) = answers.map_err(|error| client::explain(target, &error))?;
    if found == id { Ok(()) } else { Err(error::another_node(&target.to_string())) }
}

/// Returns the error of a server without the command of its kind: it is of another one, unless it has renamed the command.
pub(super) async fn lacks(
    target: &Target,
    command: &str,
    wanted: ServerKind,
    connection: &mut MultiplexedConnection,
) -> BackendError {
    let info = redis::cmd("INFO").arg("server").query_async::<String>(connection).await.unwrap_or_default();
    match ServerKind::of(&info) {
        found if found == wanted => error::lacks(&target.to_string(), command),
        found => error::wrong_kind(&target.to_string(), found),
    }
}

pub(super) fn check_version(server: &str, info: &str) -> Result<()> {
    let version = field(info, "redis_version:").unwrap_or_default();
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Err(error::too_old(server, version)),
        // A server with another kind of version may work.
        _ => Ok(()),
    }
}

pub(super) fn check_kind(server: &str, info: &str, wanted: ServerKind) -> Result<()> {
    let found = ServerKind::of(info);
    if found == wanted { Ok(()) } else { Err(error::wrong_kind(server, found)) }
}

/// Checks that the server has the commands: `rename-command` hides some, and a script that calls one of these fails without naming it.
async fn check_commands(server: &str, connection: &mut MultiplexedConnection) -> Result<()> {
    let asked = redis::cmd("COMMAND").arg("INFO").arg(&NEEDED).query_async(connection).await;
    // Not every account may ask, and a server may have renamed this one as well.
    let Ok(Value::Array(known)) = asked else { return Ok(()) };
    let missing: Vec<_> =
        NEEDED.iter().zip(known).filter(|(_, known)| *known == Value::Nil).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(error::lacks(server, &missing.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_too_old_is_refused_and_the_minimum_named() {
        let of =
            |version: &str| check_version("host:1", &format!("# Server\r\nredis_version:{version}\r\nos:Linux\r\n"));
        for old in ["4.0.14", "3.2.1", "2.8.24"] {
            let error = of(old).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(old) && error.to_string().contains("5.0"), "{error}");
        }
        for new in ["5.0.0", "5.0.14", "6.2.1", "7.0.15", "10.1.0", "255.255.255", "unstable"] {
            assert!(of(new).is_ok(), "{new}");
        }
        assert!(check_version("host:1", "").is_ok());
    }

    #[test]
    fn a_server_of_another_kind_is_refused_and_its_scheme_named() {
        use ServerKind::{Node, Sentinel, Standalone};
        for (line, found, scheme) in [
            ("redis_mode:cluster", Node, "redis+cluster://"),
            ("server_mode:cluster", Node, "redis+cluster://"),
            ("redis_mode:sentinel", Sentinel, "redis+sentinel://"),
            ("server_mode:sentinel", Sentinel, "redis+sentinel://"),
            ("redis_mode:standalone", Standalone, "redis://"),
            ("server_mode:standalone", Standalone, "redis://"),
            ("redis_mode:", Standalone, "redis://"),
            ("", Standalone, "redis://"),
        ] {
            let info = format!("# Server\r\nredis_version:7.0.15\r\n{line}\r\nos:Linux\r\n");
            for wanted in [Standalone, Node, Sentinel] {
                match check_kind("host:1", &info, wanted) {
                    Ok(()) => assert_eq!(found, wanted, "{line}"),
                    Err(error) => {
                        assert_ne!(found, wanted, "{line}");
                        assert_eq!(error.kind(), ErrorKind::Misconfigured);
                        assert!(error.to_string().contains(scheme), "{error}");
                    }
                }
            }
        }
    }
}
