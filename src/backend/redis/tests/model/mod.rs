//! The scripts against a plain reference: random walks of managers on a real server whose time is that of the walk.
//!
//! Calls, answers and messages are dropped, delayed and repeated; managers are stopped and killed; side keys are deleted. The scenes
//! are the interleavings that broke a simpler design, each by name.

mod manager;
mod scenes;
mod server;
mod walks;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::SeedableRng;
use rand::rngs::StdRng;

use self::manager::Careless;
use self::server::Defect;
use self::walks::{Faults, walk_once};
use self::world::World;
use super::super::script::Kind;
use super::Server as Redis;
use crate::support::walk::walk;

fn world(redis: &Redis, defect: Option<Defect>, careless: Careless) -> World {
    World::new(redis.raw.get_connection().unwrap(), defect, careless)
}

#[test]
fn the_server_reads_every_script() {
    let redis = Redis::start();
    for (signals, kind) in [false, true].into_iter().flat_map(|signals| Kind::ALL.map(|kind| (signals, kind))) {
        let script = kind.compiled(signals);
        let hash: String =
            redis::cmd("SCRIPT").arg("LOAD").arg(&script.text).query(&mut redis.raw.get_connection().unwrap()).unwrap();
        assert_eq!(hash, script.hash);
    }
}

#[test]
fn no_walk_breaks_a_rule() {
    let redis = Redis::start();
    let mut world = world(&redis, None, Careless::No);
    for (stops, damage) in [(false, false), (true, false), (true, true)] {
        walk(25, |rng| walk_once(&mut world, rng, Faults { stops, damage }));
    }
}

/// Whether the first walks find a fault. They are the same in every run.
fn is_found(world: &mut World) -> bool {
    (0..200).any(|seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let faults = Faults { stops: seed % 3 > 0, damage: seed % 3 > 1 };
        catch_unwind(AssertUnwindSafe(|| walk_once(world, &mut rng, faults))).is_err()
    })
}

#[test]
fn a_fault_in_a_script_is_found() {
    let redis = Redis::start();
    let planted = |kind, text, instead| Defect { kind, text, instead };
    for defect in [
        // Copies of requests that were given up take effect.
        planted(Kind::Release, "if tombstone > 0 then bury(id, tombstone) end", ""),
        // The lock is read once a call.
        planted(Kind::Acquire, ", 'PX', ttl, 'NX')", ", 'PX', ttl)"),
        // The epoch of a call for one lock is not later than the last.
        planted(Kind::Acquire, "and tonumber(known) < tonumber(epoch)", ""),
        // Epochs are not stored.
        planted(Kind::Acquire, "call('SET', KEYS[1], epoch)", ""),
        // The queue does not count.
        planted(
            Kind::Acquire,
            "call('EXISTS', lock, KEYS[queues + part]) == 0\n    then",
            "call('EXISTS', lock) == 0\n    then",
        ),
        // A call for one lock does not count the queue, or the tombstones, or releases what another one holds.
        planted(Kind::Acquire, "'EXISTS', KEYS[3], KEYS[4], KEYS[5]", "'EXISTS', KEYS[3], KEYS[5]"),
        planted(Kind::Acquire, "'EXISTS', KEYS[3], KEYS[4], KEYS[5]", "'EXISTS', KEYS[4], KEYS[5]"),
        planted(Kind::Release, " and redis.pcall('GETRANGE', KEYS[5], '0', '36') == ARGV[4]:sub(3, 39)", ""),
        // Several calls: the tombstones of all claims are not read.
        planted(Kind::Acquire, "buried = found > 0 and call('EXISTS', KEYS[3]) == 1", "buried = false"),
        planted(Kind::Acquire, "and (not buried or tombstones[part] == false)", ""),
        // A hold that ended, or was evicted, returns by a renewal.
        planted(Kind::Renew, "if not ends or tonumber(ends) <= now then return '0' end", ""),
        // Ears are not notified: of a hold that is released alone, of a release by a call for several, of a new waiter.
        planted(Kind::Release, "redis.call('EXISTS', KEYS[4])", "0"),
        planted(Kind::Release, "(count == 1 or call('EXISTS', queue) == 1)", "count == 1"),
        planted(Kind::Acquire, "or newest[1] and is_ear(newest[1])", ""),
        // An ear is taken for a waiter, or for one that is dead.
        planted(Kind::Acquire, "lock.has_ears = first[1] ~= nil and is_ear(first[1])", "lock.has_ears = false"),
        planted(Kind::Release, "lock.has_ears = first[1] ~= nil and is_ear(first[1])", "lock.has_ears = false"),
        planted(Kind::Acquire, "if lock.joined then ring(lock, 'w:') end", ""),
        planted(Kind::Release, "if lock.changed then ring(lock, 'o:') end", ""),
        // A slot is given whatever the limit, or by that of the lock instead of the claim's.
        planted(Kind::Acquire, "return mode ~= 'l' or count(lock) < limit", "return true"),
        planted(Kind::Release, "return mode ~= 'l' or count(lock) < limit", "return mode ~= 'l' or count(lock) < 3"),
        // A reader that has released stays.
        planted(Kind::Release, "      call('ZREM', lock.readers, claim)", ""),
    ] {
        assert!(is_found(&mut world(&redis, Some(defect), Careless::No)), "{defect:?}");
    }
}

#[test]
fn a_fault_in_a_manager_is_found() {
    let redis = Redis::start();
    for careless in [Careless::DatesByReceipt, Careless::WithoutTombstone, Careless::NeverLooks] {
        assert!(is_found(&mut world(&redis, None, careless)), "{careless:?}");
    }
}
