//! A master with two replicas, each in an island, and sentinels on the mainland.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use support::history::now;
use support::island::Island;
use support::redis::Redis;
use support::sentinels::Watched;

use super::clients::{Pace, name};
use super::judgement::{Fault, Kind, after};
use super::{SLACK, Servers, pause};

/// When all have heard of a new master: a sentinel is asked each second, for half a second at the longest.
const NOTICED: Duration = Duration::from_millis(1500);

pub(super) struct Sentinels {
    watched: Watched,
    islands: Vec<Island>,
    keys: Vec<String>,
}

impl Sentinels {
    pub(super) fn start() -> Self {
        // The last one is only a way for the sentinels to have an address that all islands reach.
        let islands = Island::several(4);
        let (started, host) = (Cell::new(0), islands.last().map_or(Ipv4Addr::LOCALHOST, Island::outside));
        let server = |more: &[&str]| match islands.get(started.replace(started.get() + 1)) {
            Some(island) => Redis::start_at(island.inside(), &island.within(), more),
            None => Redis::start_with(more),
        };
        let watched = Watched::start_for(server(&[]), host, server);
        let paces = [Pace::Fast, Pace::Slow, Pace::Slow];
        let of_group = |replicas| paces.into_iter().enumerate().map(move |(number, pace)| name(replicas, pace, number));
        let keys = (0..3).flat_map(of_group).collect();
        Self { watched, islands, keys }
    }

    /// Waits a while. Returns when another master was named, if one was.
    fn watch(&self, old: usize, time: Duration) -> Option<u64> {
        let (end, mut replaced) = (Instant::now() + time, None);
        while Instant::now() < end {
            replaced = replaced.or_else(|| self.watched.another(old).map(|_| now()));
            std::thread::sleep(Duration::from_millis(10));
        }
        replaced
    }
}

impl Servers for Sentinels {
    const KINDS: &'static [Kind] = &[Kind::Killed, Kind::Stopped, Kind::CutOff, Kind::Requested];

    fn url(&self) -> String {
        self.watched.url()
    }

    /// At least 1.5 × (down-after + 3 s).
    fn ttl(&self) -> Duration {
        Duration::from_secs(6)
    }

    fn keys(&self) -> &[String] {
        &self.keys
    }

    fn islands(&self) -> &[Island] {
        &self.islands
    }

    fn play(&mut self, kind: Kind, rng: &mut StdRng) -> Fault {
        let server = self.watched.master().unwrap();
        let mut fault =
            Fault { kind, server, keys: self.keys.clone(), began: now(), replaced: None, ended: 0, sound: 0 };
        match kind {
            Kind::Killed => {
                self.watched.servers[server].kill();
                self.watched.wait_for_another(server);
                fault.replaced = Some(now());
                pause(rng, 0, 2000);
                self.watched.servers[server].restart();
            }
            Kind::Stopped => {
                self.watched.servers[server].process().stop();
                fault.replaced = self.watch(server, Duration::from_millis(rng.random_range(1000..4000)));
                self.watched.servers[server].process().resume();
            }
            Kind::CutOff => {
                self.islands[server].cut(true);
                self.watched.wait_for_another(server);
                fault.replaced = Some(now());
                pause(rng, 0, 8000);
                self.islands[server].cut(false);
            }
            Kind::Requested => {
                self.watched.fail_over(&self.watched.sentinels[rng.random_range(0..3)]);
                fault.replaced = Some(now());
            }
            Kind::Moved => unreachable!("there are no slots"),
        }
        fault.ended = now();
        fault
    }

    fn is_replaced(&self, fault: &Fault) -> bool {
        self.watched.another(fault.server).is_some()
    }

    fn are_sound(&self) -> bool {
        // Neither down nor about to be replaced.
        let is_calm = |flags: String| flags == "master";
        self.watched.sentinels.iter().all(|sentinel| sentinel.field("flags").is_some_and(is_calm))
            && self.watched.is_known()
    }

    fn overlaps_end(&self, fault: &Fault, min_replicas: u32) -> Option<u64> {
        // Until all know the new master, the old one is used as well, if it can be reached.
        let noticed = after(fault.replaced?.max(fault.ended), NOTICED + SLACK);
        let may_overlap = match min_replicas {
            0 => true,
            // By the replica that follows the old master until it hears of the new one.
            1 => matches!(fault.kind, Kind::Stopped | Kind::Requested),
            _ => false,
        };
        may_overlap.then_some(noticed)
    }

    fn may_lose(&self, _: &Fault) -> bool {
        true
    }
}
