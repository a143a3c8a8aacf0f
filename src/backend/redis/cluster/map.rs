//! Which node has which slot, as a node of the cluster says.

use std::time::Duration;

use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::super::options::{Node, Server, ServerKind, Target};
use super::super::{answers, client, error, requirements};
use crate::backend::{BackendError, Result};
use crate::process::report::debug;

/// The longest time to wait for one node.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many masters there may be: as many as clusters have at the most, by the documentation of Redis.
const MOST: usize = 1000;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its id in the cluster.
    pub(crate) id: String,
    pub(crate) address: Node,
}

/// Which node has which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Those that have slots.
    pub(crate) masters: Vec<Member>,
    pub(crate) replicas: Vec<Member>,
    /// First and last slots, and the place of their node among the masters.
    pub(crate) ranges: Vec<(u16, u16, usize)>,
}

impl Said {
    /// Reads the answer to `CLUSTER SLOTS` from the node `asked`, whose own host stands for one that is not named.
    pub(super) fn read(answer: &Value, asked: &Node) -> Option<Self> {
        let Value::Array(ranges) = answer else { return None };
        let mut said = Self::default();
        for range in ranges {
            let Value::Array(fields) = range else { return None };
            let [Value::Int(first), Value::Int(last), master, replicas @ ..] = &fields[..] else { return None };
            let master = member(master, asked)?;
            let place = said.masters.iter().position(|known| *known == master).unwrap_or(said.masters.len());
            if place == MOST {
                return None;
            }
            if place == said.masters.len() {
                said.masters.push(master);
            }
            let room = MOST.saturating_sub(said.replicas.len());
            said.replicas.extend(replicas.iter().filter_map(|replica| member(replica, asked)).take(room));
            said.ranges.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, place));
        }
        Some(said)
    }
}

fn member(fields: &Value, asked: &Node) -> Option<Member> {
    let Value::Array(fields) = fields else { return None };
    let [host, Value::Int(port), id, ..] = &fields[..] else { return None };
    let port = u16::try_from(*port).ok().filter(|port| *port > 0)?;
    let address = match answers::text(host).unwrap_or_default() {
        "" | "?" => Node { host: asked.host.clone(), port },
        host => Node::named(host, port)?,
    };
    Some(Member { id: answers::text(id)?.to_owned(), address })
}

/// The target of one node.
pub(super) fn target(cluster: &Server, node: &Node) -> Target {
    Target::Server(Server { address: node.address(cluster.address.tls()), ..cluster.clone() })
}

/// Asks one node after another, until one has answered.
pub(crate) async fn ask(cluster: Server, nodes: Vec<Node>) -> Result<Said> {
    let mut failure = error::broken(&cluster.address.to_string());
    for node in nodes {
        match ask_one(&cluster, &node).await {
            Ok(said) if !said.masters.is_empty() => return Ok(said),
            Ok(_) => failure = error::no_slots(&node.to_string()),
            Err(error) => {
                debug!(target: "leasehold::redis", "{error}");
                failure = error;
            }
        }
    }
    Err(failure)
}

async fn ask_one(cluster: &Server, node: &Node) -> Result<Said> {
    let (target, mut slots) = (target(cluster, node), redis::cmd("CLUSTER"));
    slots.arg("SLOTS");
    let answer: Value = query(&target, &slots).await?;
    Said::read(&answer, node).ok_or_else(|| error::malformed(&target.to_string()))
}

/// Asks a node for its id.
pub(super) async fn identify(cluster: &Server, node: &Node) -> Result<String> {
    let mut id = redis::cmd("CLUSTER");
    id.arg("MYID");
    let target = target(cluster, node);
    let answer = query(&target, &id).await?;
    answers::text(&answer).map(str::to_owned).ok_or_else(|| error::malformed(&target.to_string()))
}

async fn query(target: &Target, command: &redis::Cmd) -> Result<Value> {
    let asking = async {
        let account = target.credentials(PATIENCE).await?;
        let mut connection: MultiplexedConnection = client::connect(target, account.as_ref()).await?;
        match command.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(explain(target, &mut connection, &error).await),
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err(error::no_answer(&target.to_string(), PATIENCE)))
}

/// A server that is not a node says so in a text of its own, and a sentinel does not know the command.
async fn explain(target: &Target, connection: &mut MultiplexedConnection, error: &redis::RedisError) -> BackendError {
    let is_alone = error.detail().is_some_and(|text| text.contains("cluster support disabled"));
    if is_alone || error::is_unknown_command(error) {
        requirements::lacks(target, "CLUSTER", ServerKind::Node, connection).await
    } else {
        client::explain(target, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_named_and_unnamed_hosts() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port, id| Value::Array(vec![host, Value::Int(port), text(id), Value::Array(vec![])]);
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes).collect())
        };
        let answer = Value::Array(vec![
            range(0, 99, vec![node(text("a.example"), 1, "x"), node(text(""), 2, "y")]),
            range(100, 16383, vec![node(Value::Nil, 3, "z")]),
            range(50, 50, vec![node(text("a.example"), 1, "x")]),
        ]);
        let at = |host: &str, port| Node { host: host.into(), port };
        let said = Said::read(&answer, &at("here", 9)).unwrap();
        let member = |id: &str, address| Member { id: id.into(), address };
        assert_eq!(said.masters, [member("x", at("a.example", 1)), member("z", at("here", 3))]);
        assert_eq!(said.replicas, [member("y", at("here", 2))]);
        assert_eq!(said.ranges, [(0, 99, 0), (100, 16383, 1), (50, 50, 0)]);
        assert_eq!(Said::read(&Value::Nil, &at("here", 9)), None);
        for (host, port) in [("h", 0), ("h", -1), ("h", 65536), ("", 0), ("a b", 1), ("\u{1b}[2J", 1)] {
            let answer = Value::Array(vec![range(0, 99, vec![node(text(host), port, "x")])]);
            assert_eq!(Said::read(&answer, &at("here", 9)), None, "{host}:{port}");
        }
        let many =
            |count| Value::Array((0..count).map(|port| range(0, 9, vec![node(text("h"), 1 + port, "x")])).collect());
        assert!(Said::read(&many(1000), &at("here", 9)).is_some());
        assert_eq!(Said::read(&many(1001), &at("here", 9)), None);
    }
}
