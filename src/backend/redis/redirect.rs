//! Answers of a cluster's nodes about slots that they do not serve.

use redis::RedisError;

use super::options::Node;

/// Where a node sends a request, which has had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is at this node now.
    Moved(Node),
    /// The slot is being moved to this node, and these keys are not here.
    Ask(Node),
}

impl Redirect {
    /// Reads it from the error of a node, whose own host stands for one that is not named.
    pub(super) fn read(error: &RedisError, asked: &Node) -> Option<Self> {
        let kind = match error.code()? {
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            _ => return None,
        };
        let (host, port) = error.detail()?.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        Some(kind(match host {
            "" | "?" => Node { host: asked.host.clone(), port },
            host => Node::named(host.trim_matches(['[', ']']), port)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_read_with_any_kind_of_host() {
        let asked = Node { host: "here".into(), port: 1 };
        let read = |answer: &str| {
            let value = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes());
            Redirect::read(&value.and_then(redis::Value::extract_error).unwrap_err(), &asked)
        };
        let node = |host: &str| Node { host: host.into(), port: 6381 };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some(Redirect::Moved(node("127.0.0.1"))));
        assert_eq!(read("ASK 3999 host.example:6381"), Some(Redirect::Ask(node("host.example"))));
        assert_eq!(read("MOVED 3999 ::1:6381"), Some(Redirect::Moved(node("::1"))));
        assert_eq!(read("MOVED 3999 :6381"), Some(Redirect::Moved(node("here"))));
        assert_eq!(read("MOVED 3999 ?:6381"), Some(Redirect::Moved(node("here"))));
        for other in [
            "MOVED",
            "MOVED 3999",
            "MOVED 3999 host",
            "TRYAGAIN x y:1",
            "ERR ASK 1 h:1",
            "MOVED 1 h:0",
            "MOVED 1 :0",
            "MOVED 1 h:65536",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
