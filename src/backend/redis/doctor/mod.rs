//! The examination of the servers of a target, for `leasehold doctor`: what they say is gathered, and then judged.
//!
//! It has connections of its own, so that a server which a manager would refuse can be examined.

mod asking;
mod facts;
mod gather;
mod judge;
mod rights;
mod sentinels;
#[cfg(test)]
mod tests;
mod together;

use std::time::Duration;

use futures::future::join_all;

use self::facts::{Role, Sentinel, Server, Slots};
use self::gather::Place;
use self::judge::Purpose;
use self::rights::Wanted;
use super::cluster::{Member, Said, ask};
use super::names::Names;
use super::options::Server as Named;
use super::options::{Address, Node, Options, Target, Watched};
use crate::backend::Account;
use crate::backend::examination::{Examined, judge_failure};
use crate::finding::Findings;

/// Where findings about several servers are.
const ALL: &str = "redis";

/// How many replicas are examined at the most.
const MOST_REPLICAS: usize = 64;

/// Examines the servers of a target; `ttl` is that of the locks.
pub(crate) async fn examine(options: Options, ttl: Duration) -> Examined {
    let Target::Server(server) = &options.target else { return Examined::default() };
    let examination = Examination {
        names: Names::new(options.prefix.clone()),
        wanted: Wanted { replicas: options.min_replicas > 0, signal_lists: options.signal_lists, ..Wanted::default() },
        purpose: Purpose {
            ttl,
            min_replicas: options.min_replicas.into(),
            fails_over: matches!(server.address, Address::Watched(_) | Address::Cluster { .. }),
            has_account: server.account != Account::Anonymous,
        },
        server,
    };
    match &server.address {
        Address::Watched(watched) => examination.watched(watched).await,
        Address::Cluster { nodes, .. } => examination.cluster(nodes).await,
        Address::Tcp { .. } | Address::Unix(_) => examination.alone().await,
    }
}

struct Examination<'a> {
    names: Names,
    wanted: Wanted,
    purpose: Purpose,
    server: &'a Named,
}

impl Examination<'_> {
    async fn alone(&self) -> Examined {
        let place = Place {
            target: Target::Server(self.server.clone()),
            role: Role::Master,
            wanted: self.wanted,
            slots: Vec::new(),
        };
        let servers = [gather::ask(place, &self.names).await];
        let mut examined = Examined::default();
        self.judge(&servers, &mut examined);
        examined
    }

    async fn watched(&self, watched: &Watched) -> Examined {
        let sentinels = sentinels::ask_all(watched).await;
        let mut examined = Examined::default();
        for sentinel in &sentinels {
            let mut findings = Findings::of(format!("sentinel {}", sentinel.at));
            together::sentinel(sentinel, &mut findings);
            examined.findings.extend(findings.into_list());
        }
        let mut all = Findings::of(ALL);
        together::sentinels(&sentinels, &mut all);
        let servers = match master(&sentinels) {
            Some(master) => self.master_and_replicas(master).await,
            None => Vec::new(),
        };
        together::clocks(&servers, &mut all);
        self.judge(&servers, &mut examined);
        examined.findings.extend(all.into_list());
        examined.demands.extend(together::demand_of_sentinels(&sentinels));
        examined
    }

    async fn master_and_replicas(&self, master: &Node) -> Vec<Server> {
        let wanted = Wanted { is_elected: true, ..self.wanted };
        let place = |node: &Node, role| Place { target: self.at(node), role, wanted, slots: Vec::new() };
        let first = gather::ask(place(master, Role::Master), &self.names).await;
        let replicas: Vec<_> = first.replicas().into_iter().filter_map(|(node, _)| node).take(MOST_REPLICAS).collect();
        let asking = replicas.iter().map(|node| gather::ask(place(node, Role::Replica), &self.names));
        std::iter::once(first).chain(join_all(asking).await).collect()
    }

    async fn cluster(&self, nodes: &[Node]) -> Examined {
        let (mut examined, mut all) = (Examined::default(), Findings::of(ALL));
        let said = match ask(self.server.clone(), nodes.to_vec()).await {
            Ok(said) => said,
            Err(error) => {
                judge_failure(&error, &mut all);
                examined.findings = all.into_list();
                return examined;
            }
        };
        let wanted = Wanted { is_node: true, ..self.wanted };
        let ranges = |place: usize| {
            said.ranges.iter().filter(move |(.., at)| *at == place).map(|(first, last, _)| *first..=*last)
        };
        let masters =
            said.masters.iter().enumerate().map(|(place, member)| (member, Role::Master, ranges(place).collect()));
        let mut replicas: Vec<&Member> = Vec::new();
        for replica in &said.replicas {
            if !replicas.contains(&replica) && replicas.len() < MOST_REPLICAS {
                replicas.push(replica);
            }
        }
        let replicas = replicas.into_iter().map(|member| (member, Role::Replica, Vec::new()));
        let asking = masters.chain(replicas).map(|(member, role, slots)| {
            let place = Place { target: self.at(&member.address), role, wanted, slots };
            gather::ask(place, &self.names)
        });
        let servers = join_all(asking).await;
        together::slots(&slots(&said), &servers, &mut all);
        together::clocks(&servers, &mut all);
        self.judge(&servers, &mut examined);
        examined.findings.extend(all.into_list());
        examined.demands.push(together::demand_of_cluster(&servers));
        examined
    }

    /// The target of one of the servers.
    fn at(&self, node: &Node) -> Target {
        Target::Server(Named { address: node.address(self.server.address.tls()), ..self.server.clone() })
    }

    fn judge(&self, servers: &[Server], examined: &mut Examined) {
        for server in servers {
            let mut findings = Findings::of(server.at.clone());
            judge::server(server, self.purpose, &mut findings);
            together::clock(server, &mut findings);
            examined.findings.extend(findings.into_list());
        }
        examined.is_reachable = servers.iter().any(|server| server.role == Role::Master && !server.tried.is_empty());
        examined.demands.extend(together::demands_of_round_trips(servers));
    }
}

/// The master that the latest epoch has.
fn master(sentinels: &[Sentinel]) -> Option<&Node> {
    let latest = sentinels.iter().filter(|sentinel| sentinel.master.is_some());
    latest.max_by_key(|sentinel| sentinel.number("config-epoch"))?.master.as_ref()
}

fn slots(said: &Said) -> Slots {
    let served = said.ranges.iter().map(|(first, last, _)| usize::from(last.saturating_sub(*first)) + 1).sum();
    Slots { masters: said.masters.len(), served }
}
