//! Asks the sentinels of a master, those of the URL and those that they name.

use std::collections::{BTreeMap, HashSet};

use futures::future::join_all;

use super::super::error;
use super::super::options::{Node, Server, ServerKind, Target, Watched};
use super::super::sentinel::MOST;
use super::asking::{Asking, command};
use super::facts::Sentinel;
use crate::backend::Result;

/// Asks all of them, each once.
pub(super) async fn ask_all(watched: &Watched) -> Vec<Sentinel> {
    let mut asked: HashSet<Node> = HashSet::new();
    let mut found: Vec<Sentinel> = Vec::new();
    let mut next = watched.sentinels.clone();
    while !next.is_empty() {
        asked.extend(next.iter().cloned());
        found.extend(join_all(next.iter().map(|node| ask(watched, node))).await);
        let named: HashSet<Node> = found.iter().flat_map(|sentinel| sentinel.others.clone()).collect();
        next = named.difference(&asked).take(MOST.saturating_sub(asked.len())).cloned().collect();
        next.sort();
    }
    // One that has two names is one.
    let mut ids = HashSet::new();
    found.retain(|sentinel| sentinel.id.as_ref().is_none_or(|id| ids.insert(id.clone())));
    found
}

async fn ask(watched: &Watched, node: &Node) -> Sentinel {
    let (address, account) = (node.address(watched.tls.as_ref()), watched.account.clone());
    let target = Target::Server(Server { address, account, database: 0 });
    let mut sentinel = Sentinel { at: node.to_string(), ..Sentinel::default() };
    if let Err(error) = fill(&mut sentinel, target, &watched.master).await {
        sentinel.failure = Some(error::of_sentinel(error));
    }
    sentinel
}

async fn fill(sentinel: &mut Sentinel, target: Target, name: &str) -> Result<()> {
    type Fields = BTreeMap<String, String>;
    let mut asking = Asking::open(target).await?;
    let refused = |error: redis::RedisError| {
        let is_unknown = error.detail().is_some_and(|text| text.to_ascii_lowercase().contains("no such master"));
        if is_unknown { error::unknown_master(&sentinel.at, name) } else { error::of(&sentinel.at, &error) }
    };
    let fields = match asking.answer::<Fields>(&command(&["SENTINEL", "MASTER", name])).await? {
        Err(error) if error::is_unknown_command(&error) => {
            let info = asking.answer::<String>(&command(&["INFO", "server"])).await?.unwrap_or_default();
            return Err(error::wrong_kind(&sentinel.at, ServerKind::of(&info)));
        }
        answer => answer.map_err(refused)?,
    };
    let address = command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]);
    let (host, port) = asking.answer::<(String, u16)>(&address).await?.map_err(refused)?;
    let others = asking.answer::<Vec<Fields>>(&command(&["SENTINEL", "SENTINELS", name])).await?.map_err(refused)?;
    let node = |other: &Fields| Node::named(other.get("ip")?, other.get("port")?.parse().ok()?);
    sentinel.id = asking.answer::<String>(&command(&["SENTINEL", "MYID"])).await?.ok();
    sentinel.master = Node::named(&host, port);
    sentinel.others = others.iter().filter_map(node).take(MOST).collect();
    sentinel.fields = fields;
    Ok(())
}
