//! Random steps of a world.

use rand::RngExt;
use rand::rngs::StdRng;
use redis::Value;

use super::super::super::script::Kind;
use super::manager::{Id, Manager, SECOND, Stage};
use super::server::{keys_of, lives, lock, side};
use super::world::{KEYS, World};

const MANAGERS: usize = 4;
const TTLS: [u64; 3] = [1, 4, 10];

/// What may go wrong in a walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) stops: bool,
    pub(super) damage: bool,
}

/// One walk.
pub(super) fn walk_once(world: &mut World, rng: &mut StdRng, faults: Faults) {
    world.restart();
    for _ in 0..MANAGERS {
        world.managers.push(Manager::new(rng.random(), world.careless));
    }
    for _ in 0..rng.random_range(50..800) {
        random_step(world, rng, faults);
        world.check_beliefs();
    }
    drain(world);
}

fn random_step(world: &mut World, rng: &mut StdRng, faults: Faults) {
    let number = rng.random_range(0..MANAGERS);
    let running = world.is_running(number);
    match rng.random_range(0..101) {
        0..12 if running => {
            let (key, id) = (rng.random_range(0..KEYS), rng.random());
            if rng.random_range(0..4) == 0 || !world.managers[number].waiting_for(key) {
                let mode = ['x', 'x', 's', 'l'][rng.random_range(0..4)];
                let ttl = TTLS[rng.random_range(0..TTLS.len())] * SECOND;
                let wait = rng.random_range(0..5) > 0;
                let limit = rng.random_range(1..4);
                world.managers[number].acquire(id, key, (mode, limit), ttl, wait);
            }
        }
        12..19 if running => {
            let ids: Vec<Id> = world.managers[number]
                .attempts
                .iter()
                .filter(|(_, a)| a.stage != Stage::Ended)
                .map(|(id, _)| *id)
                .collect();
            if !ids.is_empty() {
                let id = ids[rng.random_range(0..ids.len())];
                // Waiters are given up less often.
                if world.managers[number].attempts[&id].stage == Stage::Held || rng.random_range(0..4) == 0 {
                    world.note(|| format!("gives up {id:x}"));
                    world.managers[number].release(id);
                }
            }
        }
        19..40 if running => world.step(number),
        40..60 => world.serve(number),
        60..79 if running => world.receive(number),
        79..87 if !world.messages.is_empty() => {
            let message = rng.random_range(0..world.messages.len());
            match rng.random_range(0..8) {
                0 => drop(world.messages.remove(message)),
                1 => world.messages.push(world.messages[message].clone()),
                _ => world.deliver(message),
            }
        }
        87..89 if running => {
            world.note(|| format!("{number} disconnects"));
            world.disconnect(number);
        }
        89..91 if !world.ghosts.is_empty() => {
            let (call, manager) = world.ghosts.swap_remove(rng.random_range(0..world.ghosts.len()));
            if call.sent + 50 * SECOND > world.now {
                world.note(|| "a copy".into());
                world.perform(manager, &call);
            }
        }
        91..95 => {
            let times = [10_000, 100_000, 500_000, 950_000];
            world.pass(times[rng.random_range(0..times.len())]);
        }
        95 if faults.stops => {
            let time = [1, 3, 12][rng.random_range(0..3)] * SECOND;
            world.note(|| format!("{number} stops for {time}"));
            world.managers[number].stopped_until = world.now + time;
        }
        96 if faults.stops => {
            let time = [SECOND, 3 * SECOND, 12 * SECOND][rng.random_range(0..3)];
            world.note(|| format!("all stand for {time}"));
            world.pass(time);
        }
        97 if faults.stops => {
            world.note(|| format!("{number} is killed"));
            world.kill(number, rng.random());
        }
        98 if faults.damage => damage(world, rng),
        99 => evict(world, rng.random_range(0..KEYS)),
        100.. => {
            let ear = rng.random();
            world.listen(rng.random_range(0..KEYS), ear);
        }
        _ => {}
    }
}

fn damage(world: &mut World, rng: &mut StdRng) {
    let key = rng.random_range(0..KEYS);
    let (what, name) = match rng.random_range(0..5) {
        3 => {
            world.forfeit(key);
            ("the value", lock(key))
        }
        0 => ("q2", side("q2", key)),
        1 => ("r2", side("r2", key)),
        2 => ("lives", lives()),
        _ => {
            if let Some(()) = foreign_lock(world, key) {
                world.note(|| format!("another client locks k{key}"));
            }
            return;
        }
    };
    world.note(|| format!("{what} of k{key} is deleted"));
    world.server.command(&["DEL", &name]);
}

fn foreign_lock(world: &mut World, key: usize) -> Option<()> {
    let done = world.server.command(&["SET", &lock(key), "5f0c6a2e8d", "PX", "3000", "NX"]);
    (done != Value::Nil).then(|| world.foreign[key] = world.now + 3 * SECOND)
}

fn evict(world: &mut World, key: usize) {
    world.forfeit(key);
    let answers = world.server.run(Kind::Evict, &keys_of(1, [key].into_iter()), &["lock:%wake:".into(), String::new()]);
    world.note(|| format!("k{key} evicted: {answers:?}"));
    let messages = world.server.messages();
    let given = messages.iter().filter(|(_, text)| text.starts_with('g'));
    world.slots.extend(given.map(|(_, text)| (key, text[17..].parse::<u64>().unwrap())));
    world.messages.extend(messages);
}

/// Without further faults, all waiters get their locks in turn.
pub(super) fn drain(world: &mut World) {
    world.note(|| "no more faults".into());
    let waiters = world.managers.iter().map(|manager| manager.attempts.len()).sum::<usize>() as u64;
    let limit = world.now + 40 * SECOND + waiters * 4 * SECOND;
    while world.managers.iter().any(|manager| !manager.attempts.is_empty()) {
        for number in 0..MANAGERS {
            if !world.is_running(number) {
                continue;
            }
            for _ in 0..8 {
                world.step(number);
                world.serve(number);
                world.receive(number);
            }
            let held: Vec<Id> = world.managers[number]
                .attempts
                .iter()
                .filter(|(_, a)| a.stage == Stage::Held)
                .map(|(id, _)| *id)
                .collect();
            held.into_iter().for_each(|id| world.managers[number].release(id));
        }
        for _ in 0..world.messages.len() {
            world.deliver(0);
        }
        world.check_beliefs();
        world.pass(200_000);
        if world.now > limit {
            let left: Vec<_> = world.managers.iter().flat_map(|manager| manager.attempts.values()).collect();
            world.fail(&format!("these wait for ever: {left:#?}"));
        }
    }
    while let Some((call, manager)) = world.ghosts.pop() {
        if call.sent + 50 * SECOND > world.now {
            world.note(|| "a copy".into());
            world.perform(manager, &call);
        }
    }
    world.pass(3 * SECOND);
    for key in 0..KEYS {
        let state = world.state(key);
        let left = state.value.as_deref().filter(|_| world.foreign[key] <= world.now);
        // A hold of a manager that was killed has its whole TTL.
        if let Some(value) = left
            && world.managers.iter().any(|manager| value.starts_with(&format!("{:016x}", manager.id)))
        {
            world.fail(&format!("k{key} is left held: {value}"));
        }
    }
}
