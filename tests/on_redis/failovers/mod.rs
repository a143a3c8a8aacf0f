//! Random failovers under load: servers are killed, stopped and cut off, replaced on request, and slots move. Only for `LEASEHOLD_SOAK`
//! seconds: the load would starve the tests beside it, and in less than some minutes there are too few faults to judge anything.
//!
//! Eight processes contend for each lock: some inside of the islands of the servers, so that they are cut off together with a master.
//! The locks are of several groups, whose managers require so many replicas. So the same faults are judged by several rules:
//!
//! - With all replicas there is no overlap at all, and all tokens grow, whatever happens.
//! - With half of the replicas the same applies, unless the old master answers while another one is the master already.
//! - With none each kind of fault has a time after which all overlaps are over, and before which there are none. Outside of it there
//!   is no overlap, and all tokens grow: the servers have one clock.
//!
//! After each fault each process has to get its locks again, and in the end all locks must be free.

mod clients;
mod judgement;
mod of_clusters;
mod of_sentinels;

use std::time::{Duration, Instant};

use leasehold::LockManager;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use support::history::now;
use support::island::Island;
use support::walk::walk_once;
use support::{PATIENCE, soak};

use self::clients::Clients;
use self::judgement::{Fault, Kind};

/// The tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// Servers that suffer faults.
trait Servers {
    /// The kinds of faults that they can suffer.
    const KINDS: &'static [Kind];

    fn url(&self) -> String;

    fn ttl(&self) -> Duration;

    /// The locks, by the names that [`clients`] gives them.
    fn keys(&self) -> &[String];

    /// The islands of the servers; none where this process is not permitted to create networks.
    fn islands(&self) -> &[Island];

    /// Plays a fault to its end: when this returns, the servers can recover.
    fn play(&mut self, kind: Kind, rng: &mut StdRng) -> Fault;

    /// Whether another server has replaced the one that has suffered.
    fn is_replaced(&self, fault: &Fault) -> bool;

    /// Whether all servers are as they should be.
    fn are_sound(&self) -> bool;

    /// The time until which holders may overlap due to a fault. `None` if they never may.
    fn overlaps_end(&self, fault: &Fault, min_replicas: u32) -> Option<u64>;

    /// Whether a fault may cost holds.
    fn may_lose(&self, fault: &Fault) -> bool;
}

/// A moment between these.
fn pause(rng: &mut StdRng, from: u64, to: u64) {
    std::thread::sleep(Duration::from_millis(rng.random_range(from..to)));
}

/// Waits until the servers have recovered.
fn recover(servers: &impl Servers, fault: &mut Fault) {
    let (deadline, mut sound) = (Instant::now() + 3 * PATIENCE, 0);
    // More than once: a failover may be about to begin.
    while sound < 3 {
        assert!(Instant::now() < deadline, "the servers do not recover");
        if fault.replaced.is_none() && servers.is_replaced(fault) {
            fault.replaced = Some(now());
        }
        sound = if servers.are_sound() { sound + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(100));
    }
    fault.sound = now();
}

/// Plays faults for a while, and judges what has happened.
fn run<S: Servers>(mut servers: S, time: Duration, rng: &mut StdRng) {
    let is_possible = |kind: &Kind| *kind != Kind::CutOff || !servers.islands().is_empty();
    let kinds: Vec<_> = S::KINDS.iter().copied().filter(is_possible).collect();
    let mut clients = Clients::start(&servers);
    clients.wait_for_all(now());
    let (start, mut faults, mut left) = (Instant::now(), Vec::new(), Vec::new());
    while start.elapsed() < time {
        if left.is_empty() {
            left.clone_from(&kinds);
            left.shuffle(rng);
        }
        pause(rng, 200, 2000);
        let mut fault = servers.play(left.pop().unwrap(), rng);
        recover(&servers, &mut fault);
        let again = clients.wait_for_all(fault.sound);
        println!("{:>6.1} s {fault}; all have had their turn {again:?} later", start.elapsed().as_secs_f64());
        faults.push(fault);
    }
    let records = clients.finish();
    // What nothing holds any more ends with its TTL at the latest.
    let (manager, limit) =
        (LockManager::connect(servers.url()).wait().unwrap(), Instant::now() + servers.ttl() + SLACK);
    for key in servers.keys() {
        let left = limit.saturating_duration_since(Instant::now());
        drop(manager.lock(key).timeout(left).wait().unwrap_or_else(|error| panic!("{key} is not free: {error}")));
    }
    let rules = |fault: &Fault, min_replicas| servers.overlaps_end(fault, min_replicas);
    judgement::report(&records, &faults, &rules, &|fault| servers.may_lose(fault));
}

#[test]
fn failovers_of_sentinels_let_no_two_in_beyond_the_rules() {
    let Some(time) = soak() else { return };
    walk_once(|rng| run(of_sentinels::Sentinels::start(), time, rng));
}

#[test]
fn failovers_of_clusters_let_no_two_in_beyond_the_rules() {
    let Some(time) = soak() else { return };
    walk_once(|rng| run(of_clusters::Nodes::start(), time, rng));
}
